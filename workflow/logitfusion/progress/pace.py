"""The line in which a stage says how far it is, and reading it back out of the stage's log."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from logitfusion.progress.duration import format_duration, read_duration

logger = logging.getLogger(__name__)

LINE = re.compile(r"(\d+) of (\d+) ([^\W\d][\w -]*), \S+ an? (?:second|minute)(?:, ([\d a-z]+) left)?")


@dataclass(frozen=True)
class Pace:
    """How far a stage is, in its own words.

    Attributes:
        done, total: of its things (steps, examples, images, ...).
        left: seconds it still expected when it said so; None at its end.
    """

    done: int
    total: int
    left: float | None

    @property
    def share(self) -> float:
        """Of the work, from 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 1.0


def describe_pace(done: int, total: int, things: str, seconds: float, before: int = 0) -> str:
    """``28 of 60 steps, 0.9 a second, 42 s left``.

    Args:
        seconds: how long it took to get here, from ``before`` on: what an earlier, stopped job had done.
    """
    rate = (done - before) / max(seconds, 1e-9)
    text = f"{done} of {total} {things}, {_format_rate(rate)}"
    return f"{text}, {format_duration((total - done) / rate)} left" if done < total and rate > 0 else text


def _format_rate(rate: float) -> str:
    if rate >= 0.095:
        return f"{rate:.1f} a second" if rate < 9.95 else f"{rate:.0f} a second"
    return f"{60 * rate:.1f} a minute"


class Rate:
    """Logs how far a stage is, every few seconds and at its end."""

    def __init__(self, name: str, things: str, total: int, interval: float = 5.0) -> None:
        self.name, self.things, self.total, self.interval = name, things, total, interval
        self.done, self.started = 0, time.monotonic()
        self.printed = self.started

    def __call__(self, finished: int) -> None:
        """So many more things are done."""
        self.done += finished
        now = time.monotonic()
        if now - self.printed > self.interval or self.done == self.total:
            self.printed = now
            logger.info("%s: %s", self.name, describe_pace(self.done, self.total, self.things, now - self.started))


class ShareLines:
    """Says how much of one long piece of work is done, at most every ``interval`` seconds: nothing if it is short.

    Args:
        write: is given ``fitting amu: 37 %, 2 min left``.
    """

    def __init__(self, name: str, write: Callable[[str], None], interval: float = 20.0) -> None:
        self.name, self.write, self.interval = name, write, interval
        self.started = self.written = time.monotonic()

    def __call__(self, done: float, total: float) -> None:
        """So much of it is done."""
        now = time.monotonic()
        if now - self.written > self.interval and 0 < done < total:
            self.written = now
            left = (now - self.started) * (total - done) / done
            self.write(f"{self.name}: {100 * done / total:.0f} %, {format_duration(left)} left")


def read_pace(log: str) -> Pace | None:
    """The last such line in a log's text; None if there is none."""
    found = None
    for found in LINE.finditer(log):  # noqa: B007, the last one is wanted
        pass
    if found is None:
        return None
    done, total, _, left = found.groups()
    return Pace(int(done), int(total), None if left is None else read_duration(left))
