"""The distillation track's rows of the tidy table: scores of students over seeds, gains, agreement with teachers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from logitfusion.config.evaluate import Evaluate
from logitfusion.config.tracks import StudentsTrack
from logitfusion.evaluate.intervals import resample_seeds_and_means
from logitfusion.evaluate.table import Provenance, Score, TableWriter, average, compare_with_best

ALL_TASKS = "all tasks"  # the macro-average


def tabulate_students(
    judged: dict[str, pd.DataFrame],
    metrics: dict[str, str],
    track: StudentsTrack,
    settings: Evaluate,
    provenance: Provenance,
) -> pd.DataFrame:
    """All numbers of the distillation track.

    A method's score is the mean over its seeds; its interval is of a bootstrap that resamples seeds and examples,
    the same ones for every method, so that gains (over the baseline method) keep their pairs.

    Args:
        judged: task -> its judged examples; the column ``method`` holds ``<method>.<seed>``, and names of the
            models.
        metrics: task -> the name of its metric.
        track: the members of the table.
        settings: the config's ``evaluate``.
        provenance: written on every row.
    """
    writer = TableWriter("distill", settings, provenance)
    scores: dict[str, dict[str, Score]] = {}
    examples = {task: table["id"].nunique() for task, table in judged.items()}
    for task, table in judged.items():
        scores[task] = _tabulate_task(writer, table, task, metrics[task], track)
    if len(judged) > 1:
        scores[ALL_TASKS] = {name: average([scores[task][name] for task in judged]) for name in track.trials}
        examples[ALL_TASKS] = sum(examples.values())
        for name, score in scores[ALL_TASKS].items():
            seeds = len(track.trials[name])
            writer.add("score", score, method=name, task=ALL_TASKS, n=examples[ALL_TASKS], seeds=seeds)
    for task, by_name in scores.items():
        for name in track.methods:
            if name != track.baseline:
                gain = by_name[name] - by_name[track.baseline]
                writer.add("gain", gain, method=name, task=task, n=examples[task], seeds=len(track.seeds))
    for task, by_name in scores.items():
        trained = {name: by_name[name] for name in track.methods}
        compare_with_best(writer, trained, task=task, n=examples[task], seeds=len(track.seeds))
    return writer.table()


def _tabulate_task(
    writer: TableWriter, table: pd.DataFrame, task: str, metric: str, track: StudentsTrack
) -> dict[str, Score]:
    """Add the numbers of one task; its scores."""
    correct, failures, answers = (
        table.pivot(index="method", columns="id", values=column) for column in ("correct", "format_failure", "answer")
    )
    stacked = {
        name: np.stack([correct.loc[trial] for trial in trials]).astype(float) for name, trials in track.trials.items()
    }
    drawn = resample_seeds_and_means(stacked, writer.settings.resamples, writer.rng)
    scores = {name: Score(float(values.mean()), drawn[name]) for name, values in stacked.items()}
    for name, trials in track.trials.items():
        add = partial(writer.add, method=name, task=task, n=correct.shape[1], seeds=len(trials))
        add(metric, scores[name])
        if len(trials) > 1:
            for seed, right in zip(track.seeds, stacked[name], strict=True):
                add(metric, right.mean(), seed=seed, seeds=1)
        add("format_failures", failures.loc[trials].to_numpy().mean())
        for teacher, model in track.teachers.items():
            answered = answers.loc[model].notna()
            if trials != [model] and answered.any():
                same = answers.loc[trials].eq(answers.loc[model], axis=1).loc[:, answered]
                # The share of the examples that the teacher answers at all where the student gives the same answer.
                add(f"agreement_{teacher}", same.to_numpy().mean(), n=answered.sum())
        add("seconds_of_decoding", table[table["method"].isin(trials)]["seconds"].sum() / len(trials))
    return scores
