"""Signals that end a command: it unwinds, so that nothing half written stays behind."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = ("SIGTERM", "SIGHUP")  # of a time limit, and of a terminal that is closed


@contextmanager
def unwinding() -> Iterator[None]:
    """End by an exception at a signal that would end the process at once, with the exit code that shells expect."""
    own = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in _ENDING if own and hasattr(signal, name)]
    former = {number: signal.getsignal(number) for number in numbers}
    for number, handler in former.items():
        if handler == signal.SIG_DFL:  # what nohup ignores stays ignored
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
