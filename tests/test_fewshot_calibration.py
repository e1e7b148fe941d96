"""Probabilities of few-shot answers: the temperature, the threshold, and what is left out to choose them on."""

from __future__ import annotations

import json
from dataclasses import replace
from math import comb

import numpy as np
import pytest
import torch
from fewshot_features import make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from logitfusion.clip import Support, fit_method
from logitfusion.clip.calibration import Calibration, best_temperature, fit_calibration, matching_temperature
from logitfusion.clip.fitting.calibrate import calibrate_clip, calibrate_head
from logitfusion.clip.fitting.describe import describe_calibration
from logitfusion.clip.fitting.left_out import left_out_logits
from logitfusion.clip.fitting.selection import stratified_folds
from logitfusion.evaluate.calibration import expected_calibration_error
from logitfusion.evaluate.intervals import paired_interval

SMALL = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**16)


def draw(count: int, classes: int, seed: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits, and labels that are drawn with the probabilities which they have at a temperature."""
    generator = torch.Generator().manual_seed(seed)
    logits = 8.0 * torch.randn(count, classes, generator=generator)
    return logits, torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]


# The temperature


@SMALL
@given(seed=SEEDS, count=st.integers(1, 40), classes=st.integers(2, 6))
def test_no_other_temperature_has_less_loss(seed: int, count: int, classes: int) -> None:
    logits, labels = draw(count, classes, seed, temperature=6.0)

    def loss(temperature: float) -> float:
        return float(cross_entropy(logits.double() / temperature, labels, label_smoothing=1 / (count + 1)))

    best = best_temperature(logits, labels)
    for factor in (0.25, 0.8, 0.97, 1.03, 1.25, 4.0):
        assert loss(best) <= loss(factor * best) + 1e-5


@SMALL
@given(seed=SEEDS, scale=st.sampled_from([1e-3, 0.5, 16.0, 1e4]), shift=st.floats(-50, 50))
def test_scale_and_shift_of_logits_change_no_probability(seed: int, scale: float, shift: float) -> None:
    logits, labels = (part.double() if part.is_floating_point() else part for part in draw(30, 4, seed, 3.0))
    own, other = fit_calibration(logits, labels), fit_calibration(scale * (logits + shift), labels)
    torch.testing.assert_close(own.probabilities(logits), other.probabilities(scale * logits), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 7.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature: float) -> None:
    logits, labels = draw(4000, 5, seed=1, temperature=temperature)
    found = fit_calibration(logits, labels)
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    assert found.error < found.error_by_chance + 0.01
    assert found.calibrated


@pytest.mark.parametrize("count", [2, 10, 100])
def test_right_answers_are_no_certainty(count: int) -> None:
    """Logits of any size that are all right: how sure they are is what so few images can prove."""
    logits = 1e3 * torch.eye(2)[torch.arange(count) % 2]
    found = fit_calibration(logits, torch.arange(count) % 2)
    expected = 1.0 - 0.5 / (count + 1)  # one image more has both labels
    assert float(found.probabilities(logits).amax()) == pytest.approx(expected, abs=1e-6)


def test_labels_that_logits_know_nothing_of_make_them_uniform() -> None:
    logits = 30.0 * torch.eye(3).repeat(10, 1)
    wrong = (torch.arange(30) + 1) % 3
    assert float(fit_calibration(logits, wrong).probabilities(logits).amax()) < 0.34
    assert fit_calibration(torch.zeros(30, 3), wrong).probabilities(torch.zeros(3)).tolist() == pytest.approx(
        [1 / 3] * 3
    )


@SMALL
@given(seed=SEEDS, confidence=st.floats(0.3, 0.95))
def test_a_temperature_matches_a_mean_probability(seed: int, confidence: float) -> None:
    logits, _ = draw(20, 4, seed)
    temperature = matching_temperature(logits, confidence)
    assert float((logits.double() / temperature).softmax(-1).amax(-1).mean()) == pytest.approx(confidence, abs=1e-6)


# What is told of it


def test_the_calibration_error_is_the_mean_gap_of_bins() -> None:
    probabilities, correct = np.array([0.8] * 10 + [0.3] * 10), np.array([1] * 5 + [0] * 5 + [1] * 3 + [0] * 7)
    assert expected_calibration_error(probabilities, correct) == pytest.approx((0.3 + 0.0) / 2)
    assert expected_calibration_error(np.ones(4), np.ones(4)) == 0.0


def test_probabilities_that_left_out_images_disprove_are_not_called_calibrated() -> None:
    """Logits that prefer one class for all images: surer of some wrong answers than of others that are right."""
    labels = torch.arange(300) % 3
    preferred = torch.tensor([2.0, 0.0, 0.0]) + torch.tensor([[0.2, 0, 0], [0, 0.8, 0], [0, 0, 0.8]])[labels]
    found = fit_calibration(preferred, labels)
    assert found.error > 5 * found.error_by_chance
    assert not found.calibrated
    assert "no shares of right answers" in next(describe_calibration(found))
    assert fit_calibration(*draw(300, 3, seed=0, temperature=5.0)).calibrated


@pytest.mark.parametrize("count", [10, 40])
def test_probabilities_that_are_right_are_seldom_disproved(count: int) -> None:
    found = [fit_calibration(*draw(count, 2, seed, temperature=5.0)) for seed in range(40)]
    assert sum(one.disproved for one in found) <= 2


@SMALL
@given(seed=SEEDS, count=st.integers(1, 200))
def test_the_threshold_refuses_a_twentieth_of_right_answers_at_most(seed: int, count: int) -> None:
    logits, labels = draw(count, 3, seed, temperature=5.0)
    found = fit_calibration(logits, labels)
    probabilities, answers = found.probabilities(logits).max(-1)
    right = probabilities[answers == labels]
    if len(right) < 10:
        assert found.threshold == 0.0
    else:
        assert int((right < found.threshold).sum()) <= 0.05 * len(right)
        assert found.threshold >= float(right.min())


@pytest.mark.parametrize("both", [0.3, 0.6])
@pytest.mark.parametrize(("gain", "loss"), [(0.2, 0.05), (0.1, 0.1), (0.02, 0.0)])
def test_the_paired_interval_holds_its_confidence(both: float, gain: float, loss: float) -> None:
    """Coverage by enumeration of all outcomes of 20 images."""
    n, covered = 20, 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            low, high = paired_interval(gained, lost, n)
            chance = comb(n, gained) * comb(n - gained, lost) * gain**gained * loss**lost
            chance *= (1 - gain - loss) ** (n - gained - lost)
            covered += chance * (low <= gain - loss <= high)
            assert paired_interval(lost, gained, n) == pytest.approx((-high, -low))
    assert covered >= 0.93


# Heads


@pytest.mark.parametrize("name", ["zero_shot", "gda", "logit_sum", "amu_classes"])
def test_calibrated_probabilities_are_nearer_to_the_truth_on_new_images(name: str) -> None:
    """Than the softmax of the head's logits, or as near where that is good."""
    gains = []
    for seed in range(3):
        problem = make_problem(classes=3, shots=12, views=1, test=100, seed=seed, noise=(3.0, 3.0))
        head = fit_method(name, problem.support, {"epochs": 10} if name == "amu_classes" else None, seed=0)
        logits = head.logits(problem.clip, problem.auxiliary)
        found = calibrate_head(head, problem.support, seed=0)
        assert (found.n, found.calibrated) == (36, True)
        log_probabilities = found.probabilities(logits).log()
        own = -log_probabilities[torch.arange(300), problem.labels].mean()
        gains.append(float(cross_entropy(logits, problem.labels) - own))
        shares = found.probabilities(logits).amax(-1)
        assert abs(float(shares.mean()) - problem.accuracy(head)) < 0.2
    assert np.mean(gains) > -0.02
    if name in ("gda", "amu_classes"):  # whose logits are no log-odds
        assert np.mean(gains) > 0.05


def test_one_image_a_class_is_told_as_not_calibrated_and_gets_no_more_than_clips_share() -> None:
    support = make_problem(classes=4, shots=1, views=2).support
    head = fit_method("amu_classes", support, {"epochs": 3}, seed=0)
    found = calibrate_head(head, support, seed=0)
    assert (found.calibrated, found.n, found.threshold, found.error) == (False, 0, 0.0, None)
    right = int((support.zero_shot()[:, 0].argmax(-1) == support.labels).sum())
    mean = found.probabilities(head.logits(support.clip[:, 0], support.auxiliary[:, 0])).amax(-1).mean()
    assert float(mean) == pytest.approx(max((right + 1) / 6, 0.25), abs=1e-3)


def test_images_of_one_class_calibrate_nothing() -> None:
    """All of them right, they would make the head certain, of a class that it knows one image of too."""
    support = make_problem(classes=2, shots=(1, 20), views=2, noise=(0.5, 0.5)).support
    found = calibrate_head(fit_method("clip_probe", support, seed=0), support, seed=0)
    assert (found.calibrated, found.n, found.threshold) == (False, 0, 0.0)


def test_clip_is_calibrated_on_all_images() -> None:
    support = make_problem(classes=4, shots=(1, 2, 5, 9), views=2).support
    assert calibrate_clip(support) == fit_calibration(support.zero_shot()[:, 0], support.labels)
    zero_shot = fit_method("zero_shot", support, seed=0)
    assert calibrate_head(zero_shot, support, seed=0).n == 16  # the only image of a class can't be held out


def test_a_calibration_is_kept_as_json() -> None:
    found = fit_calibration(*draw(30, 3, seed=0))
    assert Calibration.load(json.loads(json.dumps(found.dump()))) == found


# Images that are left out


def test_left_out_images_are_predicted_by_heads_that_have_not_seen_them() -> None:
    """Labels are random, so a head is right about its own images and knows nothing of others, nor of their copies."""
    problem = make_problem(classes=4, shots=10, views=1, seed=1)
    labels = problem.support.labels[torch.randperm(40, generator=torch.Generator().manual_seed(2))]
    noise = normalize(torch.randn(40, 1, 64, generator=torch.Generator().manual_seed(3)), dim=-1)
    support = Support(noise, None, labels, problem.support.classifier)
    seen = fit_method("clip_probe", support, seed=0).logits(noise[:, 0]).argmax(-1)
    assert torch.equal(seen, labels)
    found = left_out_logits("clip_probe", support, seed=0)
    assert bool(found.predicted.all())
    assert float((found.classes == labels).double().mean()) < 0.6

    twice = support.at(torch.arange(40).repeat(2))
    unaware = left_out_logits("clip_probe", twice, seed=0)
    assert float((unaware.classes == twice.labels).double().mean()) > 0.6, "copies give answers away"
    aware = left_out_logits("clip_probe", replace(twice, groups=torch.arange(40).repeat(2)), seed=0)
    assert aware.predicted.tolist() == [True] * 40 + [False] * 40
    assert float((aware.classes[:40] == labels).double().mean()) < 0.6


def test_the_only_image_of_a_class_is_never_left_out() -> None:
    support = make_problem(classes=3, shots=(1, 4, 2), views=1).support
    found = left_out_logits("gda", support, seed=0)
    assert found.predicted.tolist() == [False] + [True] * 6
    assert (found.classes >= 0).equal(found.predicted)
    same = replace(support, groups=torch.tensor([0, 1, 2, 3, 4, 5, 5]))  # the last class has one image, twice
    assert left_out_logits("gda", same, seed=0).predicted.tolist() == [False] + [True] * 4 + [False] * 2
    lonely = make_problem(classes=3, shots=1, views=1).support
    assert not left_out_logits("gda", lonely, seed=0).predicted.any()


@SMALL
@given(seed=SEEDS, labels=st.lists(st.integers(0, 3), min_size=1, max_size=24), data=st.data())
def test_folds_keep_groups_together(seed: int, labels: list[int], data: st.DataObject) -> None:
    count, folds = len(labels), data.draw(st.integers(2, 4))
    groups = torch.tensor(data.draw(st.lists(st.integers(0, 12), min_size=count, max_size=count)))
    y = torch.tensor(labels)
    found = stratified_folds(y, folds, seed, groups)
    for group in groups.unique():
        assert len(found[groups == group].unique()) == 1
    for label in y.unique():
        if len(groups[y == label].unique()) == 1:
            assert found[y == label].tolist() == [-1] * int((y == label).sum())
    sizes = torch.bincount(torch.tensor([int(found[groups == g][0]) + 1 for g in groups.unique()]), minlength=folds + 1)
    assert sizes[1:].max() - sizes[1:].min() <= 1
    assert stratified_folds(y, folds, seed, torch.arange(count)).equal(stratified_folds(y, folds, seed))


@pytest.mark.parametrize("shots", [20, 150])  # four folds, and two
def test_discriminants_of_parts_are_as_large_as_that_of_all(shots: int) -> None:
    """P of ``gda`` falls as 1 / N; calibrated on larger discriminants, a head of all images would be too unsure."""
    gaps = []
    for seed in range(3):
        problem = make_problem(classes=3, shots=shots, views=1, test=200, seed=seed, noise=(4.0, 4.0))
        head = fit_method("gda", problem.support, {"alpha": 300.0}, seed=0)
        found = calibrate_head(head, problem.support, seed=0).probabilities(head.logits(problem.clip)).amax(-1)
        gaps.append(float(found.mean()) - problem.accuracy(head))
    assert abs(np.mean(gaps)) < 0.05
