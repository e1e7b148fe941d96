"""What a call has to run, and how long that takes on so many cores."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
    """

    jobs: tuple[PlannedJob, ...]
    total: int
    slots: int

    def stages(self) -> dict[str, int]:
        """Rule -> number of its jobs, in the order of the plan."""
        return dict(Counter(job.rule for job in self.jobs))

    def duration(self) -> tuple[float, float]:
        """The shortest and the longest time to expect (seconds)."""
        seconds = simulate(self.jobs, self.slots).seconds
        work = sum(job.seconds for job in self.jobs)
        low, high = (sum(job.seconds * SPREAD[job.basis][end] for job in self.jobs) / (work or 1) for end in (0, 1))
        return seconds * low, seconds * high


@dataclass(frozen=True)
class Schedule:
    """How a plan would go: seconds to its end, and the most memory at a time (MB; None if a job's is not known)."""

    seconds: float
    memory_mb: float | None
    reserved_mb: float


def simulate(
    jobs: Sequence[PlannedJob],
    slots: int,
    running: Collection[int] = (),
    left: Mapping[int, float] | None = None,
) -> Schedule:
    """Run jobs in mind: whatever is ready and fits starts, the highest priority first.

    Args:
        jobs: those that are not finished.
        slots: in all; a job that wants more takes all of them.
        running: numbers of those that have been started.
        left: number -> seconds that a job still takes, where that is not its expected time.
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
    now, free = 0.0, slots
    ends: list[tuple[float, int, PlannedJob]] = []
    peak = reserved = 0.0
    while ready or ends:
        passed = []
        while ready and (free > 0 or ready[0][3].number in running):
            entry = heapq.heappop(ready)
            job = entry[3]
            if min(job.slots, slots) > free and job.number not in running:
                passed.append(entry)
                continue
            free -= min(job.slots, slots)
            heapq.heappush(ends, (now + left.get(job.number, job.seconds), next(order), job))
        for entry in passed:
            heapq.heappush(ready, entry)
        peak = max(peak, sum(job.memory_mb or 0.0 for _, _, job in ends))
        reserved = max(reserved, sum(job.reserved_mb for _, _, job in ends))
        now, _, job = heapq.heappop(ends)
        free += min(job.slots, slots)
        for follower in followers.get(job.number, ()):
            waits[follower.number] -= 1
            if not waits[follower.number]:
                heapq.heappush(ready, (True, -follower.priority, next(order), follower))
    known_memory = all(job.memory_mb is not None for job in jobs)
    return Schedule(now, peak if known_memory else None, reserved)
