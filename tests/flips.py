"""A file with one bit flipped, for every bit of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from logitfusion.errors import UserError


def refuses_every_flip(path: Path, read: Callable[[], object], step: int = 1) -> None:
    """Whether what reads a small file refuses it in one sentence that names it, whichever of its bits is flipped.

    Args:
        path: of the file, which is left as it was.
        read: reads it.
        step: flip every bit of this number only; up to 8, some bit of every byte.
    """
    content = path.read_bytes()
    read()
    for bit in range(0, 8 * len(content), step):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError) as refused:
            read()
        assert path.name in str(refused.value), bit
        assert "\n" not in str(refused.value), bit
    path.write_bytes(content)
    read()
