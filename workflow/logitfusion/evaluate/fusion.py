"""The fusion track's rows of the tidy table: scores, what decoding cost, differences, ratios to the ceiling."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from logitfusion.config.evaluate import Evaluate
from logitfusion.config.tracks import FusionTrack
from logitfusion.evaluate.intervals import gap_closure, resample_means, score_ratio
from logitfusion.evaluate.table import Provenance, Score, TableWriter, average, compare_with_best

SEEN = "seen tasks"  # the macro-average over tasks that an expert was trained on


def tabulate_fusion(
    judged: dict[str, pd.DataFrame],
    metrics: dict[str, str],
    track: FusionTrack,
    settings: Evaluate,
    provenance: Provenance,
) -> pd.DataFrame:
    """All numbers of the fusion track.

    Args:
        judged: task -> its judged examples, all methods.
        metrics: task -> the name of its metric (``accuracy`` or ``exact_match``).
        track: its seen tasks, whose macro-average is added for methods that decode them all, and its rival.
        settings: the config's ``evaluate``.
        provenance: written on every row.
    """
    writer = TableWriter("fusion", settings, provenance)
    scores: dict[str, dict[str, Score]] = {}
    examples = {task: table["id"].nunique() for task, table in judged.items()}
    for task, table in judged.items():
        correct = table.pivot(index="method", columns="id", values="correct")
        samples = resample_means(correct.to_numpy(), settings.resamples, writer.rng)
        points = correct.to_numpy().astype(float).mean(axis=1)
        scores[task] = dict(zip(correct.index, map(Score, points, samples), strict=True))
        _describe_task(writer, table, task, metrics[task], scores[task])
    averaged = [task for task in track.seen if task in scores]
    if len(averaged) > 1:
        shared = [method for method in scores[averaged[0]] if all(method in scores[task] for task in averaged)]
        scores[SEEN] = {method: average([scores[task][method] for task in averaged]) for method in shared}
        examples[SEEN] = sum(examples[task] for task in averaged)
        for method, score in scores[SEEN].items():
            writer.add("score", score, method=method, task=SEEN, n=examples[SEEN])
    for task, by_method in scores.items():
        _compare(writer, task, by_method, examples[task])
    for task, by_method in scores.items():
        _add_gains(writer, task, by_method, examples[task], track.rival)
    return writer.table()


def _describe_task(writer: TableWriter, table: pd.DataFrame, task: str, metric: str, scores: dict[str, Score]) -> None:
    """Score, format failures, speed and mean weight of each method on one task."""
    for method, group in table.groupby("method"):
        add = partial(writer.add, method=method, task=task, n=len(group))
        seconds, tokens = float(group["seconds"].sum()), int(group["tokens"].map(len).sum())
        weights = [sum(step) for steps in group["weights"] for step in steps if len(step)]
        add(metric, scores[method], seconds=seconds)
        add("format_failures", group["format_failure"].mean())
        if seconds > 0:
            add("tokens_per_second", tokens / seconds)
        if weights:
            add("mean_weight", np.mean(weights))


def _compare(writer: TableWriter, task: str, scores: dict[str, Score], examples: int) -> None:
    """Ratio of scores and gap closure of each method against the untouched large model and the ceiling."""
    ends = writer.settings.base, writer.settings.ceiling
    if not all(end in scores for end in ends):
        return
    base, ceiling = (scores[end] for end in ends)
    for method, score in scores.items():
        if method not in ends:
            add = partial(writer.add, method=method, task=task, n=examples)
            add("score_ratio", score.apply(score_ratio, ceiling))
            add("gap_closure", score.apply(gap_closure, base, ceiling))


def _add_gains(writer: TableWriter, task: str, scores: dict[str, Score], examples: int, rival: str | None) -> None:
    """Paired differences to the untouched large model, to the fixed weight, and to the best (the ceiling aside)."""
    for metric, other in (("gain", writer.settings.base), (f"gain_over_{rival}", rival)):
        if other in scores:
            for method, score in scores.items():
                if method != other:
                    writer.add(metric, score - scores[other], method=method, task=task, n=examples)
    compared = {method: score for method, score in scores.items() if method != writer.settings.ceiling}
    compare_with_best(writer, compared, task=task, n=examples)
