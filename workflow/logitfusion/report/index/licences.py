"""Licences of models, as far as their own files state them."""

from __future__ import annotations

import email.parser
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from logitfusion.config.packages import Package

UNSTATED = "not stated"


def licence_of_packages(parts: Sequence[Package], files: Sequence[Path]) -> str:
    """What the metadata of wheels say, of the first that says anything."""
    stems = {f"{part.package.replace('==', '-')}-{part.sha256[:8]}" for part in parts}
    for path in files:
        if path.stem in stems and path.suffix == ".whl" and path.exists():
            found = _read_wheel(path)
            if found:
                return f"{found} (its package)"
    return UNSTATED


def licence_of_folder(folder: Path) -> str:
    """What the model card in a folder says in its front matter."""
    card = folder / "README.md"
    if not card.is_file():
        return UNSTATED
    found = re.search(r"^license:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace")[:4000], re.MULTILINE)
    return f"{found[1]} (its model card)" if found else UNSTATED


def _read_wheel(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as wheel:
            name = next(one for one in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", one))
            metadata = email.parser.Parser().parsestr(wheel.read(name).decode("utf-8", "replace"), headersonly=True)
    except (OSError, zipfile.BadZipFile, StopIteration):
        return ""
    stated = metadata.get("License-Expression") or metadata.get("License") or ""
    stated = stated.strip().splitlines()[0].strip() if stated.strip() else ""
    if stated and stated.upper() != "UNKNOWN" and len(stated) < 80:
        return stated
    classifiers = [
        line.rpartition("::")[2].strip() for line in metadata.get_all("Classifier", []) if "License ::" in line
    ]
    return ", ".join(classifiers)
