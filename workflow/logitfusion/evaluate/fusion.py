"""The fusion track's rows of the tidy table: scores, what decoding cost, differences, ratios to the ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from logitfusion.config.evaluate import Evaluate
from logitfusion.config.tracks import FusionTrack
from logitfusion.evaluate.crossed import Observations
from logitfusion.evaluate.intervals import gap_closure, resample_means, score_ratio
from logitfusion.evaluate.scores import METRIC, JudgedTask, is_mean
from logitfusion.evaluate.table import Provenance, Score, TableWriter, average, compare_with_best

SEEN = "seen tasks"  # the macro-average over tasks that an expert was trained on


def tabulate_fusion(
    judged: dict[str, JudgedTask], track: FusionTrack, settings: Evaluate, provenance: Provenance
) -> pd.DataFrame:
    """All numbers of the fusion track.

    Args:
        judged: task -> its judged documents, all methods, and the harness's numbers.
        track: its seen tasks, whose macro-average is added for methods that decode them all, and its rival. Tasks where
            lower is better are no part of it.
        settings: the config's ``evaluate``.
        provenance: written on every row.
    """
    writer = TableWriter("fusion", settings, provenance)
    scores: dict[str, dict[str, Score]] = {}
    examples = {task: len(entry.by_document("seconds").columns) for task, entry in judged.items()}
    better = {task: entry.better for task, entry in judged.items()} | {SEEN: "higher"}
    for task, entry in judged.items():
        found = resample_metrics(entry, writer)
        scores[task] = found[entry.metric]
        _describe_task(writer, entry, task, found)
        for subtask in entry.subtasks:
            _describe_subtask(writer, entry, task, subtask)
    averaged = [task for task in track.seen if task in scores and better[task] == "higher"]
    if len(averaged) > 1:
        shared = [method for method in scores[averaged[0]] if all(method in scores[task] for task in averaged)]
        scores[SEEN] = {method: average([scores[task][method] for task in averaged]) for method in shared}
        examples[SEEN] = sum(examples[task] for task in averaged)
        for method, score in scores[SEEN].items():
            writer.add("score", score, method=method, task=SEEN, n=examples[SEEN], better="higher")
    for task, by_method in scores.items():
        _compare(writer, task, by_method, examples[task], better[task])
    for task, by_method in scores.items():
        _add_gains(writer, task, by_method, examples[task], track.rival, better[task])
    return writer.table()


def resample_metrics(entry: JudgedTask, writer: TableWriter, subtask: str | None = None) -> dict[str, dict[str, Score]]:
    """Metric -> method -> its score, all resampled with the same documents, which keeps every pair.

    Scores are the harness's. Where it has none, because a tag only collects tasks, it is the mean over documents.
    """
    parts = {metric: entry.by_document(METRIC + metric, subtask) for metric in entry.metrics(subtask)}
    methods = sorted(entry.scores)
    rows = [part.loc[methods].to_numpy(float) for part in parts.values() if len(part)]
    size, scores = writer.settings.resamples, {}
    drawn = iter(resample_means(np.concatenate(rows), size, writer.rng) if rows else ())
    for metric, part in parts.items():
        scores[metric] = {}
        for method in methods:
            samples = next(drawn) if len(part) else np.full(size, np.nan)
            values = part.loc[method].to_numpy(float) if len(part) else np.full(1, np.nan)
            harness = entry.find(method, metric, subtask)
            value = float(values.mean()) if harness is None else harness.value
            mean = is_mean(value, values)
            observed = Observations.of(values.reshape(1, 1, -1)) if mean else None
            scores[metric][method] = Score(value, samples if mean else np.full(size, np.nan), observed)
    return scores


def _describe_task(writer: TableWriter, entry: JudgedTask, task: str, scores: dict[str, dict[str, Score]]) -> None:
    """Scores, format failures, speed and mean weight of each method on one task."""
    for method, group in entry.examples.groupby("method"):
        add = partial(writer.add, method=method, task=task, n=len(group))
        seconds, tokens = float(group["seconds"].sum()), int(group["tokens"].map(len).sum())
        weights = [sum(step) for steps in group["weights"] for step in steps if len(step)]
        for metric, by_method in scores.items():
            cells = _harness_cells(entry, method, metric)
            main = {"better": entry.better, "seconds": seconds} if metric == entry.metric else {}
            add(metric, by_method[method], **cells | main)
        texts = group[group["loglikelihoods"].map(len) == 0]
        if len(texts):  # likelihoods have no form that could be missed
            add("format_failures", texts["format_failure"].mean(), n=len(texts))
        if seconds > 0 and tokens > 0:
            add("tokens_per_second", tokens / seconds)
        if weights:
            add("mean_weight", np.mean(weights))


def _describe_subtask(writer: TableWriter, entry: JudgedTask, task: str, subtask: str) -> None:
    """The scores on one subtask of a group."""
    for metric, by_method in resample_metrics(entry, writer, subtask).items():
        for method, score in by_method.items():
            cells = _harness_cells(entry, method, metric, subtask)
            writer.add(metric, score, method=method, task=task, subtask=subtask, **cells)


def _harness_cells(entry: JudgedTask, method: str, metric: str, subtask: str | None = None) -> dict[str, float | int]:
    """The standard error and the number of documents, where the harness gives a score."""
    found = entry.find(method, metric, subtask)
    return {} if found is None else {"stderr": found.stderr, "n": found.n}


def _compare(writer: TableWriter, task: str, scores: dict[str, Score], examples: int, better: str) -> None:
    """Ratio of scores and gap closure of each method against the untouched large model and the ceiling, if any.

    A ratio means nothing where lower is better; the share of a gap that is closed does.
    """
    ends = writer.settings.base, writer.settings.ceiling
    base, ceiling = (scores.get(end) for end in ends)
    if ceiling is None:
        return
    for method, score in scores.items():
        if method not in ends:
            add = partial(writer.add, method=method, task=task, n=examples)
            if better == "higher":
                add("score_ratio", score.apply(score_ratio, ceiling))
            if base is not None:
                own, *gap = _orient([score, base, ceiling], better)
                add("gap_closure", own.apply(gap_closure, *gap))


def _orient(scores: Sequence[Score], better: str) -> list[Score]:
    """Scores of which a higher one is better."""
    return list(scores) if better == "higher" else [score.apply(np.negative) for score in scores]


def _add_gains(
    writer: TableWriter, task: str, scores: dict[str, Score], examples: int, rival: str | None, better: str
) -> None:
    """Paired differences to the untouched large model, to the fixed weight, and to the best (the ceiling aside)."""
    for metric, other in (("gain", writer.settings.base), (f"gain_over_{rival}", rival)):
        if other in scores:
            for method, score in scores.items():
                if method != other:
                    writer.add_difference(metric, score - scores[other], method=method, task=task, n=examples)
    compared = {method: score for method, score in scores.items() if method != writer.settings.ceiling}
    compare_with_best(writer, compared, better=better, task=task, n=examples)
