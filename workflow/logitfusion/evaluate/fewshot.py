"""The few-shot track's rows of the tidy table: accuracy over seeds, gains, calibration, the labelled oracle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from logitfusion.evaluate.intervals import resample_seeds_and_means
from logitfusion.evaluate.table import COLUMNS, describe_score

BINS = 15  # of the calibration error


def tabulate_fewshot(
    answers: pd.DataFrame,
    epochs: pd.DataFrame,
    fits: pd.DataFrame,
    *,
    sets: list[str],
    track: dict[str, Any],
    settings: dict[str, Any],
    labels: dict[str, Any],
) -> pd.DataFrame:
    """All numbers of one data set and of those that are a shift of it.

    A method's accuracy is the mean over seeds; its interval is of a bootstrap that resamples seeds and test images, the
    same ones for every method, so that gains over a baseline keep their pairs.

    Args:
        answers: ``method shots seed set id correct probability``.
        epochs: ``method shots seed set epoch accuracy``, of methods whose best test epoch is reported as an oracle.
        fits: ``method shots seed seconds images``.
        sets: the test sets, which are the tasks of the table.
        track: ``shots``, ``seeds``, ``baselines``.
        settings: the config's ``evaluate``.
        labels: ``run, split, config, commit``: written on every row.
    """
    rng = np.random.default_rng(settings["seed"])
    rows: list[dict[str, Any]] = []
    for task in sets:
        for shots in track["shots"]:
            mine = answers[(answers["set"] == task) & (answers["shots"] == shots)]
            stacked = {name: _stack(group, track["seeds"]) for name, group in mine.groupby("method", sort=False)}
            drawn = resample_seeds_and_means(stacked, settings["resamples"], rng)
            for name, correct in stacked.items():
                common = {"method": name, "task": task, "shots": shots, "n": correct.shape[1], "seeds": len(correct)}
                rows += [common | row for row in _scores(correct, drawn[name], track["seeds"], settings)]
                for other in track["baselines"]:
                    if other != name:
                        gain = correct.mean() - stacked[other].mean(), drawn[name] - drawn[other]
                        rows.append(common | describe_score(f"gain_over_{other}", gain, settings))
                error = _calibration_error(mine[mine["method"] == name])
                rows.append(common | {"metric": "calibration_error", "value": error})
                fit = fits[(fits["method"] == name) & (fits["shots"] == shots)]
                rows.append(common | {"metric": "seconds_of_fitting", "value": float(fit["seconds"].mean())})
            best = epochs[(epochs["set"] == task) & (epochs["shots"] == shots)]
            for name, group in best.groupby("method", sort=False):
                value = float(group.groupby("seed")["accuracy"].max().mean())
                common = {"method": name, "task": task, "shots": shots, "n": stacked[name].shape[1]}
                rows.append(common | {"seeds": len(track["seeds"]), "metric": "oracle_accuracy", "value": value})
    table = pd.DataFrame(rows).assign(track="clip", confidence=settings["confidence"], **labels)
    return table.reindex(columns=list(COLUMNS))


def _stack(group: pd.DataFrame, seeds: list[int]) -> np.ndarray:
    """What is right, ``[seeds, images]``."""
    wide = group.pivot(index="seed", columns="id", values="correct")
    return wide.loc[seeds].to_numpy().astype(float)


def _scores(
    correct: np.ndarray, drawn: np.ndarray, seeds: list[int], settings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    yield describe_score("accuracy", (correct.mean(), drawn), settings)
    if len(seeds) > 1:
        means = correct.mean(axis=1)
        yield {"metric": "accuracy_std", "value": float(means.std(ddof=1))}
        for seed, mean in zip(seeds, means, strict=True):
            yield {"metric": "accuracy", "value": float(mean), "seed": seed, "seeds": 1}


def _calibration_error(answers: pd.DataFrame) -> float:
    """Expected calibration error (Guo et al., arXiv 1706.04599): 15 bins of equal width, the mean over seeds."""
    errors = []
    for _, group in answers.groupby("seed"):
        place = np.minimum((group["probability"].to_numpy() * BINS).astype(int), BINS - 1)
        gaps = np.zeros(BINS)
        np.add.at(gaps, place, group["correct"].to_numpy().astype(float) - group["probability"].to_numpy())
        errors.append(np.abs(gaps).sum() / len(group))
    return float(np.mean(errors))
