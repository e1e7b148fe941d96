"""Text files: UTF-8 with or without a byte order mark, any line ends, of a bounded size; and nothing but files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from logitfusion.errors import UserError

LARGEST = 2**30  # bytes of what is read as a whole
LONGEST = 2**26  # bytes of a line of what is read line by line
_OWN = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # what a shell passes on as a file: <(command)
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def open_file(path: str | Path, title: str | None = None) -> BinaryIO:
    """Open a regular file for its bytes; a pipe only if a shell made it for this process.

    Args:
        title: what a message calls it, by default its path.

    Raises:
        UserError: there is none, it can't be read, or it is a folder, a device or a named pipe, which may never end.
    """
    title = title or str(path)
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would block
    except FileNotFoundError:
        raise UserError(f"{title} does not exist; correct its path.") from None
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        raise UserError(f"{title} can't be read ({explain_system(error)}).") from None
    mode = os.fstat(opened).st_mode
    if stat.S_ISFIFO(mode) and is_passed_on(path):
        os.set_blocking(opened, True)
    elif not stat.S_ISREG(mode):
        os.close(opened)
        if stat.S_ISDIR(mode):
            raise UserError(f"{title} is a folder, not a file; name a file.")
        raise UserError(f"{title} is {_KINDS.get(stat.S_IFMT(mode), 'of another kind')}, not a file; name a file.")
    return os.fdopen(opened, "rb")


def is_passed_on(path: str | Path) -> bool:
    """Whether a path is what a shell passes on to this process, whose folder is no place of the user's."""
    return str(path).startswith(_OWN)


def explain_system(error: OSError | ValueError) -> str:
    """What the system says of a file, as a part of a sentence."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def read_bytes(path: str | Path, *, largest: int = LARGEST, title: str | None = None) -> bytes:
    """All bytes of a file.

    Raises:
        UserError: as ``open_file``, and a file of more than ``largest`` bytes.
    """
    title = title or str(path)
    with open_file(path, title) as file:
        if os.fstat(file.fileno()).st_size > largest:
            raise UserError(_too_large(title, largest))
        return read_stream(file, title, largest=largest)


def read_stream(file: BinaryIO, title: str, *, largest: int = LARGEST) -> bytes:
    """All bytes of an open file or of the standard input, which may have no end.

    Raises:
        UserError: more than ``largest`` bytes, or what can't be read.
    """
    try:
        content = file.read(largest + 1)
    except OSError as error:
        raise UserError(f"{title} can't be read ({explain_system(error)}).") from None
    if len(content) > largest:
        raise UserError(_too_large(title, largest))
    return content


def _too_large(title: str, largest: int) -> str:
    return f"{title} has more than {largest:,} bytes, and is too large to be read here; is it another file?"


def read_text(path: str | Path, *, largest: int = LARGEST, title: str | None = None) -> str:
    """A text file without its byte order mark, its line ends as they are.

    Raises:
        UserError: as ``read_bytes``, and what is not UTF-8.
    """
    return decode(read_bytes(path, largest=largest, title=title), title or str(path))


def decode(content: bytes, title: str) -> str:
    """Bytes as text; half surrogates, which UTF-8 has not, are refused with all else that it has not.

    Raises:
        UserError: names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{title}, line {line}, is not UTF-8 text; save it as UTF-8.") from None


def read_lines(path: str | Path, *, title: str | None = None) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, from 1, one in memory at a time.

    Raises:
        UserError: as ``open_file``; a line that is not UTF-8, or of more than ``LONGEST`` bytes.
    """
    title = title or str(path)
    with open_file(path, title) as file:
        yield from stream_lines(file, title)


def stream_lines(file: BinaryIO, title: str) -> Iterator[tuple[int, str]]:
    """``read_lines`` of an open file or of the standard input."""
    number = 0
    while content := _read_line(file, title, number):
        text = decode_line(content, title, number + 1)
        for line in text.removesuffix("\n").removesuffix("\r").split("\r"):
            number += 1
            yield number, line


def _read_line(file: BinaryIO, title: str, number: int) -> bytes:
    try:
        content = file.readline(LONGEST + 1)
    except OSError as error:
        raise UserError(f"{title} can't be read ({explain_system(error)}).") from None
    if len(content) > LONGEST:
        raise UserError(f"{title}, line {number + 1}, has more than {LONGEST:,} bytes; is it another file?")
    return content


def decode_line(content: bytes, title: str, number: int) -> str:
    """One line as text; the first one without a byte order mark.

    Raises:
        UserError: names the line.
    """
    try:
        return content.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{title}, line {number}, is not UTF-8 text; save it as UTF-8.") from None


def split_lines(text: str) -> list[str]:
    """The lines of a text with any line ends; other separators that Unicode has are characters of a line."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def check_unicode(text: str, place: str) -> str:
    """The text, if all of it can be written again.

    Raises:
        UserError: a half of a surrogate pair, or bytes of the command line that are no characters.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place} has a character that is not Unicode, {text[error.start]!r}; rewrite it.") from None
    return text
