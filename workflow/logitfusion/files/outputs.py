"""Outputs that a command line names, checked before the work for them: writable, apart, and nothing that is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from logitfusion.errors import UserError
from logitfusion.files.disk import describe
from logitfusion.files.partials import hold_partial
from logitfusion.files.places import as_word, find_place

Inputs = Mapping[str, str | Path | Sequence[str | Path] | None]


def check_outputs(
    outputs: Mapping[str, Path | None], inputs: Inputs | None = None, *, folders: Collection[str] = ()
) -> None:
    """Refuse outputs that can't be written, that are each other, or that are or lie in an input.

    Args:
        outputs: where to write, by option; None where the option is not given.
        inputs: files and folders that are read, by option.
        folders: options of outputs that are folders.

    Raises:
        UserError: names the option and what to do.
    """
    given = {option: path for option, path in outputs.items() if path is not None}
    for option, path in given.items():
        _check_kind(option, path, folder=option in folders)
    for (option, path), (other, place) in combinations(given.items(), 2):
        if path.resolve() == place.resolve() and not path.is_char_device():  # one terminal shows both, one by one
            raise UserError(f"{as_word(path)} is named by {option} and by {other}; name another one for each.")
    for option, path in given.items():
        for source, read in (inputs or {}).items():
            for one in () if read is None else (read,) if isinstance(read, str | Path) else read:
                _refuse_input(option, path, source, Path(one))
    for option, path in given.items():
        _try(option, path, folder=option in folders)


def _check_kind(option: str, path: Path, *, folder: bool) -> None:
    """Refuse what is there, if it is of another kind than what is to be written."""
    word = as_word(path)
    if word == "-":  # which is the standard input where something is read
        raise UserError(f"- is no name of the standard output here; give {option} /dev/stdout, or another place.")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if folder and path.is_symlink():
            raise UserError(f"{word} is a link to nothing; name another folder with {option}.") from None
        return
    except NotADirectoryError:
        there = next(one for one in path.parents if one.exists())
        raise UserError(f"{as_word(there)} is a file, not a folder; name another place with {option}.") from None
    except (OSError, ValueError) as error:
        raise _unwritable(option, path, error) from None
    if folder and not stat.S_ISDIR(mode):
        raise UserError(f"{word} is a file, not a folder; name another place with {option}.")
    if not folder and stat.S_ISDIR(mode):
        raise UserError(f"{word} is a folder; name a file to write with {option}.")
    if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        kind = "a socket" if stat.S_ISSOCK(mode) else "a disk"
        raise UserError(f"{word} is {kind}, which no file is written into; name another one with {option}.")
    if not os.access(path, os.W_OK):
        raise UserError(f"{word} may not be written; name another place with {option}, or allow it.")


def _refuse_input(option: str, path: Path, source: str, read: Path) -> None:
    """Refuse to write over what is read, or into a folder that is read."""
    try:
        same = path.exists() and path.samefile(read) and not read.is_char_device()
        inside = read.is_dir() and read.resolve() in path.resolve().parents
    except (OSError, ValueError):  # what can't be looked at is not read either
        return
    if same:
        raise UserError(
            f"{as_word(path)} is what {source} reads, and would be overwritten; name another one with {option}."
        )
    if inside:
        raise UserError(
            f"{as_word(path)} lies in {as_word(read)}, which {source} reads; name another place with {option}."
        )


def _try(option: str, path: Path, *, folder: bool) -> None:
    """Make what is to be written, empty and beside its place: the system itself says whether that works."""
    try:
        place = find_place(path)
        if place.stream:
            return
        there = next(one for one in (place.path, *place.path.parents) if one.is_dir())
        with hold_partial(there) as partial:
            trial = partial / place.path.relative_to(there)
            (trial if folder else trial.parent).mkdir(parents=True, exist_ok=True)
            if not folder:
                trial.touch()
    except (OSError, ValueError) as error:
        raise _unwritable(option, path, error) from None


def _unwritable(option: str, path: Path, error: OSError | ValueError) -> UserError:
    words = describe(error) if isinstance(error, OSError) else str(error)
    return UserError(f"{as_word(path)} can't be written ({words}); name another place with {option}.")
