"""What the stages of the few-shot track share: the encoders, and the entry in an encoder's folder that opens it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from logitfusion.artefact import read_artefact, write_artefact
from logitfusion.clip.encoders.entries import ENTRY
from logitfusion.clip.encoders.load import ClipEncoder, ImageEncoder, load_auxiliary, load_clip
from logitfusion.config.encoders import PackageAuxiliary
from logitfusion.config.section import Section


def write_entry(folder: Path, entry: dict[str, Any]) -> None:
    """Keep in an encoder's folder how ``load_clip`` opens it; no path for what is in the folder itself."""
    write_artefact(folder / ENTRY, entry)


def open_clip_folder(folder: Path) -> ClipEncoder:
    """The CLIP of an encoder's folder."""
    return load_clip({"path": folder, **read_artefact(folder / ENTRY)})


def at_commit(entry: Section, record: Path) -> Section:
    """An encoder's entry at the commit that its weights were fetched at, which needs no network."""
    commit = read_artefact(record)["downloads"][0]["commit"]
    return entry.model_copy(update={"revision": commit}) if commit else entry


def open_auxiliaries(
    entries: dict[str, Section], wheels: Sequence[Path], fetched: Sequence[Path] = ()
) -> dict[str, ImageEncoder]:
    """Name -> auxiliary encoder, in the order of names.

    Args:
        wheels: those of the packaged ones, in that order.
        fetched: the records of those whose weights were fetched; each is called like its encoder.
    """
    left, opened = list(wheels), {}
    records = {path.stem: path for path in fetched}
    for name, entry in sorted(entries.items()):
        torch.manual_seed(0)  # for the random weights of tests
        wheel = left.pop(0) if isinstance(entry, PackageAuxiliary) else None
        entry = at_commit(entry, records[name]) if name in records else entry
        opened[name] = load_auxiliary(entry.dump(), wheel=wheel)
    return opened
