"""The folder of heads that the stage ``clip_fit`` writes for a method, which is read whole or not at all."""

from __future__ import annotations

from pathlib import Path

from logitfusion.artefact import parse_artefact, read_artefact
from logitfusion.config.jobs.clip import FitJob
from logitfusion.errors import UserError

RECORD = "stage.json"


def head_file(folder: Path, shots: int, seed: int) -> Path:
    """Where a head is."""
    return folder / f"{shots}-{seed}.safetensors"


def list_heads(folder: Path) -> list[Path]:
    """The heads of a method: one for each number of shots and each seed that it was fitted with.

    Raises:
        UserError: the record of the folder is damaged, or one of the heads is gone.
    """
    record, mend = folder / RECORD, f"delete the folder {folder} and run again"
    job: FitJob = parse_artefact(record, FitJob, read_artefact(record, mend=mend)["config"])
    heads = sorted(head_file(folder, shots, seed) for shots in job.shots for seed in job.seeds)
    for head in heads:
        if not head.is_file():
            raise UserError(f"The head {head} is gone; {mend}.")
    return heads
