"""What made an output: the record beside it, the hash of what decided it, and the commit of the code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from logitfusion.artefact import write_artefact
from logitfusion.integrity import digest

RECORDED = ("logitfusion", "torch", "transformers", "peft", "datasets", "reasoning-gym")


def record(path: str | Path, config: dict[str, Any], **facts: Any) -> None:
    """Write the resolved config, the versions and what the stage found out, beside its output."""
    write_artefact(path, {"config": config, "versions": find_versions(), **facts})


def find_versions(*others: str) -> dict[str, str]:
    """The versions of Python, and of the packages that decide results and are there, ``others`` among them."""
    versions = {"python": platform.python_version()}
    for package in (*RECORDED, *others):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hash_text(text: str) -> str:
    """The SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_json(value: Any) -> str:
    """The SHA-256 of a value as JSON with sorted keys, in hex."""
    return hash_text(json.dumps(value, sort_keys=True))


def fingerprint(config: dict[str, Any], inputs: Sequence[Path]) -> str:
    """A hash of all that decides a training's outcome: its config and the bytes of its inputs.

    Those of a model's folder are taken from its record where that names them; they are read once a run to check it.
    """
    files = [file for path in inputs for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]
    return hash_json([config, *map(digest, files)])


def find_commit(folder: Path = Path(__file__).parent) -> str:
    """The commit of the checkout that holds ``folder``, by default this package's own, with a ``+`` if files differ.

    ``unknown`` without git, outside a checkout, and where the checkout is another project's, which holds but does not
    track the folder (an environment in somebody's repository).
    """
    try:
        _git(folder, "ls-files", "--error-unmatch", "--", ".")
        return _git(folder, "describe", "--always", "--dirty=+")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def is_committed(path: Path) -> bool | None:
    """Whether a file is in the last commit of its checkout as it stands; None without git, and outside a checkout.

    Of a link it is the file that it leads to.
    """
    path = path.resolve()
    try:
        _git(path.parent, "rev-parse", "--show-toplevel")
    except (OSError, subprocess.CalledProcessError):
        return None
    try:
        _git(path.parent, "ls-files", "--error-unmatch", "--", path.name)
        _git(path.parent, "diff", "--quiet", "HEAD", "--", path.name)
    except subprocess.CalledProcessError:
        return False
    return True


def _git(folder: Path, *arguments: str) -> str:
    """What git says of a folder."""
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set by hooks, and stronger than -C
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    command = ["git", "--literal-pathspecs", "-C", str(folder), *arguments]  # a name may look like a pattern
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
