"""What the files of a run say, as far as they are there: the page of a run that failed shows what there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from logitfusion.config.jobs.page import PageJob
from logitfusion.config.run import RunConfig
from logitfusion.errors import UserError
from logitfusion.integrity import read_record
from logitfusion.tables import read_table

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """Where the files of a run are, whether they are there or not.

    Attributes:
        metrics: the tidy table.
        models: folders of models and experts, ``.../<name>``.
        students: folders of trained students, ``.../<method>.<seed>``.
        tasks: the records of tasks, ``.../<task>/record.json``.
        datasets: the records of image data sets, ``.../<set>/record.json``.
        encoder: the folder of the CLIP.
        caches: the shards of teachers' caches, ``.../<teacher>/<shard>.safetensors``.
        packages: packages that models were taken from.
        judged: the judged examples of fusion, ``.../<task>.parquet``.
        answered: those of distillation.
        predictions: folders of answers on test images, ``.../<data set>``.
        images: the tables of image data sets, ``.../<data set>/table.parquet``.
        parts: everything else that a whole run has.
        benchmarks: the folder of Snakemake's measurements.
        runs: the folder of records of calls.
        lock: the file of exact versions.
        full: where the page with everything is to be, which the bounded one names.
    """

    metrics: Path
    models: Sequence[Path] = ()
    students: Sequence[Path] = ()
    tasks: Sequence[Path] = ()
    datasets: Sequence[Path] = ()
    encoder: Path | None = None
    caches: Sequence[Path] = ()
    packages: Sequence[Path] = ()
    judged: Sequence[Path] = ()
    answered: Sequence[Path] = ()
    predictions: Sequence[Path] = ()
    images: Sequence[Path] = ()
    parts: Sequence[Path] = ()
    benchmarks: Path | None = None
    runs: Path | None = None
    lock: Path | None = None
    full: Path

    @property
    def missing(self) -> list[Path]:
        """What a whole run has and this one has not."""
        one = [path for path in (self.metrics, self.encoder) if path is not None]
        many = [self.models, self.students, self.tasks, self.datasets, self.caches, self.parts]
        many += [self.judged, self.answered, self.predictions, self.images]
        return [
            path for path in dict.fromkeys([*one, *(path for paths in many for path in paths)]) if not path.exists()
        ]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the page is made of.

    Attributes:
        metrics: the tidy table; empty where it is missing.
        records: model or expert -> its record.
        curves: model, expert or ``<method>.<seed>`` -> its loss curve.
        unreadable: sentences about files that are there and can't be read.
    """

    job: PageJob
    run: RunConfig
    files: RunFiles
    metrics: pd.DataFrame
    records: dict[str, dict[str, Any]]
    curves: dict[str, pd.DataFrame]
    unreadable: list[str] = field(default_factory=list)

    def track(self, name: str) -> pd.DataFrame:
        """The rows of a track, without those of single subtasks of a group."""
        rows = self.metrics
        return rows[(rows["track"] == name) & rows["subtask"].isna()] if len(rows) else rows


def gather_facts(job: PageJob, files: RunFiles) -> Facts:
    """Read what there is; what is missing or broken is told, and stops nothing."""
    unreadable: list[str] = []

    def read(reader: Callable[[Path], Found], path: Path) -> Found | None:
        if not path.exists():
            return None
        try:
            return reader(path)
        except UserError as error:
            unreadable.append(str(error))
            return None

    trained = [*files.models, *files.students]
    records = {path.name: read(read_record, path) for path in trained}
    curves = {path.name: read(read_table, path / "curve.csv") for path in trained}
    metrics = read(read_table, files.metrics)
    return Facts(
        job=job,
        run=job.run,
        files=files,
        metrics=pd.DataFrame() if metrics is None else metrics,
        records={name: record for name, record in records.items() if record is not None},
        curves={name: curve for name, curve in curves.items() if curve is not None and len(curve)},
        unreadable=unreadable,
    )
