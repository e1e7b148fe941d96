"""What earlier runs took on this machine, and what a job is therefore expected to take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from logitfusion.errors import UserError
from logitfusion.formats.csv import read_written_csv
from logitfusion.progress.plan import Basis
from logitfusion.progress.record import JobRecord, Machine, RunRecord, latest_jobs, name_job, read_records

RECENT = 5  # records of another run that are read


@dataclass(frozen=True)
class Expected:
    """Seconds that a job is expected to take, where they come from, and the peak of its memory (None: unknown)."""

    seconds: float
    basis: Basis
    memory_mb: float | None


class History:
    """Jobs of earlier calls on this machine: those of the same run, and those of all."""

    def __init__(self, same: Sequence[RunRecord], others: Sequence[RunRecord], machine: Machine) -> None:
        """Sort records; those of other machines are left out. ``same`` come latest first."""
        here = [record for record in same if record.machine == machine]
        self.latest = latest_jobs(here)
        jobs = [job for record in (*here, *others) if record.machine == machine for job in record.jobs]
        self.finished = [job for job in jobs if job.state == "finished" and job.seconds and job.planned_seconds]

    @classmethod
    def read(cls, folder: Path, others: Iterable[Path], machine: Machine) -> History:
        """The records in the run's folder of them, and in those of other runs."""
        return cls(
            read_records(folder), [record for other in others for record in read_records(other, RECENT)], machine
        )

    def expect(self, rule: str, wildcards: dict[str, str], rough: float, benchmark: Path | None = None) -> Expected:
        """What a job takes: as long as it took last, more or less by its work; else like its stage; else roughly."""
        last = self.latest.get(name_job(rule, wildcards))
        if last is not None:
            return Expected(last.seconds * rough / (last.planned_seconds or rough), "measured", last.memory_mb)
        measured = read_benchmark(benchmark)
        if measured is not None:
            return Expected(measured[0], "measured", measured[1])
        alike = [job for job in self.finished if job.rule == rule]
        memory = max((job.memory_mb for job in alike if job.memory_mb is not None), default=None)
        if benchmark is None:
            memory = 0.0  # a stage too small to be measured
        if self.finished:
            return Expected(rough * _speed(alike or self.finished), "scaled", memory)
        return Expected(rough, "rough", memory)


def _speed(jobs: Iterable[JobRecord]) -> float:
    """Measured seconds for each rough one."""
    pairs = [(job.seconds or 0.0, job.planned_seconds or 0.0) for job in jobs]
    return sum(seconds for seconds, _ in pairs) / sum(rough for _, rough in pairs)


def read_benchmark(path: Path | None) -> tuple[float, float] | None:
    """Seconds, and the peak of memory in MB, out of a benchmark file of Snakemake; None if there is no such file.

    The memory of a job that was too short to be looked at is 0: the first look is at a program that has not begun.
    """
    if path is None:
        return None
    try:
        row = read_written_csv(path, "benchmark")[1][0]
        memory = row["max_rss"]
        seconds = float(row["s"])
        return seconds, 0.0 if seconds < 1 or memory in ("NA", "-", "") else float(memory)
    except (UserError, IndexError, KeyError, ValueError):
        return None
