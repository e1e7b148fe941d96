"""The few-shot track's rows of the tidy table: accuracy over seeds, gains, calibration, the labelled oracle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from logitfusion.config.evaluate import Evaluate
from logitfusion.config.tracks import FewShotTrack
from logitfusion.evaluate.calibration import expected_calibration_error
from logitfusion.evaluate.crossed import Observations
from logitfusion.evaluate.intervals import resample_seeds_and_means
from logitfusion.evaluate.table import Provenance, Score, TableWriter, compare_with_best


def tabulate_fewshot(
    answers: pd.DataFrame,
    epochs: pd.DataFrame,
    fits: pd.DataFrame,
    sets: tuple[str, ...],
    track: FewShotTrack,
    settings: Evaluate,
    provenance: Provenance,
) -> pd.DataFrame:
    """All numbers of one data set and of those that are a shift of it.

    A method's accuracy is the mean over seeds; its interval is of a bootstrap that resamples seeds and test images, the
    same ones for every method, so that gains over a baseline keep their pairs.

    Args:
        answers: ``method shots seed set id correct probability``.
        epochs: ``method shots seed set epoch accuracy``, of methods whose best test epoch is reported as an oracle.
        fits: ``method shots seed seconds images``.
        sets: the test sets, which are the tasks of the table.
        track: its shots, seeds and baselines.
        settings: the config's ``evaluate``.
        provenance: written on every row.

    Raises:
        KeyError: a method lacks the predictions of a seed.
    """
    writer = TableWriter("clip", settings, provenance)
    for task in sets:
        for shots in track.shots:
            mine, best = (rows[(rows["set"] == task) & (rows["shots"] == shots)] for rows in (answers, epochs))
            predictions = dict(list(mine.groupby("method", sort=False)))
            correct = {name: _stack(group, track.seeds) for name, group in predictions.items()}
            drawn = resample_seeds_and_means(correct, settings.resamples, writer.rng)
            scores = {
                name: Score(values.mean(), drawn[name], Observations.of(values[None]))
                for name, values in correct.items()
            }
            cells = {"task": task, "shots": shots, "n": mine["id"].nunique(), "seeds": len(track.seeds)}
            add = partial(writer.add, **cells)
            for name, score in scores.items():
                _add_scores(partial(add, method=name), score, correct[name], track.seeds)
                for other in track.baselines:
                    if other != name:
                        writer.add_difference(f"gain_over_{other}", score - scores[other], **cells, method=name)
                add("calibration_error", _calibration_error(predictions[name]), method=name)
                fit = fits[(fits["method"] == name) & (fits["shots"] == shots)]
                add("seconds_of_fitting", fit["seconds"].mean(), method=name)
            for name, group in best.groupby("method", sort=False):
                add("oracle_accuracy", group.groupby("seed")["accuracy"].max().mean(), method=name)
            compare_with_best(writer, scores, **cells)
    return writer.table()


def _stack(group: pd.DataFrame, seeds: tuple[int, ...]) -> np.ndarray:
    """Correctness, ``[seeds, images]``."""
    wide = group.pivot(index="seed", columns="id", values="correct")
    return wide.loc[list(seeds)].to_numpy().astype(float)


def _add_scores(add: Callable[..., None], score: Score, correct: np.ndarray, seeds: tuple[int, ...]) -> None:
    """Accuracy over all seeds, and where there are several its spread and that of each."""
    add("accuracy", score, better="higher")
    if len(seeds) > 1:
        means = correct.mean(axis=1)
        add("accuracy_std", means.std(ddof=1))
        for seed, mean in zip(seeds, means, strict=True):
            add("accuracy", mean, seed=seed, seeds=1)


def _calibration_error(answers: pd.DataFrame) -> float:
    """The mean over seeds of the error of the plain softmax."""
    errors = [
        expected_calibration_error(group["probability"].to_numpy(), group["correct"].to_numpy())
        for _, group in answers.groupby("seed")
    ]
    return float(np.mean(errors))
