"""Why one of several processes ended: each leaves a word for their launcher, because the others fail after it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from logitfusion.files import read_json

FAILURES = "LOGITFUSION_FAILURES"  # the folder of the words, from the launcher


def leave_word(text: str) -> None:
    """End this process at once and keep why, if a launcher asked for it; else it is to say so itself.

    A usual exit would take the time in which the launcher, told of another failure, interrupts it with a signal.
    """
    folder = os.environ.get(FAILURES)
    if folder is None:
        return
    path = Path(folder) / f"{os.environ.get('RANK', 0)}.json"
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps([time.time_ns(), text]))
    temporary.replace(path)
    sys.stderr.flush()
    os._exit(1)


def first_failure(folder: Path) -> str | None:
    """The word that was left first; the others' are of connections that were cut."""
    words = [read_json(path) for path in folder.glob("*.json")]
    return min(words)[1] if words else None
