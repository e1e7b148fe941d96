"""Single files that were packed with gzip."""

from __future__ import annotations

import gzip
import io
from typing import BinaryIO

from logitfusion.fetch.archives.limits import Bounded

LARGEST_FILE = 2**30  # bytes of a file that is read as a whole


def open_gzip(packed: BinaryIO) -> io.BufferedReader:
    """What is in a file of gzip, of which reading more than a GiB is an ``ArchiveError``."""
    return io.BufferedReader(Bounded(gzip.GzipFile(fileobj=packed), LARGEST_FILE))
