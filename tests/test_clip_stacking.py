"""Stacking: against scipy on the same objective, and what must hold for any support set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fewshot_features import make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor
from torch.nn.functional import normalize

from logitfusion.clip import Support, fit_method
from logitfusion.clip.fitting.selection import held_out_folds
from logitfusion.clip.methods import complete_settings
from logitfusion.clip.methods.regression import regress
from logitfusion.clip.methods.stacking import _held_out_logits

SMALL = settings(max_examples=5, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)
CLIP_PRIOR, PRIOR, STRENGTH, PENALTY = 0.5, 0.7, 1.0, 31.6


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each image, ``[n]``."""
    return logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]


def scipy_probe(features: Tensor, labels: Tensor, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Of all views' normalised mean: ``[D, C]`` and ``[C]``."""
    rows = normalize(features.mean(1), dim=-1).numpy()
    rows, targets = np.c_[rows, np.ones(len(rows))], np.eye(classes)[labels.numpy()]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(-1, classes)
        logits = rows @ weight
        excess = np.exp(logits - logsumexp(logits, axis=1, keepdims=True)) - targets
        value = PENALTY * losses(logits, labels.numpy()).sum() + np.square(flat).sum() / 2
        return value, (PENALTY * rows.T @ excess + weight).ravel()

    start = np.zeros(rows.shape[1] * classes)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "gtol": 1e-8})
    weight = found.x.reshape(-1, classes)
    return weight[:-1], weight[-1]


