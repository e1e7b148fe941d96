"""Checkpoints that resume: the newest whole one of the same training, in as many processes or, where that is the same,
in another number of them."""

from __future__ import annotations

import logging
import zlib
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from safetensors import SafetensorError, safe_open

from logitfusion.artefact import read_artefact, write_artefact
from logitfusion.errors import UserError
from logitfusion.files import read_json, remove
from logitfusion.integrity import RECORD, as_rows, check_files, record_files

logger = logging.getLogger(__name__)

_MARK = "fingerprint.json"
_PARTED = ("pytorch_model_fsdp", "optimizer_")  # accelerate's folders, for model and optimizer


@dataclass(frozen=True)
class Mark:
    """What is noted of the training that a folder's checkpoints are of.

    Attributes:
        fingerprint: of all that decides its outcome.
        processes: how many train together.
        sharded: whether each has a part of the model.
        random: whether its steps draw random numbers (dropout, for one): other ones in another number of processes.
    """

    fingerprint: str
    processes: int = 1
    sharded: bool = False
    random: bool = False


def mark_checkpoints(folder: Path, mark: Mark) -> None:
    """Note which training the folder's checkpoints are of; that it draws random numbers is not forgotten."""
    known = _read_mark(folder)
    same = known is not None and known.fingerprint == mark.fingerprint
    write_artefact(folder / _MARK, asdict(replace(mark, random=mark.random or (same and known.random))))


def _read_mark(folder: Path) -> Mark | None:
    path = folder / _MARK
    if not path.exists():
        return None
    try:
        return read_artefact(path, Mark)
    except UserError as error:
        logger.warning("The checkpoints in %s are of an unknown training and are left out (%s).", folder, error)
        return None


def find_checkpoint(folder: Path, mark: Mark) -> Path | None:
    """The newest whole checkpoint, if the folder belongs to this very training; else the folder is emptied.

    Raises:
        UserError: it is of the same training, which would go on otherwise in this number of processes.
    """
    known = _read_mark(folder)
    if known is None or known.fingerprint != mark.fingerprint:
        remove(folder)
        folder.mkdir(parents=True)
        return None
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    for checkpoint in sorted(numbered, key=lambda path: -int(path.name.split("-")[1])):
        if _is_whole(checkpoint, known):
            _refuse_other_processes(folder, known, mark)
            return checkpoint
        remove(checkpoint)
    return None


def refuse_other_training(folder: Path, fingerprint: str) -> None:
    """Leave the checkpoints of another training alone.

    Raises:
        UserError: the folder holds some, or something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and the checkpoints of the training go there; move it away.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    known = _read_mark(folder)
    if known is None or known.fingerprint != fingerprint:
        raise UserError(
            f"{folder} holds the checkpoints of a training on other texts, models or options: give those again to go on"
            " with it, or delete the folder to begin anew."
        )


def _refuse_other_processes(folder: Path, known: Mark, mark: Mark) -> None:
    mend = f"or delete {folder} to begin anew"
    if known.sharded != mark.sharded:
        began, now = ("with", "without") if known.sharded else ("without", "with")
        raise UserError(
            f"The training in {folder} began {began} sharded and can't go on {now} it; set sharded:"
            f" {str(known.sharded).lower()} again, {mend}."
        )
    if known.random and known.processes != mark.processes:
        raise UserError(
            f"The training in {folder} began in {known.processes} processes, which draw random numbers (dropout, say),"
            f" and would go on otherwise in {mark.processes}; set processes: {known.processes} again, {mend}."
        )


def forget_unbegun(folder: Path) -> None:
    """Remove a mark without a checkpoint: there is nothing to go on from, and another training may begin."""
    if [path.name for path in folder.glob("*")] == [_MARK]:
        remove(folder)


def record_checkpoint(checkpoint: Path) -> None:
    """Note the digests of a checkpoint's files; other processes' random numbers and the parts of a parted model, which
    are zips and have a sum of their own, aside."""
    names = [path.name for path in checkpoint.iterdir() if path.is_file() and not path.match("rng_state_*")]
    tables = [str(path.relative_to(checkpoint)) for path in checkpoint.glob("*/.metadata")]
    write_artefact(checkpoint / RECORD, {"files": as_rows(record_files(checkpoint, [*names, *tables]))})


def _is_whole(checkpoint: Path, mark: Mark) -> bool:
    """Whether a checkpoint was completed (the Trainer writes its state last) and each of its files is as it was.

    A power cut can take the end of files that were written before the state, and a job can be killed before the record
    is there. The first process writes the state, and the others write their random numbers, perhaps later.
    """
    try:
        recorded = check_files(checkpoint)
        read_json(checkpoint / "trainer_state.json")
        for path in checkpoint.glob("*.safetensors"):
            with safe_open(path, framework="pt"):
                pass  # compares the file's length with its header
        parted = [path for path in checkpoint.iterdir() if path.name.startswith(_PARTED)]
        needed = mark.random and mark.processes > 1
        drawn = [checkpoint / f"rng_state_{process}.pth" for process in range(mark.processes)] if needed else []
        unsure = [path for path in {*checkpoint.glob("*.pt*"), *drawn} if path.name not in recorded]
        return all(_is_zip(path.read_bytes()) for path in unsure) and all(map(_has_all_parts, parted))
    except (UserError, OSError, ValueError, SafetensorError) as error:
        logger.warning("%s is left out (%s).", checkpoint, str(error).rstrip("."))
        return False


def _has_all_parts(folder: Path) -> bool:
    """Whether every tensor of a folder of torch.distributed.checkpoint is where its table says (a zip each)."""
    from torch.distributed.checkpoint import FileSystemReader

    try:
        places = list(FileSystemReader(folder).read_metadata().storage_data.values())
    except Exception:  # a table that is cut raises whatever its bytes happen to mean
        return False
    return all(_is_zip(_read(folder / place.relative_path, place.offset, place.length)) for place in places)


def _read(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _is_zip(content: bytes) -> bool:
    """Whether bytes are a whole zip whose members have their sums; torch itself does not look at these."""
    try:
        with ZipFile(BytesIO(content)) as archive:
            return archive.testzip() is None
    except (BadZipFile, OSError, ValueError, EOFError, zlib.error):
        return False
