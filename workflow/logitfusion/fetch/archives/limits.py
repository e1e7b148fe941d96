"""What an archive may unpack to: a few megabytes can hold many gigabytes of zeros."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

# Bytes of all that an archive unpacks to, and how many times its own size that may be if it is more: weights hardly
# shrink, tables do.
LARGEST = 4 * 2**30
TIMES = 10
MOST = 200_000  # members of an archive


class ArchiveError(ValueError):
    """An archive can't be used; the message goes on after the archive's name."""


def largest_of(archive: str | Path) -> int:
    """The bytes that an archive may unpack to."""
    return max(LARGEST, TIMES * Path(archive).stat().st_size)


def too_large(largest: int) -> ArchiveError:
    """The error for an archive or a member that unpacks to more bytes than this."""
    return ArchiveError(f"unpacks to more than {largest / 2**30:,.3g} GiB")


class Bounded(io.RawIOBase):
    """A stream that ends with an error once it has given more than ``largest`` bytes."""

    def __init__(self, stream: BinaryIO, largest: int) -> None:
        self.stream, self.largest, self.given = stream, largest, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        block = self.stream.read(len(buffer))
        buffer[: len(block)] = block
        self.given += len(block)
        if self.given > self.largest:
            raise too_large(self.largest)
        return len(block)


class Part(io.RawIOBase):
    """The next ``size`` bytes of a file, which goes on after them."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        block = self.file.read(min(len(buffer), self.left))
        buffer[: len(block)] = block
        self.left -= len(block)
        return len(block)
