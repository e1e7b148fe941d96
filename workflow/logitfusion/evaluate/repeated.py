"""Scores of several runs of one config, put together example by example: one entry a task, or an average of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from logitfusion.config.jobs.report import metrics_job
from logitfusion.config.methods import fixed_rival, paper_rules, seen_tasks
from logitfusion.evaluate.crossed import Observations, average
from logitfusion.evaluate.fusion import SEEN
from logitfusion.evaluate.run_tables import RunTables
from logitfusion.evaluate.scores import METRIC, JudgedTask, is_mean
from logitfusion.evaluate.students import ALL_TASKS

UNSEEN = "unseen tasks"  # the macro-average over tasks that no expert was trained on


@dataclass(frozen=True, kw_only=True)
class RepeatedTask:
    """What all methods scored on one task, or on average over several, in all runs.

    Attributes:
        shots: support images a class; None but for few-shot CLIP.
        metric: that methods are compared by.
        better: ``higher`` or ``lower``.
        n: examples, of all tasks together.
        runs, seeds: how often it was repeated: runs, and seeds within each.
        values: method -> its score, in the order of the config.
        observed: method -> what the score is the mean of; those whose score is no mean are left out.
        compared: methods that are compared with rivals.
        rivals: those that a reader wants to know of, where nobody names others.
        ends: base and ceiling of the gap, where there are such.
    """

    track: str
    task: str
    shots: int | None = None
    metric: str
    better: str
    n: int
    runs: int
    seeds: int = 1
    values: Mapping[str, float]
    observed: Mapping[str, Observations]
    compared: tuple[str, ...]
    rivals: tuple[str, ...]
    ends: tuple[str | None, str | None] = (None, None)


def repeated_tasks(runs: Sequence[RunTables]) -> list[RepeatedTask]:
    """Every task of every track, averages after the tasks of their track.

    Args:
        runs: of one config, see ``check_comparable``.
    """
    config = runs[0].config
    found: list[RepeatedTask] = []
    if config.fusion and runs[0].fusion:
        found += _fusion(runs)
    if config.distill and runs[0].students:
        found += _students(runs)
    if config.clip and runs[0].fewshot:
        found += _fewshot(runs)
    return found


def _fusion(runs: Sequence[RunTables]) -> Iterator[RepeatedTask]:
    config, first = runs[0].config, runs[0].fusion
    seen, ends = seen_tasks(config), (config.evaluate.base, config.evaluate.ceiling)
    rivals = [fixed_rival(config), config.evaluate.base, paper_rules(config)[0]]
    tasks = {}
    for task in filter(first.__contains__, config.tasks):
        trials = {method: [method] for method in config.fusion.methods if method in first[task].scores}
        tasks[task] = _judged(
            "fusion", task, [run.fusion[task] for run in runs], trials,
            compared=tuple(method for method in trials if method != ends[1]),
            rivals=tuple(dict.fromkeys(filter(None, rivals))), ends=ends,
        )  # fmt: skip
    yield from tasks.values()
    for name, averaged in ((SEEN, seen), (UNSEEN, [task for task in tasks if task not in seen])):
        yield from _average(name, [tasks[task] for task in averaged if task in tasks])


def _students(runs: Sequence[RunTables]) -> Iterator[RepeatedTask]:
    config = runs[0].config
    track = metrics_job(config).distill
    rivals = (track.baseline,) if track.baseline else ()
    tasks = [
        _judged("distill", task, [run.students[task] for run in runs], track.trials,
                compared=track.methods, rivals=rivals, seeds=len(track.seeds))
        for task in config.tasks if task in runs[0].students
    ]  # fmt: skip
    yield from tasks
    yield from _average(ALL_TASKS, tasks)


def _fewshot(runs: Sequence[RunTables]) -> Iterator[RepeatedTask]:
    track, names = metrics_job(runs[0].config).clip, list(runs[0].config.clip.methods)
    for origin, sets in track.sets.items():
        for task in sets:
            for shots in track.shots:
                answers = [_select(run.fewshot[origin], task, shots) for run in runs]
                observed = {name: _answered(answers, name, track.seeds) for name in names}
                yield RepeatedTask(
                    track="clip", task=task, shots=shots, metric="accuracy", better="higher",
                    n=answers[0]["id"].nunique(), runs=len(runs), seeds=len(track.seeds),
                    values={name: one.value for name, one in observed.items()}, observed=observed,
                    compared=tuple(names), rivals=track.baselines,
                )  # fmt: skip


def _select(answers: pd.DataFrame, task: str, shots: int) -> pd.DataFrame:
    return answers[(answers["set"] == task) & (answers["shots"] == shots)]


def _answered(answers: Sequence[pd.DataFrame], method: str, seeds: Sequence[int]) -> Observations:
    wide = [table[table["method"] == method].pivot(index="seed", columns="id", values="correct") for table in answers]
    stacked = np.stack([one.loc[list(seeds)].sort_index(axis=1).to_numpy() for one in wide])
    return Observations.of(stacked.astype(float))


def _judged(
    track: str, task: str, judged: Sequence[JudgedTask], trials: Mapping[str, list[str]], seeds: int = 1, **cells: Any
) -> RepeatedTask:
    """One task of the harness; ``trials``: method -> its names in the judged tables, one a seed."""
    values, observed = {}, {}
    documents = judged[0].by_document("seconds").columns
    columns = [one.by_document(METRIC + one.metric).sort_index(axis=1) for one in judged]
    for method, names in trials.items():
        values[method], mean = _score(judged, columns, names)
        if mean is not None:
            observed[method] = Observations.of(np.broadcast_to(mean, (len(judged), seeds, mean.shape[-1])))
    return RepeatedTask(
        track=track, task=task, metric=judged[0].metric, better=judged[0].better, n=len(documents),
        runs=len(judged), seeds=seeds, values=values, observed=observed, **cells,
    )  # fmt: skip


def _score(
    judged: Sequence[JudgedTask], columns: Sequence[pd.DataFrame], names: list[str]
) -> tuple[float, np.ndarray | None]:
    """The harness's score, and ``[runs, seeds, documents]`` where it is their mean."""
    scores = [[one.find(name, one.metric) for name in names] for one in judged]
    told = [score.value for row in scores for score in row if score is not None]
    whole = len(told) == len(judged) * len(names)
    if any(table.empty for table in columns):
        return float(np.mean(told)) if whole else float("nan"), None
    stacked = np.stack([table.loc[names].to_numpy(float) for table in columns])
    pairs = zip(told, stacked.reshape(-1, stacked.shape[-1]), strict=True) if whole else ()
    means = all(is_mean(value, row) for value, row in pairs) and not np.isnan(stacked).any()
    return float(np.mean(told) if whole else stacked.mean()), stacked if means else None


def _average(name: str, tasks: Sequence[RepeatedTask]) -> Iterator[RepeatedTask]:
    """The macro-average of the methods that every task has; tasks where lower is better are no part of it."""
    averaged = [task for task in tasks if task.better == "higher"]
    if len(averaged) < 2:
        return
    first = averaged[0]
    shared = [method for method in first.values if all(method in task.values for task in averaged)]
    yield RepeatedTask(
        track=first.track, task=name, metric="score", better="higher", n=sum(task.n for task in averaged),
        runs=first.runs, seeds=first.seeds,
        values={method: float(np.mean([task.values[method] for task in averaged])) for method in shared},
        observed={
            method: average([task.observed[method] for task in averaged])
            for method in shared if all(method in task.observed for task in averaged)
        },
        compared=tuple(method for method in first.compared if method in shared), rivals=first.rivals, ends=first.ends,
    )  # fmt: skip
