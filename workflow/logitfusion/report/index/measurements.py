"""What jobs took: Snakemake's benchmarks, and from the records of calls whether a job had the machine for itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from logitfusion.errors import UserError
from logitfusion.progress.record import JobRecord, latest_jobs, read_records
from logitfusion.report.index.facts import Facts


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A job as it was measured.

    Attributes:
        stage: the folder of its benchmark, without names of the config.
        names: names of the config that it is of: a method, a task, a model.
        seconds: wall time.
        memory_mb: peak of its resident memory; None where it was too short to be measured.
        cpu_seconds: of all its cores; None likewise.
    """

    stage: str
    names: tuple[str, ...]
    seconds: float
    memory_mb: float | None
    cpu_seconds: float | None


def read_measurements(facts: Facts) -> list[Measurement]:
    """All benchmarks of a run, broken ones left out."""
    folder = facts.files.benchmarks
    known = _known_names(facts)
    found = []
    for path in sorted(filter(Path.is_file, folder.rglob("*.tsv"))) if folder is not None else []:
        row = _read_row(path)
        if row is not None:
            stage, names = _split(path.relative_to(folder).with_suffix("").parts, known)
            numbers = [pd.to_numeric(row.get(key), errors="coerce") for key in ("s", "max_rss", "cpu_time")]
            seconds, *others = (None if pd.isna(value) else float(value) for value in numbers)
            if seconds is not None:
                memory, cpu = others
                found.append(Measurement(stage=stage, names=names, seconds=seconds, memory_mb=memory, cpu_seconds=cpu))
    return found


def read_jobs(facts: Facts) -> dict[str, JobRecord]:
    """How each job finished last, where calls were recorded."""
    return latest_jobs(read_records(facts.files.runs)) if facts.files.runs is not None else {}


def say_sharing(jobs: dict[str, JobRecord], name: str, rule: str | None = None) -> str:
    """Whether the jobs (of a rule) with a name of the config among their wildcards had the machine for themselves."""
    named = [job for job in jobs.values() if name in job.wildcards.values()]
    shared = [job.shared for job in named if rule in (None, job.rule)]
    if not shared:
        return "not recorded"
    return "alone" if not any(shared) else "shared" if all(shared) else "partly shared"


def _read_row(path: Path) -> pd.Series | None:
    try:
        table = pd.read_csv(path, sep="\t")
    except (OSError, ValueError, UserError):
        return None
    return None if table.empty else table.iloc[-1]


def _split(parts: tuple[str, ...], known: set[str]) -> tuple[str, tuple[str, ...]]:
    """``fusion/proxy/0`` -> ``fusion`` and ``proxy, 0``; a name's ``.<seed>`` is no part of it."""
    end = next((place for place, part in enumerate(parts) if place and part.partition(".")[0] in known), len(parts))
    names = tuple(word for part in parts[end:] for word in part.split("."))
    return "/".join(parts[:end]), names


def _known_names(facts: Facts) -> set[str]:
    return set(_names(facts))


def _names(facts: Facts) -> Iterator[str]:
    run = facts.run
    for entries in (run.models, run.experts, run.tasks):
        yield from entries
    if run.fusion:
        yield from run.fusion.methods
    if run.distill:
        yield from (*run.distill.methods, *run.distill.teachers)
    if run.clip:
        yield from (*run.clip.methods, *run.clip.datasets)
