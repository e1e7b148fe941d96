"""Checkpoints that resume: the newest whole one of the same training."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open

from logitfusion.files import remove, write_json


def mark_checkpoints(folder: Path, fingerprint: str) -> None:
    """Note which training the folder's checkpoints are of."""
    write_json(folder / "fingerprint.json", {"fingerprint": fingerprint})


def find_checkpoint(folder: Path, fingerprint: str) -> Path | None:
    """The newest whole checkpoint, if the folder belongs to this very training; else the folder is emptied."""
    try:
        known = json.loads((folder / "fingerprint.json").read_text())["fingerprint"]
    except (OSError, ValueError, KeyError):
        known = None
    if known != fingerprint:
        remove(folder)
        folder.mkdir(parents=True)
        return None
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    for checkpoint in sorted(numbered, key=lambda path: -int(path.name.split("-")[1])):
        if _is_whole(checkpoint):
            return checkpoint
        remove(checkpoint)
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was completed (the Trainer writes its state last) and has all of its files' bytes.

    A power cut can take the end of files that were written before the state.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
        for path in checkpoint.glob("*.safetensors"):
            with safe_open(path, framework="pt"):
                pass  # compares the file's length with its header
        return all(is_zipfile(path) for path in checkpoint.glob("*.pt*"))
    except (OSError, ValueError, SafetensorError):
        return False
