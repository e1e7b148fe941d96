"""The distillation track's rows of the tidy table: scores of students over seeds, gains, agreement with teachers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from logitfusion.config.evaluate import Evaluate
from logitfusion.config.tracks import StudentsTrack
from logitfusion.evaluate.crossed import Observations
from logitfusion.evaluate.intervals import resample_seeds_and_means
from logitfusion.evaluate.scores import METRIC, JudgedTask, is_mean
from logitfusion.evaluate.table import Provenance, Score, TableWriter, average, compare_with_best

ALL_TASKS = "all tasks"  # the macro-average


def tabulate_students(
    judged: dict[str, JudgedTask], track: StudentsTrack, settings: Evaluate, provenance: Provenance
) -> pd.DataFrame:
    """All numbers of the distillation track.

    A method's score is the mean over its seeds; its interval is of a bootstrap that resamples seeds and examples,
    the same ones for every method, so that gains (over the baseline method) keep their pairs.

    Args:
        judged: task -> its judged documents and the harness's numbers, of methods ``<method>.<seed>`` and of models.
        track: the members of the table.
        settings: the config's ``evaluate``.
        provenance: written on every row.
    """
    writer = TableWriter("distill", settings, provenance)
    scores: dict[str, dict[str, Score]] = {}
    examples = {task: len(entry.by_document("seconds").columns) for task, entry in judged.items()}
    better = {task: entry.better for task, entry in judged.items()} | {ALL_TASKS: "higher"}
    for task, entry in judged.items():
        scores[task] = _tabulate_task(writer, entry, task, track)
    averaged = [task for task in judged if better[task] == "higher"]
    if len(averaged) > 1:
        scores[ALL_TASKS] = {name: average([scores[task][name] for task in averaged]) for name in track.trials}
        examples[ALL_TASKS] = sum(examples[task] for task in averaged)
        for name, score in scores[ALL_TASKS].items():
            cells = {"n": examples[ALL_TASKS], "seeds": len(track.trials[name]), "better": "higher"}
            writer.add("score", score, method=name, task=ALL_TASKS, **cells)
    for task, by_name in scores.items():
        for name in track.methods:
            if track.baseline is not None and name != track.baseline:
                gain = by_name[name] - by_name[track.baseline]
                writer.add_difference("gain", gain, method=name, task=task, n=examples[task], seeds=len(track.seeds))
    for task, by_name in scores.items():
        trained = {name: by_name[name] for name in track.methods}
        compare_with_best(writer, trained, better=better[task], task=task, n=examples[task], seeds=len(track.seeds))
    return writer.table()


def _tabulate_task(writer: TableWriter, entry: JudgedTask, task: str, track: StudentsTrack) -> dict[str, Score]:
    """Add the numbers of one task; the scores that methods are compared by."""
    scores = _resample_trials(entry, track, writer)
    failures, answers = entry.by_document("format_failure"), entry.by_document("answer")
    texts = entry.by_document("loglikelihoods").map(len) == 0
    for name, trials in track.trials.items():
        add = partial(writer.add, method=name, task=task, n=failures.shape[1], seeds=len(trials))
        for metric in entry.metrics():
            main = {"better": entry.better} if metric == entry.metric else {}
            found = [entry.find(trial, metric) for trial in trials]
            add(metric, scores[metric, name], **main, stderr=found[0].stderr if len(trials) == 1 and found[0] else None)
            if len(trials) > 1 and main:
                for seed, own in zip(track.seeds, found, strict=True):
                    add(metric, own.value, seed=seed, seeds=1, stderr=own.stderr)
        failed = failures.loc[trials].to_numpy(bool)[texts.loc[trials].to_numpy()]
        if len(failed):  # likelihoods have no form that could be missed
            add("format_failures", failed.mean())
        for teacher, model in track.teachers.items():
            answered = answers.loc[model].notna()
            if trials != [model] and answered.any():
                same = answers.loc[trials].eq(answers.loc[model], axis=1).loc[:, answered]
                # The share of the examples that the teacher answers at all where the student gives the same answer.
                add(f"agreement_{teacher}", same.to_numpy().mean(), n=answered.sum())
        add("seconds_of_decoding", _seconds(entry, trials) / len(trials))
    return {name: scores[entry.metric, name] for name in track.trials}


def _seconds(entry: JudgedTask, trials: list[str]) -> float:
    table = entry.examples
    return table[table["method"].isin(trials)]["seconds"].sum()


def _resample_trials(entry: JudgedTask, track: StudentsTrack, writer: TableWriter) -> dict[tuple[str, str], Score]:
    """Metric and method -> its score over seeds, all resampled with the same documents and seeds."""
    columns = {metric: entry.by_document(METRIC + metric) for metric in entry.metrics()}
    stacked = {
        (metric, name): np.stack([values.loc[trial] for trial in trials]).astype(float)
        for metric, values in columns.items() if len(values)
        for name, trials in track.trials.items()
    }  # fmt: skip
    size = writer.settings.resamples
    drawn = resample_seeds_and_means(stacked, size, writer.rng) if stacked else {}
    scores, nothing = {}, np.full(size, np.nan)
    for metric in columns:
        for name, trials in track.trials.items():
            found = [entry.find(trial, metric) for trial in trials]
            values = stacked.get((metric, name), np.full((1, 1), np.nan))
            value = float(np.mean([one.value for one in found]) if all(found) else values.mean())
            mean = is_mean(value, values.ravel())
            observed = Observations.of(values[None]) if mean else None
            scores[metric, name] = Score(value, drawn[metric, name] if mean else nothing, observed)
    return scores
