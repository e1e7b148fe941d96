"""Files that are whole or absent: everything is written beside its place and renamed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError
from logitfusion.files.disk import describe, find_disk_error
from logitfusion.files.partials import hold_partial
from logitfusion.files.places import Place, as_word, find_place, open_stream
from logitfusion.formats.json import format_json


@contextmanager
def whole(target: str | Path, *, replace_link: bool = False) -> Iterator[Path]:
    """Yield a temporary path of the same name; it becomes ``target`` only if the block succeeds.

    Works for a file and for a folder (the block creates what it yields). A failure leaves ``target`` unchanged. Links
    are followed; a pipe or a device is written into when all is there.

    Args:
        target: where to write.
        replace_link: put what is written in the place of a link, not of what it leads to.

    Raises:
        UserError: the disk is full, or ``target`` can't be written.
    """
    with ExitStack() as stack:
        with _telling(target):
            place = Place(Path(target), stream=False) if replace_link else find_place(Path(target))
            temporary = Path(stack.enter_context(_room(place))) / place.path.name
        try:
            yield temporary
            if not os.path.lexists(temporary):
                raise FileNotFoundError(f"nothing was written to {temporary}")
        except UserError:
            raise
        except BaseException as error:
            full = find_disk_error(error)
            if full is not None:
                raise _unwritten(target, full) from error
            raise
        with _telling(target):
            _put(temporary, place)


def _unwritten(target: str | Path, why: str) -> UserError:
    return UserError(f"{as_word(target)} could not be written: {why}; nothing earlier was changed.")


@contextmanager
def _telling(target: str | Path) -> Iterator[None]:
    """Turn what the system refuses into a sentence."""
    try:
        yield
    except OSError as error:
        raise _unwritten(target, describe(error)) from error
    except ValueError as error:  # a NUL
        raise _unwritten(target, str(error)) from error


def _room(place: Place) -> AbstractContextManager[Path | str]:
    """A folder for what is not whole yet."""
    if place.stream:
        return tempfile.TemporaryDirectory()
    place.path.parent.mkdir(parents=True, exist_ok=True)
    return hold_partial(place.path.parent)


def _put(temporary: Path, place: Place) -> None:
    """Bring what is whole to its place."""
    path = place.path
    if not temporary.is_dir() and path.is_dir():
        raise UserError(f"{as_word(path)} is a folder, and a file is to be written; give another name.")
    if place.stream and temporary.is_dir():
        raise UserError(f"{as_word(path)} is a pipe or a device, which can't take a folder; give another name.")
    if place.stream:
        print(end="", flush=True)  # what was printed before comes first
        with temporary.open("rb") as file, open_stream(path) as stream:
            shutil.copyfileobj(file, stream)
        return
    if path.is_socket() or path.is_block_device():
        raise UserError(f"{as_word(path)} is a socket or a disk, which nothing replaces; give another name.")
    _give_usual_modes(temporary)
    if temporary.is_dir():
        _put_folder(temporary, path)
    else:
        _put_file(temporary, path)


def _put_file(temporary: Path, path: Path) -> None:
    """Replace a file, whose owner, group and rights stay."""
    if path.is_file() and not path.is_symlink():
        former = path.stat()
        with suppress(OSError):  # only root gives files away, and everybody to the own groups
            os.chown(temporary, former.st_uid, former.st_gid)
        with suppress(PermissionError):  # not every file system has rights
            temporary.chmod(stat.S_IMODE(former.st_mode))
    try:
        temporary.replace(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        shutil.copyfile(temporary, path)  # a file that is mounted, as into a container, is only written into


def _put_folder(temporary: Path, path: Path) -> None:
    """Replace whatever is at a path by a folder; the former goes when the new one is there."""
    while True:
        former = Path(tempfile.mkdtemp(dir=temporary.parent), path.name)
        with suppress(FileNotFoundError):
            path.replace(former)
        try:
            temporary.replace(path)
        except OSError:
            if path.exists():  # another process was faster
                continue
            with suppress(FileNotFoundError):
                former.replace(path)
            raise
        return


def _give_usual_modes(path: Path) -> None:
    """Let others read what the umask lets them read: safetensors makes files for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in [path, *path.rglob("*")]:
        if file.is_file() and not file.is_symlink():
            with suppress(PermissionError):
                file.chmod(file.stat().st_mode | (0o666 & ~mask))


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as readable JSON with sorted keys."""
    write_text(path, format_json(value, indent=2, sort_keys=True) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(format_json(row) + "\n")
