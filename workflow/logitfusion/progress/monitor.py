"""The state of a running call: what is finished, what runs, and how long the rest takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from logitfusion.progress.history import read_benchmark
from logitfusion.progress.pace import Pace, read_pace
from logitfusion.progress.plan import Plan, PlannedJob, simulate
from logitfusion.progress.record import JobRecord, State

TAIL = 8192  # bytes of a log that are looked at
PRIOR = 60.0  # seconds of work for which the plan is believed more than what has been seen
OVERTIME = 0.2  # what a job that takes longer than expected still takes, of what it took


Version = tuple[int, int] | None  # time of change and size of a file, if there is one


@dataclass
class Attempt:
    """The last attempt of a job that was started (times: seconds after the start of the call)."""

    job: PlannedJob
    start: float
    log: Version
    """Of its log at the start, which is an earlier attempt's or call's."""
    end: float | None = None
    state: State = "running"
    shared: bool = False
    memory_mb: float | None = None


@dataclass(frozen=True)
class Running:
    """A job at work: for how long (seconds), and how far it says it is. ``queued``: a cluster has not started it."""

    name: str
    seconds: float
    pace: Pace | None
    queued: bool = False


@dataclass(frozen=True)
class Progress:
    """A call at a moment.

    Attributes:
        done, failed: jobs that have ended, in their last attempt.
        planned: all jobs of the call.
        share: of the expected seconds, from 0 to 1.
        left: seconds to the end.
        running: what is at work, the longest first.
    """

    done: int
    failed: int
    planned: int
    share: float
    left: float
    running: tuple[Running, ...]


class Monitor:
    """Takes what happens to jobs, by their numbers; may be asked from another thread.

    Jobs that are not in the plan (those that only collect files) are ignored.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        queues: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            queues: whether jobs go to a cluster's queue, where they wait and share no machine that is known.
            clock: seconds, only ever more.
        """
        self.plan, self.queues = plan, queues
        self._jobs = {job.number: job for job in plan.jobs}
        self._attempts: dict[int, Attempt] = {}
        self._clock, self._began = clock, clock()
        self._lock = threading.RLock()

    def now(self) -> float:
        """Seconds since the start of the call."""
        return self._clock() - self._began

    def started(self, number: int) -> Attempt | None:
        """A job starts, perhaps again; None if it is not one of the plan."""
        with self._lock:
            if number not in self._jobs:
                return None
            others = [attempt for attempt in self._attempts.values() if attempt.state == "running"]
            job = self._jobs[number]
            attempt = Attempt(job, self.now(), find_version(job.log), shared=bool(others))
            for other in others:
                other.shared = True
            self._attempts.pop(number, None)  # the order of attempts is that of their starts
            self._attempts[number] = attempt
            return attempt

    def ended(self, number: int, *, failed: bool = False) -> Attempt | None:
        """A job has ended; None if it is not one of the plan, or did not run."""
        with self._lock:
            attempt = self._attempts.get(number)
            if attempt is None or attempt.state != "running":
                return None
            attempt.end, attempt.state = self.now(), "failed" if failed else "finished"
            measured = None if failed else read_benchmark(attempt.job.benchmark)
            attempt.memory_mb = None if measured is None else measured[1]
            return attempt

    def stop(self) -> None:
        """The call ends: whatever still runs was stopped."""
        with self._lock:
            for attempt in self._attempts.values():
                if attempt.state == "running":
                    attempt.end, attempt.state = self.now(), "stopped"

    def attempts(self) -> list[Attempt]:
        """The last attempt of every job that was started."""
        with self._lock:
            return list(self._attempts.values())

    def progress(self) -> Progress:
        """How far the call is now."""
        with self._lock:
            now = self.now()
            running = {
                number: self._look(attempt, now)
                for number, attempt in self._attempts.items()
                if attempt.state == "running"
            }
            states = [attempt.state for attempt in self._attempts.values()]
            return Progress(
                done=states.count("finished"),
                failed=states.count("failed"),
                planned=len(self._jobs),
                share=self._share(running),
                left=self._left(running),
                running=tuple(sorted(running.values(), key=lambda job: -job.seconds)),
            )

    def records(self) -> tuple[JobRecord, ...]:
        """All jobs that were started, for the record of the run."""
        with self._lock:
            return tuple(
                JobRecord(
                    rule=attempt.job.rule,
                    wildcards=dict(attempt.job.wildcards),
                    start=round(attempt.start, 2),
                    seconds=None if attempt.end is None else round(attempt.end - attempt.start, 2),
                    state=attempt.state,
                    threads=attempt.job.threads,
                    shared=None if self.queues else attempt.shared,
                    memory_mb=attempt.memory_mb,
                    planned_seconds=round(attempt.job.rough_seconds, 2),
                )
                for attempt in self._attempts.values()
            )

    def _look(self, attempt: Attempt, now: float) -> Running:
        said = read_tail(attempt.job.log, attempt.log)
        pace = None if said is None else read_pace(said)
        return Running(attempt.job.name, now - attempt.start, pace, queued=self.queues and said is None)

    def _share(self, running: dict[int, Running]) -> float:
        weights = {number: self._weight(job) for number, job in self._jobs.items()}
        done = 0.0
        for number, attempt in self._attempts.items():
            if attempt.state == "finished":
                done += weights[number]
            elif number in running:
                done += weights[number] * _part(running[number], attempt.job.seconds)
        return done / (sum(weights.values()) or 1.0)

    def _weight(self, job: PlannedJob) -> float:
        return job.seconds * min(job.slots, self.plan.slots)

    def _left(self, running: dict[int, Running]) -> float:
        """Seconds of all that is not finished and does not wait for what failed, at the speed that was seen so far."""
        speed = self._speed()
        open_jobs = self._open()
        left = {job.number: job.seconds * speed for job in open_jobs}
        for number, seen in running.items():
            by_clock = max(1.0, left[number] - seen.seconds, OVERTIME * seen.seconds)
            left[number] = by_clock if seen.pace is None or seen.pace.left is None else seen.pace.left
        return simulate(open_jobs, self.plan.slots, running.keys(), left, self.plan.gpus).seconds

    def _open(self) -> list[PlannedJob]:
        ended = {number for number, attempt in self._attempts.items() if attempt.state == "finished"}
        lost = {number for number, attempt in self._attempts.items() if attempt.state == "failed"}
        grown = -1
        while grown != len(lost):  # what needs a lost job is lost
            grown = len(lost)
            lost |= {job.number for job in self.plan.jobs if job.needs & lost}
        return [job for job in self.plan.jobs if job.number not in ended | lost]

    def _speed(self) -> float:
        """Seconds that were needed for each that was expected."""
        ended = [attempt for attempt in self._attempts.values() if attempt.state == "finished"]
        needed = sum(attempt.end - attempt.start for attempt in ended)
        return (PRIOR + needed) / (PRIOR + sum(attempt.job.seconds for attempt in ended))


def _part(seen: Running, expected: float) -> float:
    """The part of a job that is done: by its own word, else by the clock; never all of it."""
    by_clock = seen.seconds / max(expected, 1.0)
    return min(0.95, by_clock if seen.pace is None else seen.pace.share)


def find_version(path: Path | None) -> Version:
    """To see whether a file was written to, without comparing its server's clock with this machine's."""
    try:
        status = None if path is None else path.stat()
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size)


def read_tail(log: Path | None, before: Version) -> str | None:
    """The end of a log that was written to since it was so; None if it was not."""
    try:
        if log is None or find_version(log) == before:
            return None
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return None
