"""An end to what a program of somebody else's computes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TooLongError(Exception):
    """A block took more time than it was given."""


@contextmanager
def limit_time(seconds: float) -> Iterator[None]:
    """End a block that computes for longer; waiting, and other programs, are not counted.

    Only the main thread can be interrupted, as by Ctrl-C: in others a block has all the time it takes.

    Raises:
        TooLongError: from within the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError(f"it computes for more than {seconds:g} seconds")

    before = signal.signal(signal.SIGVTALRM, stop)
    rest, interval = signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1)  # again, where the first one was caught
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, rest, interval)
        signal.signal(signal.SIGVTALRM, before)
