"""The distillation track's rows of the tidy table: scores of students over seeds, gains, agreement with teachers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from logitfusion.evaluate.intervals import resample_seeds_and_means
from logitfusion.evaluate.table import COLUMNS, average_scores, describe_score

ALL_TASKS = "all tasks"  # the macro-average


def tabulate_students(
    judged: dict[str, pd.DataFrame],
    *,
    metrics: dict[str, str],
    track: dict[str, Any],
    settings: dict[str, Any],
    labels: dict[str, Any],
) -> pd.DataFrame:
    """All numbers of the distillation track.

    A method's score is the mean over its seeds; its interval is of a bootstrap that resamples seeds and examples,
    the same ones for every method, so that gains (over the baseline method) keep their pairs.

    Args:
        judged: task -> its judged examples; the column ``method`` holds ``<method>.<seed>``, and names of untrained
            models.
        metrics: task -> the name of its metric.
        track: ``student``, ``teachers`` (name -> model), ``methods``, ``seeds``, ``baseline``.
        settings: the config's ``evaluate``.
        labels: ``run, split, config, commit``: written on every row.
    """
    rng = np.random.default_rng(settings["seed"])
    members = members_of(track)
    rows: list[dict[str, Any]] = []
    samples: dict[str, dict[str, tuple[float, np.ndarray]]] = {}
    for task, table in judged.items():
        correct, failures, answers = (_pivot(table, column) for column in ("correct", "format_failure", "answer"))
        stacked = {
            name: np.stack([correct.loc[trial] for trial in trials]).astype(float) for name, trials in members.items()
        }
        drawn = resample_seeds_and_means(stacked, settings["resamples"], rng)
        samples[task] = {name: (float(values.mean()), drawn[name]) for name, values in stacked.items()}
        for name, trials in members.items():
            common = {"method": name, "task": task, "n": correct.shape[1], "seeds": len(trials)}
            rows.append(common | describe_score(metrics[task], samples[task][name], settings))
            for trial, right in zip(trials, stacked[name], strict=True):
                if len(trials) > 1:
                    rows.append(
                        common | {"metric": metrics[task], "value": right.mean(), "seed": _seed(trial), "seeds": 1}
                    )
            rows.append(common | {"metric": "format_failures", "value": float(failures.loc[trials].to_numpy().mean())})
            rows += [common | row for row in _agreement(answers, trials, track["teachers"])]
            seconds = table[table["method"].isin(trials)]["seconds"].sum()
            rows.append(common | {"metric": "seconds_of_decoding", "value": float(seconds) / len(trials)})
    if len(judged) > 1:
        samples[ALL_TASKS] = {name: average_scores([samples[task][name] for task in judged]) for name in members}
        examples = sum(table["id"].nunique() for table in judged.values())
        for name, trials in members.items():
            common = {"method": name, "task": ALL_TASKS, "n": examples, "seeds": len(trials)}
            rows.append(common | describe_score("score", samples[ALL_TASKS][name], settings))
    rows += _gains(samples, rows, track, settings)
    table = pd.DataFrame(rows).assign(track="distill", shots=pd.NA, confidence=settings["confidence"], **labels)
    return table.reindex(columns=list(COLUMNS))


def members_of(track: dict[str, Any]) -> dict[str, list[str]]:
    """Every row of the table -> its trials: untrained models under their own names, methods with all their seeds."""
    untrained = {name: [name] for name in dict.fromkeys([track["student"], *track["teachers"].values()])}
    return untrained | {name: [f"{name}.{seed}" for seed in track["seeds"]] for name in track["methods"]}


def _seed(trial: str) -> int:
    return int(trial.rsplit(".", 1)[1])


def _pivot(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.pivot(index="method", columns="id", values=column)


def _agreement(answers: pd.DataFrame, trials: list[str], teachers: dict[str, str]) -> list[dict[str, Any]]:
    """Share of the examples that a teacher answers at all where the student gives the same answer."""
    rows = []
    for teacher, model in teachers.items():
        said = answers.loc[model]
        same = answers.loc[trials].eq(said, axis=1).loc[:, said.notna()].to_numpy()
        if same.size and trials != [model]:
            rows.append({"metric": f"agreement_{teacher}", "value": float(same.mean()), "n": int(said.notna().sum())})
    return rows


def _gains(
    samples: dict[str, dict[str, tuple[float, np.ndarray]]],
    rows: list[dict[str, Any]],
    track: dict[str, Any],
    settings: dict[str, Any],
) -> list[dict[str, Any]]:
    """What each method gains over the baseline method, example by example."""
    counts = {(row["method"], row["task"]): (row["n"], row["seeds"]) for row in reversed(rows) if "ci_low" in row}
    found = []
    for task, scores in samples.items():
        base = scores[track["baseline"]]
        for name in track["methods"]:
            if name != track["baseline"]:
                gain = scores[name][0] - base[0], scores[name][1] - base[1]
                n, seeds = counts[name, task]
                found.append(
                    {"method": name, "task": task, "n": n, "seeds": seeds} | describe_score("gain", gain, settings)
                )
    return found
