"""Records of a workflow's runs: one JSON file for each call of Snakemake, in ``results/<run>/runs``."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from logitfusion.artefact import read_artefact, write_artefact
from logitfusion.errors import UserError

FORMAT = 1
State = Literal["running", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class Machine:
    """What a run ran on, without names."""

    cpus: int
    memory_gb: float
    system: str
    """Operating system and kind of processor, as ``Linux x86_64``."""
    gpus: tuple[str, ...] = ()
    """Models of its NVIDIA cards, one for each card."""


@dataclass(frozen=True)
class JobRecord:
    """A job that was started; of several attempts the last one."""

    rule: str
    wildcards: dict[str, str]
    start: float
    """Seconds after the start of the run."""
    seconds: float | None
    """Wall time, from its start (on a cluster: its submission) to its end; None while it runs."""
    state: State
    threads: int
    shared: bool | None
    """Whether another job ran on this machine at the same time, so that it took longer; None on a cluster."""
    memory_mb: float | None = None
    """Peak of its resident memory, where it was measured."""
    planned_seconds: float | None = None
    """What the plan by counted work said, before anything was measured."""

    @property
    def name(self) -> str:
        """Rule and values of the wildcards, as ``decode (proxy, 0)``."""
        return name_job(self.rule, self.wildcards)


@dataclass(frozen=True)
class RunRecord:
    """One call of Snakemake, so far or to its end."""

    run: str
    started: str
    """UTC, ISO 8601."""
    seconds: float
    """From the start to the end, or to now while it runs."""
    state: State
    """``stopped``: by the user, before a job failed. ``running`` too in the record of a call that was killed."""
    machine: Machine
    cores: int | None
    """Cores of this machine that jobs share; None on a cluster."""
    executor: str
    """Where jobs run: ``local``, ``slurm``, ..."""
    snakemake: str
    """Its version."""
    commit: str
    """Of the workflow's code; ``unknown`` outside of a checkout."""
    total: int
    """Jobs of the workflow that was asked for, those included that were up to date; without rules that only collect."""
    planned: int
    """Those of them that this call had to run."""
    jobs: tuple[JobRecord, ...] = ()
    """Those that were started, in that order."""
    format: int = field(default=FORMAT)

    @property
    def finished(self) -> int:
        """How many jobs of this call are finished."""
        return sum(job.state == "finished" for job in self.jobs)

    @property
    def failed(self) -> int:
        """How many jobs of this call failed, in their last attempt."""
        return sum(job.state == "failed" for job in self.jobs)

    @property
    def done(self) -> int:
        """Jobs of the workflow that are up to date: those before this call, and those it finished."""
        return self.total - self.planned + self.finished


def find_machine() -> Machine:
    """This machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    system = f"{platform.system()} {platform.machine()}"
    return Machine(os.cpu_count() or 1, float(round(memory)), system, _find_gpus())


def _find_gpus() -> tuple[str, ...]:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(filter(None, map(str.strip, said.splitlines())))


def name_job(rule: str, wildcards: Mapping[str, str]) -> str:
    """A job for people: its rule, with the wildcards' values in parentheses."""
    values = ", ".join(map(str, wildcards.values()))
    return f"{rule} ({values})" if values else rule


def record_path(folder: str | Path, started: datetime) -> Path:
    """Where the record of a run that started then is: a file of ``folder``, named by the time in UTC."""
    return Path(folder) / f"{started.astimezone(UTC):%Y%m%dT%H%M%SZ}.json"


def write_record(path: str | Path, record: RunRecord) -> None:
    """Write a record whole, over an earlier state of it.

    Raises:
        UserError: the disk is full or can't be written.
    """
    # Keys stay in their order, because that of the wildcards is part of a job's name.
    write_artefact(path, asdict(record), sort_keys=False)


def read_record(path: str | Path) -> RunRecord:
    """Read a record; keys that this version doesn't know are left out.

    Raises:
        UserError: no such file, or no such record.
    """
    value = read_artefact(path)
    try:
        if value["format"] > FORMAT:
            raise UserError(f"{path} is of a newer version of logitfusion; use that one, or delete the file.")
        return TypeAdapter(RunRecord).validate_python(value)
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{path} is not a record of a run ({error!r}); delete it.") from None


def read_records(folder: str | Path, most: int | None = None) -> list[RunRecord]:
    """The records of a run, at most so many, the latest call first; files that are none are skipped."""
    found = []
    for path in sorted(Path(folder).glob("*.json"), reverse=True)[:most]:
        try:
            found.append(read_record(path))
        except (UserError, OSError):  # a folder, or a file of somebody else
            continue
    return found


def latest_jobs(records: Iterable[RunRecord]) -> dict[str, JobRecord]:
    """Name of a job -> how it finished last. ``records`` come latest first, as from :func:`read_records`.

    This is what all results of a run took, also where they were made by several calls.
    """
    found: dict[str, JobRecord] = {}
    for record in records:
        for job in record.jobs:
            if job.state == "finished":
                found.setdefault(job.name, job)
    return found
