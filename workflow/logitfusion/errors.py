"""The one exception that is meant for a user's eyes, and a word for what many libraries say in many ways."""

from __future__ import annotations

import errno
import unicodedata
from typing import Literal


class UserError(Exception):
    """Bad input. The message is one sentence: which file, key or model, and what to do about it.

    Names in it may come from files that nobody has checked: what can't be printed is spelt out, to stay a line.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__("".join(map(_printable, sentence)))


def _printable(character: str) -> str:
    shown = character.isprintable() or unicodedata.category(character) == "Zs"  # spaces of all widths
    return character if shown else character.encode("unicode_escape").decode()


def find_memory_error(error: BaseException | None) -> Literal["machine", "gpu"] | None:
    """Whose memory ran out, if any exception of a chain is about that."""
    while error is not None:
        text = str(error).lower()
        # torch raises a RuntimeError on the CPU, in its allocator's words.
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM or "allocate memory" in text:
            return "machine"
        if "out of memory" in text:
            return "gpu"
        error = error.__cause__ or error.__context__
    return None


def first_line(error: BaseException) -> str:
    """The message of another library's error, short enough to be part of a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .:")[:200] if lines else type(error).__name__
