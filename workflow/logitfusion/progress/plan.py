"""What a call has to run, and how long that takes on so many cores."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from logitfusion.progress.record import name_job

Basis = Literal["measured", "scaled", "rough"]
# How far a run may be from what was expected: the same job on the same machine, which may be shared; the same stage on
# other data; a table of rough seconds for machines that nobody knows.
SPREAD: dict[Basis, tuple[float, float]] = {"measured": (0.85, 1.25), "scaled": (0.7, 1.6), "rough": (0.5, 2.0)}


@dataclass(frozen=True)
class PlannedJob:
    """A job that has to run.

    Attributes:
        number: the workflow's own number of it.
        threads: cores that it computes on.
        slots: how many of the plan's it takes.
        gpus: how many of the plan's it takes.
        seconds: expected, on this machine.
        basis: where ``seconds`` come from.
        rough_seconds: what the plan by counted work says, before anything was measured.
        memory_mb: peak of its memory when it was measured; None if it never was.
        reserved_mb: memory that its rule asks for.
        priority: jobs of a higher one start first.
        needs: numbers of the planned jobs whose outputs it reads.
        log, benchmark: its files, if it has them.
    """

    number: int
    rule: str
    wildcards: Mapping[str, str]
    threads: int
    slots: int
    seconds: float
    basis: Basis
    rough_seconds: float
    memory_mb: float | None = None
    reserved_mb: float = 0.0
    gpus: int = 0
    priority: float = 0.0
    needs: frozenset[int] = frozenset()
    log: Path | None = None
    benchmark: Path | None = None

    @property
    def name(self) -> str:
        """Rule and values of the wildcards."""
        return name_job(self.rule, self.wildcards)


@dataclass(frozen=True)
class Plan:
    """The jobs of a call.

    Attributes:
        jobs: those that have to run.
        total: jobs of the whole workflow, those included that are up to date.
        slots: cores that the jobs share; on a cluster, jobs at a time, of which each takes one.
        gpus: that the jobs share; None where nothing limits them.
    """

    jobs: tuple[PlannedJob, ...]
    total: int
    slots: int
    gpus: int | None = None

    def stages(self) -> dict[str, int]:
        """Rule -> number of its jobs, in the order of the plan."""
        return dict(Counter(job.rule for job in self.jobs))

    def duration(self) -> tuple[float, float]:
        """The shortest and the longest time to expect (seconds)."""
        seconds = simulate(self.jobs, self.slots, gpus=self.gpus).seconds
        work = sum(job.seconds for job in self.jobs)
        low, high = (sum(job.seconds * SPREAD[job.basis][end] for job in self.jobs) / (work or 1) for end in (0, 1))
        return seconds * low, seconds * high


@dataclass(frozen=True)
class Schedule:
    """How a plan would go: seconds to its end, and the most memory at a time (MB; None if a job's is not known)."""

    seconds: float
    memory_mb: float | None
    reserved_mb: float


class _Room:
    """What jobs take while they run: slots and GPUs. A job that wants more than there are takes all."""

    def __init__(self, slots: int, gpus: int | None) -> None:
        self.total = (slots, math.inf if gpus is None else gpus)
        self.free = self.total

    def _wanted(self, job: PlannedJob) -> Iterator[float]:
        return (min(wanted, most) for wanted, most in zip((job.slots, job.gpus), self.total, strict=True))

    def fits(self, job: PlannedJob) -> bool:
        return all(wanted <= free for wanted, free in zip(self._wanted(job), self.free, strict=True))

    def take(self, job: PlannedJob) -> None:
        self.free = tuple(free - wanted for wanted, free in zip(self._wanted(job), self.free, strict=True))

    def give_back(self, job: PlannedJob) -> None:
        self.free = tuple(free + wanted for wanted, free in zip(self._wanted(job), self.free, strict=True))


def simulate(
    jobs: Sequence[PlannedJob],
    slots: int,
    running: Collection[int] = (),
    left: Mapping[int, float] | None = None,
    gpus: int | None = None,
) -> Schedule:
    """Run jobs in mind: whatever is ready and fits starts, the highest priority first.

    Args:
        jobs: those that are not finished.
        slots: in all; a job that wants more takes all of them.
        running: numbers of those that have been started.
        left: number -> seconds that a job still takes, where that is not its expected time.
        gpus: in all, likewise; None where nothing limits them.
    """
    left = left or {}
    known = {job.number for job in jobs}
    waits = {job.number: len(job.needs & known) for job in jobs}
    followers: dict[int, list[PlannedJob]] = {}
    for job in jobs:
        for needed in job.needs & known:
            followers.setdefault(needed, []).append(job)
    order = count()
    ready = [(job.number not in running, -job.priority, next(order), job) for job in jobs if not waits[job.number]]
    heapq.heapify(ready)
    now, room = 0.0, _Room(slots, gpus)
    ends: list[tuple[float, int, PlannedJob]] = []
    peak = reserved = 0.0
    while ready or ends:
        passed = []
        while ready and (room.free[0] > 0 or ready[0][3].number in running):
            entry = heapq.heappop(ready)
            job = entry[3]
            if not room.fits(job) and job.number not in running:
                passed.append(entry)
                continue
            room.take(job)
            heapq.heappush(ends, (now + left.get(job.number, job.seconds), next(order), job))
        for entry in passed:
            heapq.heappush(ready, entry)
        peak = max(peak, sum(job.memory_mb or 0.0 for _, _, job in ends))
        reserved = max(reserved, sum(job.reserved_mb for _, _, job in ends))
        now, _, job = heapq.heappop(ends)
        room.give_back(job)
        for follower in followers.get(job.number, ()):
            waits[follower.number] -= 1
            if not waits[follower.number]:
                heapq.heappush(ready, (True, -follower.priority, next(order), follower))
    known_memory = all(job.memory_mb is not None for job in jobs)
    return Schedule(now, peak if known_memory else None, reserved)
