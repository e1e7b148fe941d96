"""What becomes of an odd input: a sentence, the right answer, or one of three faults.

A ``Case`` is one input: a call, and what is right of its answer if it gives one. Each is judged with a limit on its
time and on the memory that it may add, so that whatever is unbounded is a fault of its own and ends.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from logitfusion.errors import UserError, find_memory_error

SECONDS = 10.0  # of computing
WAITING = 6  # times as long may it last, on a machine that has others to serve
BYTES = 4 * 2**30  # what a case may add to the address space: threads' stacks and maps of files count too


class Outcome(StrEnum):
    """The first two are fine, the others are faults."""

    SENTENCE = "sentence"
    RIGHT = "right"
    TRACEBACK = "traceback"
    HANG = "hang"
    SILENT = "silent"


FINE = (Outcome.SENTENCE, Outcome.RIGHT)


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        name: by which it is found again: kind, seed, what was changed.
        call: gives the answer, or raises.
        right: whether an answer is right; every answer is, where nothing but a fault can be told.
        refusals: what the call may refuse by, beside ``UserError``.
    """

    name: str
    call: Callable[[], Any]
    right: Callable[[Any], bool] = lambda answer: True
    refusals: tuple[type[Exception], ...] = ()


class Judged(NamedTuple):
    """A case and what became of it."""

    name: str
    outcome: Outcome
    words: str = ""


class TooLong(BaseException):
    """Time is up; no ``except Exception`` takes it for something else."""


def judge(case: Case, seconds: float = SECONDS) -> Judged:
    """What becomes of one case."""
    try:
        with bounded(seconds):
            answer = case.call()
            right = case.right(answer)
    except TooLong:
        return Judged(case.name, Outcome.HANG, f"more than {seconds:g} s")
    except Exception as error:
        return Judged(case.name, *_judge_error(error, case.refusals))
    return Judged(case.name, Outcome.RIGHT) if right else Judged(case.name, Outcome.SILENT, repr(answer)[:200])


def _judge_error(error: Exception, refusals: tuple[type[Exception], ...]) -> tuple[Outcome, str]:
    words = f"{type(error).__name__}: {error}"
    memory = "not enough memory" in str(error) if isinstance(error, UserError) else find_memory_error(error) is not None
    if memory:
        return Outcome.HANG, f"more than {BYTES >> 30} GB: {words[:200]}"
    if isinstance(error, UserError):
        return (Outcome.SENTENCE if is_sentence(str(error)) else Outcome.TRACEBACK), words
    return (Outcome.SENTENCE if isinstance(error, refusals) and str(error) else Outcome.TRACEBACK), words


def is_sentence(text: str) -> bool:
    """Whether it is one line that people can read to its end."""
    shown = text.encode(errors="backslashreplace").decode()  # as the standard error does
    return text == text.strip() and len(text.splitlines()) == 1 and text[-1] in ".?" and shown.isprintable()


def judge_all(cases: Iterable[Case], seconds: float = SECONDS) -> list[Judged]:
    """What becomes of each."""
    return [judge(case, seconds) for case in cases]


def count(judged: Iterable[Judged]) -> Counter[str]:
    """How many there are of each outcome."""
    return Counter(str(one.outcome) for one in judged)


def list_faults(judged: Iterable[Judged], most: int = 30) -> str:
    """A line for each fault, to be read in a failed test."""
    faults = [one for one in judged if one.outcome not in FINE]
    lines = [f"{one.outcome}: {one.name}: {one.words}" for one in faults[:most]]
    return "\n".join([f"{len(faults)} faults", *lines]) if faults else ""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Limit the time that is computed, and the memory that is added, by what is done within; waiting has an end too."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, seconds), signal.ITIMER_REAL: (signal.SIGALRM, WAITING * seconds)}
    earlier = {number: signal.signal(number, stop) for number, _ in timers.values()}
    for timer, (_, limit) in timers.items():
        signal.setitimer(timer, limit, 1.0)  # again each second, should a clean-up take as long
    try:
        with _bounded_memory():
            yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def _bounded_memory() -> Iterator[None]:
    if not sys.platform.startswith("linux"):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
