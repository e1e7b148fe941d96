"""The standard output and error of a command: what happens when nobody reads them any more, or a disk is full.

Who prints learns it at once, so that ``logitfusion ... | head`` ends early; unless files were asked for, which are not
to be lost with their reader.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from logitfusion.errors import UserError
from logitfusion.files.disk import describe


class _Descriptor(io.FileIO):
    """An open file that is silent after its first failure: Python flushes it again at its end, and would complain."""

    def __init__(self, descriptor: int, *, loud: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.loud, self.failure = loud, None

    def write(self, data: bytes) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if self.loud:
                raise
            return len(data)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard the standard streams of a process while a command runs.

    Raises:
        BrokenPipeError: nobody reads the standard output.
        UserError: it could not be written for another reason.
    """
    _open_missing()
    former = sys.stdout, sys.stderr
    sys.stdout = _guard(sys.stdout, "replace", loud=True)  # of terminals that don't know all characters
    sys.stderr = _guard(sys.stderr, "backslashreplace", loud=False)
    try:
        yield
        if sys.stdout is not None:  # closed before the start: there is nobody to read
            sys.stdout.flush()
        _tell_failure(_descriptor(sys.stdout))
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError):  # where all went well it was flushed above
                stream.flush()
        sys.stdout, sys.stderr = former


def _open_missing() -> None:
    """Open what was closed before the start: else the next file that is opened would be the standard output."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 (for as long as the process)


def _tell_failure(written: io.RawIOBase | None) -> None:
    failure = written.failure if isinstance(written, _Descriptor) else None
    if isinstance(failure, BrokenPipeError):
        raise failure
    if failure is not None:
        raise UserError(
            f"The standard output could not be written ({describe(failure)}); files that were asked for are whole."
        )


def outlive_reader() -> None:
    """From now on the command goes on when its standard output can't be written, and tells so at its end."""
    descriptor = _descriptor(sys.stdout)
    if isinstance(descriptor, _Descriptor):
        descriptor.loud = False


def _guard(stream: TextIO | None, errors: str, *, loud: bool) -> TextIO | None:
    """The stream, guarded if it is a process's own and not a test's or a notebook's."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=errors)
    raw = _descriptor(stream)
    if stream not in (sys.__stdout__, sys.__stderr__) or not isinstance(raw, io.FileIO):
        return stream
    stream.flush()
    guarded = _Descriptor(raw.fileno(), loud=loud)
    return io.TextIOWrapper(
        guarded if stream.write_through else io.BufferedWriter(guarded),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _descriptor(stream: TextIO | None) -> io.RawIOBase | None:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)
