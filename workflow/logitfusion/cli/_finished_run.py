"""A finished run's folder: its config, and what its metrics are made of."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from logitfusion.config.jobs.report import metrics_job
from logitfusion.config.load import check_copy, load_config
from logitfusion.config.methods import answered_tasks, method_tasks
from logitfusion.config.run import RunConfig
from logitfusion.errors import UserError
from logitfusion.evaluate.repeated import repeated_tasks
from logitfusion.evaluate.run_tables import RunTables
from logitfusion.evaluate.scores import JudgedTask, read_judged
from logitfusion.tables import read_table


def find_run(name: str) -> Path:
    """The folder of a run, by its path or by its name in ``results``.

    Raises:
        UserError: there is none.
    """
    folder = Path(name) if Path(name).is_dir() else Path("results") / name
    if not folder.is_dir():
        raise UserError(f"There is no run {name!r}: neither that folder nor {folder} exists.")
    return folder


def read_run(folder: Path) -> RunTables:
    """What a run's folder holds.

    Raises:
        UserError: it is not finished, or was changed since; or a file of it is missing or damaged.
    """
    path = folder / "metrics.parquet"
    if not path.is_file():
        raise UserError(f"The run {folder} has no metrics.parquet, so it is not finished; run it to its end first.")
    metrics = read_table(path)
    made = metrics.iloc[0]
    config = _find_config(folder, made["config"])
    fusion = [task for task in config.tasks if config.fusion and _decoded(config, task)]
    students = answered_tasks(config) if config.distill else []
    datasets = metrics_job(config).clip.sets if config.clip else ()
    run = RunTables(
        config=config,
        digest=str(made["config"]),
        commit=str(made["commit"]),
        fusion={task: _read(folder / "evaluation", task) for task in fusion},
        students={task: _read(folder / "distill/evaluation", task) for task in students},
        fewshot={name: read_table(folder / f"clip/predictions/{name}/answers.parquet") for name in datasets},
    )
    _refuse_mixed(folder, run, metrics)
    return run


def _decoded(config: RunConfig, task: str) -> bool:
    return any(task in method_tasks(config, method) for method in config.fusion.methods)


def _read(folder: Path, task: str) -> JudgedTask:
    return read_judged(folder / f"{task}.parquet", folder / f"{task}.json")


def _refuse_mixed(folder: Path, run: RunTables, metrics: pd.DataFrame) -> None:
    """Refuse answers that metrics were not made of: those of a later call with another config, which was stopped."""
    found = {
        (one.track, one.task, method, one.metric, one.shots): value
        for one in repeated_tasks([run])
        for method, value in one.values.items()
    }
    compared = metrics[metrics["better"].notna()]  # the scores of whole tasks
    for row in compared.astype(object).where(compared.notna(), None).to_dict("records"):
        key = tuple(row[column] for column in ("track", "task", "method", "metric", "shots"))
        told = math.nan if row["value"] is None else row["value"]
        if not np.isclose(found.get(key, math.inf), told, rtol=1e-9, atol=1e-12, equal_nan=True):
            raise UserError(
                f"The run {folder} was changed after its metrics were made: {row['method']!r} on {row['task']!r} has"
                " other answers now; run it to its end first."
            )


def _find_config(folder: Path, digest: str) -> RunConfig:
    """The config that the metrics are of; others were run before or after it."""
    for path in sorted((folder / "config").glob("*.json")):
        check_copy(path)
        config = load_config(path)
        if metrics_job(config).config == digest:
            return config
    raise UserError(
        f"The run {folder} has no config/*.json of its metrics (config {digest}): they are not of this version of"
        " logitfusion, or that file was deleted; run it again."
    )