def scipy_stacking(support: Support, seed: int, clip: Tensor, auxiliary: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The weights of CLIP and both probes, and fused logits of other images."""
    fold, labels = held_out_folds(support, 4, seed), support.labels
    seen = (fold >= 0).numpy()
    parts = [support.zero_shot()[:, 0].numpy(), *np.zeros((2, len(labels), support.classes))]
    for number in range(int(fold.max()) + 1):
        rest, part = support.at(fold != number), fold == number
        for place, branch in enumerate(("clip", "auxiliary"), 1):
            slope, constant = scipy_probe(rest.features(branch), rest.labels, support.classes)
            parts[place][part.numpy()] = support.features(branch)[part, 0].numpy() @ slope + constant
    held_out = np.stack(parts)[:, seen]
    prior = np.log([CLIP_PRIOR, PRIOR, PRIOR])

    def objective(logarithms: np.ndarray) -> float:
        fused = np.tensordot(np.exp(logarithms), held_out, 1)
        return losses(fused, labels.numpy()[seen]).sum() + STRENGTH * np.square(logarithms - prior).sum()

    weights = np.exp(minimize(objective, prior, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-10}).x)
    fused = weights[0] * support.scale * (clip @ support.classifier).numpy()
    for weight, branch, features in zip(weights[1:], ("clip", "auxiliary"), (clip, auxiliary), strict=True):
        slope, constant = scipy_probe(support.features(branch), labels, support.classes)
        fused += weight * (features.numpy() @ slope + constant)
    return weights, fused


def weights_of(head: object) -> list[float]:
    return list(head.settings["weights"].values())


@pytest.mark.parametrize("shots", [(4, 4), (3, 5, 1, 2, 4)])
def test_it_is_scipys_minimum(shots: tuple[int, ...]) -> None:
    problem = make_problem(classes=len(shots), shots=shots, widths=(16, 12), test=5, dtype=torch.float64)
    support = replace(problem.support, scale=20.0)
    head = fit_method("stacking", support, seed=1)
    weights, logits = scipy_stacking(support, 1, problem.clip, problem.auxiliary)
    assert weights_of(head) == pytest.approx(weights.tolist(), rel=0.01)
    found = head.logits(problem.clip, problem.auxiliary)
    torch.testing.assert_close(found, torch.from_numpy(logits), rtol=0.02, atol=0.05)


@SMALL
@given(seed=SEEDS, classes=st.integers(2, 6), shots=st.integers(1, 5), scale=st.sampled_from([0.1, 5.0, 100.0, 1e4]))
def test_no_weight_is_negative_or_endless(seed: int, classes: int, shots: int, scale: float) -> None:
    problem = make_problem(classes=classes, shots=shots, widths=(8, 6), seed=seed, test=2)
    for support in (problem.support, replace(problem.support, auxiliary=None)):
        head = fit_method("stacking", replace(support, scale=scale), {"iterations": 20}, seed=seed)
        assert all(0 < weight < 1e6 for weight in weights_of(head))
        assert bool(head.logits(problem.clip, problem.auxiliary).isfinite().all())


def test_without_an_auxiliary_it_weighs_clip_and_its_probe() -> None:
    problem = make_problem(noise=(1.5, 2.0), shots=4, test=20)
    head = fit_method("stacking", replace(problem.support, auxiliary=None), seed=0)
    assert list(head.settings["weights"]) == ["zero_shot", "clip_probe"]
    assert head.logits(problem.clip).equal(head.logits(problem.clip, problem.auxiliary))
    assert problem.accuracy(head) > problem.accuracy(fit_method("zero_shot", problem.support, seed=0))


def test_two_classes_are_learned() -> None:
    for seed in range(2):
        problem = make_problem(classes=2, noise=(4.0, 2.0), text_noise=8.0, shots=16, views=1, test=200, seed=seed)
        names = ("zero_shot", "auxiliary_probe", "stacking")
        score = {name: problem.accuracy(fit_method(name, problem.support, seed=seed)) for name in names}
        assert score["stacking"] > score["zero_shot"]
        assert score["stacking"] > score["auxiliary_probe"] - 0.05


@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_the_size_of_clips_logits_changes_its_weight_and_nothing_else(factor: float) -> None:
    """But for the prior of CLIP's weight, which is switched off here."""
    problem = make_problem(
        classes=4, shots=10, views=1, widths=(16, 12), noise=(3.0, 4.0), text_noise=0.5, test=5, dtype=torch.float64
    )
    support = problem.support
    first, other = (
        fit_method("stacking", replace(support, scale=scale), {"prior_strength": 1e-4}, seed=0)
        for scale in (20.0, 20.0 * factor)
    )
    assert weights_of(other)[0] * factor == pytest.approx(weights_of(first)[0], rel=1e-3)
    assert weights_of(other)[1:] == pytest.approx(weights_of(first)[1:], rel=1e-2, abs=1e-4)
    logits = [head.logits(problem.clip, problem.auxiliary) for head in (first, other)]
    torch.testing.assert_close(*logits, rtol=1e-2, atol=1e-2)


def test_pictures_that_are_there_twice_are_left_out_together() -> None:
    """An auxiliary without information is right about a picture whose copy it has learnt, and about no other."""
    support = make_problem(classes=4, shots=8, views=1, noise=(2.0, 2.0)).support
    noise = normalize(torch.randn(32, 1, 48, generator=torch.Generator().manual_seed(0)), dim=-1)
    twice = replace(support, auxiliary=noise).at(torch.arange(32).repeat(2))
    known = replace(twice, groups=torch.arange(32).repeat(2))
    right = {}
    for name, one in {"unknown": twice, "known": known}.items():
        logits, seen, _ = _held_out_logits(one, complete_settings("stacking", {}), 0)
        right[name] = float((logits[2, seen].argmax(1) == one.labels[seen]).double().mean())
    assert right["unknown"] > 0.7
    assert right["known"] < 0.4


def test_a_probe_of_many_classes_does_not_end_where_it_starts() -> None:
    generator = torch.Generator().manual_seed(0)
    features = normalize(torch.randn(1000, 64, generator=generator), dim=-1)
    labels = torch.arange(500).repeat(2)
    slope, constant = regress(features, labels, 500, inverse_penalty=31.6, iterations=20)
    assert float(((features @ slope + constant).argmax(1) == labels).double().mean()) > 0.9


def test_a_probe_is_the_same_wherever_it_starts() -> None:
    support = make_problem(classes=4, shots=6, dtype=torch.float64).support
    options = {"inverse_penalty": 31.6, "iterations": 500}
    first = regress(support.clip[:, 0], support.labels, 4, **options)
    start = regress(support.clip[::2, 0], support.labels[::2], 4, **options)
    for found, expected in zip(
        regress(support.clip[:, 0], support.labels, 4, start=start, **options), first, strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0.01, atol=0.05)
