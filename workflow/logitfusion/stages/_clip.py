"""What the stages of the few-shot track share: the encoders, and the entry in an encoder's folder that opens it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from logitfusion.clip.encoders.load import ENTRY, ClipEncoder, ImageEncoder, load_auxiliary, load_clip
from logitfusion.config.encoders import PackageAuxiliary
from logitfusion.config.section import Section
from logitfusion.files import read_json, write_json


def write_entry(folder: Path, entry: dict[str, Any]) -> None:
    """Keep in an encoder's folder how ``load_clip`` opens it; no path for what is in the folder itself."""
    write_json(folder / ENTRY, entry)


def open_clip_folder(folder: Path) -> ClipEncoder:
    """The CLIP of an encoder's folder."""
    return load_clip({"path": folder, **read_json(folder / ENTRY)})


def open_auxiliaries(entries: dict[str, Section], wheels: Sequence[Path]) -> dict[str, ImageEncoder]:
    """Name -> auxiliary encoder, in the order of names; wheels are those of the packaged ones in that order."""
    left, opened = list(wheels), {}
    for name, entry in sorted(entries.items()):
        torch.manual_seed(0)  # for the random weights of tests
        wheel = left.pop(0) if isinstance(entry, PackageAuxiliary) else None
        opened[name] = load_auxiliary(entry.dump(), wheel=wheel)
    return opened
