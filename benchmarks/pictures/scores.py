"""Test accuracy of the few-shot command's default beside its parts, and of what `fewshot fit` would recommend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from logitfusion.clip import Support, fit_method
from logitfusion.clip.fitting.compare import choose_methods, compare_methods
from logitfusion.clip.methods import DEFAULT_METHOD
from logitfusion.evaluate.intervals import percentile_interval, resample_seeds_and_means
from pictures.sets import PictureSet

PARTS = ("zero_shot", "clip_probe", "auxiliary_probe", "logit_sum")
RIVALS = ("gda", "amu_classes")
METHODS = (*PARTS, *RIVALS, DEFAULT_METHOD)
RESAMPLES = 2000


def score_set(pictures: PictureSet, shots: int, seeds: int, compared: int) -> dict[str, Any]:
    """One row of the study.

    Args:
        compared: of so many seeds, from 0, it is told what would be recommended.
    """
    right = {name: [] for name in METHODS}
    recommended: list[str] = []
    found: list[np.ndarray] = []
    for seed in range(seeds):
        support = pictures.supports[shots, seed]
        for name in METHODS:
            right[name].append(_answers(pictures, support, name, seed))
        if seed < compared:
            recommended.append(recommend(support, seed))
            chosen = right.get(recommended[-1])
            found.append(chosen[seed] if chosen else _answers(pictures, support, recommended[-1], seed))
    stacked = {name: np.stack(rows) for name, rows in right.items()}
    row = {
        "set": pictures.name,
        "chosen_on": pictures.chosen_on,
        "classes": pictures.supports[shots, 0].classes,
        "shots": shots,
        "n": len(pictures.labels),
        "seeds": seeds,
        "support": [len(pictures.supports[shots, seed].labels) for seed in range(seeds)],
        "accuracy": {name: float(rows.mean()) for name, rows in stacked.items()},
        "default": below_best(stacked[DEFAULT_METHOD], stacked, PARTS),
        "recommended": recommended,
    }
    if found:
        own = {name: rows[:compared] for name, rows in stacked.items()}
        row["recommendation"] = below_best(np.stack(found), own, METHODS)
    return row


def recommend(support: Support, seed: int) -> str:
    """What ``fewshot fit`` says to take, of the methods that it compares unasked."""
    methods, _ = choose_methods(support, {}, dear=False)
    found = compare_methods(support, methods, expected=DEFAULT_METHOD, seed=seed).recommended
    return found or DEFAULT_METHOD  # nothing can be held out: what was expected stands


def below_best(right: np.ndarray, others: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Any]:
    """Accuracy minus that of the best of some methods, paired by image and seed.

    The best is chosen by the test images themselves, which flatters it. The interval resamples images and seeds.

    Args:
        right: ``[seeds, n]``.
    """
    best = max(names, key=lambda name: others[name].mean())
    samples = resample_seeds_and_means({"own": right, "best": others[best]}, RESAMPLES, np.random.default_rng(0))
    low, high = percentile_interval(samples["own"] - samples["best"], 0.95)
    return {"best": best, "difference": float(right.mean() - others[best].mean()), "low": low, "high": high}


def _answers(pictures: PictureSet, support: Support, name: str, seed: int) -> np.ndarray:
    """Which test images a method has right, ``[n]``."""
    head = fit_method(name, support, seed=seed)
    return (head.logits(pictures.clip, pictures.auxiliary).argmax(-1) == pictures.labels).numpy()
