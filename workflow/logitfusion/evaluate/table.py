"""The tidy table that everything after it reads: one number a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from logitfusion.evaluate.intervals import gap_closure, percentile_interval, resample_means, score_ratio

SEEN = "seen tasks"  # the macro-average over tasks that an expert was trained on

COLUMNS = (
    "track", "run", "split", "method", "task", "shots", "seed", "seeds", "metric", "value", "ci_low", "ci_high", "n",
    "seconds", "confidence", "config", "commit",
)  # fmt: skip


def join_tables(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The tables of several tracks as one, with one type a column."""
    table = pd.concat([one.astype(object) for one in tables], ignore_index=True)
    whole = dict.fromkeys(("shots", "seed", "seeds", "n"), "Int64")
    numbers = dict.fromkeys(("value", "ci_low", "ci_high", "seconds", "confidence"), "float64")
    return table.astype({name: "string" for name in COLUMNS if name not in whole | numbers} | whole | numbers)


def tabulate_fusion(
    judged: dict[str, pd.DataFrame],
    *,
    metrics: dict[str, str],
    seen: list[str],
    settings: dict[str, Any],
    labels: dict[str, Any],
) -> pd.DataFrame:
    """All numbers of the fusion track.

    Args:
        judged: task -> its judged examples, all methods.
        metrics: task -> the name of its metric (``accuracy`` or ``exact_match``).
        seen: the tasks that experts were trained on; their macro-average is added for methods that decode them all.
        settings: the config's ``evaluate``.
        labels: ``run, split, seed, config, commit``: written on every row.
    """
    rng = np.random.default_rng(settings["seed"])
    scores: dict[str, dict[str, tuple[float, np.ndarray]]] = {}
    rows: list[dict[str, Any]] = []
    for task, table in judged.items():
        correct = table.pivot(index="method", columns="id", values="correct")
        samples = resample_means(correct.to_numpy(), settings["resamples"], rng)
        points = correct.to_numpy().astype(float).mean(axis=1)
        scores[task] = {method: (points[row], samples[row]) for row, method in enumerate(correct.index)}
        rows += _describe_task(table, task, metrics[task], scores[task], settings)
    averaged = [task for task in seen if task in scores]
    shared = set.intersection(*(set(scores[task]) for task in averaged)) if len(averaged) > 1 else set()
    if shared:
        scores[SEEN] = {method: average_scores([scores[task][method] for task in averaged]) for method in shared}
        examples = sum(len(judged[task]["id"].unique()) for task in averaged)
        for method, score in scores[SEEN].items():
            rows.append(_row(method, SEEN, "score", score, examples, settings))
    for task, by_method in scores.items():
        examples = next(row["n"] for row in rows if row["task"] == task)
        rows += _compare(task, by_method, examples, settings)
    table = pd.DataFrame(rows).assign(track="fusion", shots=pd.NA, seeds=1, confidence=settings["confidence"], **labels)
    return table.reindex(columns=list(COLUMNS))


def average_scores(scores: list[tuple[float, np.ndarray]]) -> tuple[float, np.ndarray]:
    """The macro-average of points and of their bootstrap samples."""
    return float(np.mean([point for point, _ in scores])), np.mean([samples for _, samples in scores], axis=0)


def _row(
    method: str, task: str, metric: str, score: tuple[float, np.ndarray], examples: int, settings: dict[str, Any]
) -> dict[str, Any]:
    return {"method": method, "task": task, "n": examples} | describe_score(metric, score, settings)


def describe_score(metric: str, score: tuple[float, np.ndarray], settings: dict[str, Any]) -> dict[str, Any]:
    """The part of a row that says a number (a point and its bootstrap samples) with its interval."""
    low, high = percentile_interval(score[1], settings["confidence"])
    return {"metric": metric, "value": float(score[0]), "ci_low": low, "ci_high": high}


def _describe_task(
    table: pd.DataFrame,
    task: str,
    metric: str,
    scores: dict[str, tuple[float, np.ndarray]],
    settings: dict[str, Any],
) -> list[dict[str, Any]]:
    """Score, format failures, speed and mean weight of each method on one task."""
    rows = []
    for method, group in table.groupby("method"):
        examples, seconds = len(group), float(group["seconds"].sum())
        rows.append(_row(method, task, metric, scores[method], examples, settings) | {"seconds": seconds})
        tokens = int(group["tokens"].map(len).sum())
        weights = [sum(step) for steps in group["weights"] for step in steps if len(step)]
        plain = {
            "format_failures": group["format_failure"].mean(),
            "tokens_per_second": tokens / seconds if seconds > 0 else float("nan"),
            "mean_weight": float(np.mean(weights)) if weights else float("nan"),
        }
        for name, value in plain.items():
            if not np.isnan(value):
                rows.append({"method": method, "task": task, "metric": name, "value": float(value), "n": examples})
    return rows


def _compare(
    task: str, scores: dict[str, tuple[float, np.ndarray]], examples: int, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Ratio of scores and gap closure of each method against the untouched large model and the ceiling."""
    if settings["ceiling"] not in scores or settings["base"] not in scores:
        return []
    base, ceiling = scores[settings["base"]], scores[settings["ceiling"]]
    rows = []
    for method, score in scores.items():
        if method in (settings["base"], settings["ceiling"]):
            continue
        ratio = tuple(score_ratio(*pair) for pair in zip(score, ceiling, strict=True))
        closure = tuple(gap_closure(*triple) for triple in zip(score, base, ceiling, strict=True))
        rows.append(_row(method, task, "score_ratio", ratio, examples, settings))
        rows.append(_row(method, task, "gap_closure", closure, examples, settings))
    return rows
