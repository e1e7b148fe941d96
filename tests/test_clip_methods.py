"""The few-shot methods: closed forms, other libraries, autograd, and what any support set may look like."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fewshot_features import BY_EPOCHS, DEFAULTS, GRIDS, NEED_AUXILIARY, Problem, make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

from logitfusion.clip import Support, fit_method, load_head, save_head
from logitfusion.clip.features.files import write_tensors
from logitfusion.clip.fitting.selection import calibrated_loss, cross_validate, stratified_folds
from logitfusion.clip.head_file import load_snapshots
from logitfusion.clip.methods import METHODS, complete_settings
from logitfusion.clip.methods.amu import trust_in_clip
from logitfusion.clip.methods.gda import discriminant
from logitfusion.errors import UserError

SMALL = settings(max_examples=20, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)
FAST = {"epochs": 2, "iterations": 50}


def quick(name: str, **changes: object) -> dict[str, object]:
    """Settings of a method with less to do."""
    return {key: value for key, value in FAST.items() if name in BY_EPOCHS and key in DEFAULTS[name]} | changes


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem(classes=6, shots=3, test=20)


@pytest.fixture(scope="module")
def precise() -> Problem:
    return make_problem(classes=6, shots=(3, 2, 4, 1, 3, 3), test=20, dtype=torch.float64)


# Closed forms


def test_zero_shot(precise: Problem) -> None:
    found = fit_method("zero_shot", precise.support, seed=0).logits(precise.clip)
    torch.testing.assert_close(found, 100.0 * precise.clip @ precise.support.classifier)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 5.5), (3.0, 0.5)])
def test_tip_adapter_is_its_formula(precise: Problem, alpha: float, beta: float) -> None:
    support = precise.support
    found = fit_method("tip_adapter", support, {"alpha": alpha, "beta": beta}, seed=0).logits(precise.clip)
    for row, feature in zip(found, precise.clip, strict=True):
        expected = 100.0 * feature @ support.classifier
        for views, label in zip(support.clip, support.labels, strict=True):
            key = views.mean(0) / views.mean(0).norm()
            expected[label] += alpha * math.exp(-beta * (1 - float(feature @ key)))
        torch.testing.assert_close(row, expected)


def test_tip_adapter_without_weight_is_zero_shot(problem: Problem) -> None:
    found = fit_method("tip_adapter", problem.support, {"alpha": 0.0}, seed=0).logits(problem.clip)
    assert found.equal(fit_method("zero_shot", problem.support, seed=0).logits(problem.clip))


@pytest.mark.parametrize("width", [3, 40])
@SMALL
@given(seed=SEEDS)
def test_gda_is_scikit_learns_shrunk_discriminant(width: int, seed: int) -> None:
    support = make_problem(classes=4, shots=5, views=1, widths=(width, 2), seed=seed, dtype=torch.float64).support
    rows, count = support.clip[:, 0], len(support.labels)
    shrinkage = width / (count - 1 + width)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=[0.25] * 4)
    model.fit(rows.numpy(), support.labels.numpy())
    weight, bias = discriminant(rows, support.labels, 4)
    factor = width * (1 - shrinkage) / count
    expected = factor * torch.from_numpy(model.decision_function(rows.numpy()) - np.log(0.25))
    torch.testing.assert_close(rows @ weight + bias, expected, rtol=1e-6, atol=1e-6)


def test_gda_joins_the_zero_shot_classifier(precise: Problem) -> None:
    support = precise.support
    weight, bias = discriminant(*support.rows("clip", "all"), 6)
    found = fit_method("gda", support, {"alpha": 0.3}, seed=0).logits(precise.clip)
    expected = 100.0 * precise.clip @ support.classifier + 0.3 * (precise.clip @ weight + bias)
    torch.testing.assert_close(found, expected)


def test_gda_without_a_spread_is_the_nearest_mean() -> None:
    problem = make_problem(shots=1, views=1, test=20)
    weight, bias = discriminant(problem.support.clip[:, 0], problem.support.labels, 10)
    nearest = torch.cdist(problem.clip, problem.support.clip[:, 0]).argmin(1)
    assert (problem.clip @ weight + bias).argmax(1).equal(nearest)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_probe_is_a_minimum_of_its_loss(classes: int) -> None:
    """Mean over views, penalty ``||W||^2 / 2`` (for two classes scikit-learn's is of the difference)."""
    support = make_problem(classes=classes, shots=4, dtype=torch.float64).support
    head = fit_method("auxiliary_probe", support, {"inverse_penalty": 5.0}, seed=0)
    weight, bias = head.auxiliary_weight.requires_grad_(), head.bias.requires_grad_()
    logits = (support.auxiliary @ weight + bias).flatten(0, 1)
    loss = cross_entropy(logits, support.labels.repeat_interleave(3), reduction="sum") / 3
    penalty = weight.square().sum() / 2 if classes > 2 else (weight[:, 1] - weight[:, 0]).square().sum() / 2
    for gradient in torch.autograd.grad(5.0 * loss + penalty, [weight, bias]):
        assert gradient.abs().max() < 0.01


def test_logit_sum_is_a_sum(problem: Problem) -> None:
    def logits(name: str, **changes: float) -> Tensor:
        return fit_method(name, problem.support, changes, seed=0).logits(problem.clip, problem.auxiliary)

    expected = logits("zero_shot") + 0.5 * logits("auxiliary_probe")
    torch.testing.assert_close(logits("logit_sum", alpha=0.5), expected, rtol=1e-4, atol=1e-4)


# Trained ones


def train(
    weight: Tensor, logits: Callable[[Tensor, Tensor], Tensor], support: Support, options: dict[str, object]
) -> None:
    """Full-batch autograd with torch's AdamW; one view, so that the order does not matter."""
    optimizer = torch.optim.AdamW(
        [weight], lr=options["learning_rate"], weight_decay=options["weight_decay"], eps=options["epsilon"]
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options["epochs"])
    for _ in range(options["epochs"]):
        optimizer.zero_grad()
        cross_entropy(logits(weight, support.clip[:, 0]), support.labels).backward()
        optimizer.step()
        cosine.step()


def test_tip_adapter_f_is_trained_as_autograd_would() -> None:
    support = make_problem(classes=5, shots=(3, 1, 2, 0, 4), views=1, dtype=torch.float64).support
    keys = support.clip[:, 0].clone().requires_grad_()
    votes = one_hot(support.labels, 5).double()

    def logits(keys: Tensor, features: Tensor) -> Tensor:
        return 100 * features @ support.classifier + 2.0 * torch.exp(-3.0 * (1 - features @ keys.T)) @ votes

    head = fit_method("tip_adapter_f", support, {"alpha": 2.0, "beta": 3.0, "epochs": 7}, seed=0)
    train(keys, logits, support, DEFAULTS["tip_adapter_f"] | {"epochs": 7})
    torch.testing.assert_close(head.keys, keys.detach(), rtol=1e-9, atol=1e-10)
    assert (head.keys - support.clip[:, 0]).abs().max() > 1e-4


def test_taskres_is_trained_as_autograd_would() -> None:
    support = make_problem(classes=5, shots=(3, 1, 2, 0, 4), views=1, dtype=torch.float64).support
    residual = torch.zeros_like(support.classifier).requires_grad_()

    def logits(residual: Tensor, features: Tensor) -> Tensor:
        return 100 * features @ normalize(support.classifier + 0.5 * residual, dim=0)

    head = fit_method("taskres", support, {"epochs": 7}, seed=0)
    train(residual, logits, support, DEFAULTS["taskres"] | {"epochs": 7})
    expected = logits(residual, support.clip[:, 0]).detach()
    torch.testing.assert_close(head.logits(support.clip[:, 0]), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shots", [1, 8])
def test_lp_plus_plus_never_raises_its_loss_and_starts_at_zero_shot(shots: int) -> None:
    support = make_problem(shots=shots, dtype=torch.float64).support
    features, labels = support.rows("clip", "all")
    losses = [cross_entropy(support.scale * features @ support.classifier, labels)]

    def note(_: int, head: object) -> None:
        losses.append(cross_entropy(head.logits(features), labels))

    fit_method("lp_plus_plus", support, {"iterations": 100}, seed=0, on_epoch=note)
    assert len(losses) == 11
    assert (torch.stack(losses).diff() < 0).all()


def test_lp_plus_plus_ends_at_the_minimum_of_a_joint_search() -> None:
    """Three features and much noise, so that there is a finite minimum."""
    generator = torch.Generator().manual_seed(0)
    features = normalize(torch.randn(90, 1, 3, generator=generator, dtype=torch.float64), dim=-1)
    labels = torch.randint(3, (90,), generator=generator)
    text = normalize(torch.randn(3, 3, generator=generator, dtype=torch.float64), dim=0)
    support = Support(features, None, labels, text, scale=2.0)
    weight = torch.zeros(3, 3, dtype=torch.float64).requires_grad_()
    search = torch.optim.LBFGS([weight], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = cross_entropy(features[:, 0] @ weight, labels)
        loss.backward()
        return loss

    search.step(closure)
    head = fit_method("lp_plus_plus", support, {"iterations": 3000}, seed=0)
    found = cross_entropy(head.logits(features[:, 0]), labels)
    assert found.item() == pytest.approx(closure().item(), abs=1e-6)


# Any support set


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "shape",
    [
        {"classes": 2, "shots": 1, "views": 1},
        {"classes": 2, "shots": 3},
        {"classes": 3, "shots": (1, 0, 0)},
        {"classes": 4, "shots": (5, 1, 0, 2), "views": 2},
        {"classes": 3, "shots": 2, "widths": (1, 1)},
        {"classes": 3, "shots": 2, "widths": (1, 1), "noise": (0.0, 0.0), "views": 1},
        {"classes": 3, "shots": 2, "noise": (0.0, 0.0)},
    ],
    ids=str,
)
def test_any_shape(name: str, shape: dict[str, object]) -> None:
    problem = make_problem(**shape, test=2)
    head = fit_method(name, problem.support, quick(name), seed=0)
    logits = head.logits(problem.clip, problem.auxiliary)
    assert logits.shape == (2 * shape["classes"], shape["classes"])
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["clip_probe", "auxiliary_probe"])
def test_a_probe_never_answers_with_a_class_it_has_not_seen(name: str) -> None:
    problem = make_problem(classes=4, shots=(3, 0, 2, 3), test=10)
    answers = fit_method(name, problem.support, seed=0).logits(problem.clip, problem.auxiliary).argmax(1)
    assert set(answers.tolist()) == {0, 2, 3}


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_head_and_no_other_randomness(name: str, problem: Problem) -> None:
    state = torch.get_rng_state()
    first, second = (fit_method(name, problem.support, quick(name), seed=4) for _ in range(2))
    assert first.logits(problem.clip, problem.auxiliary).equal(second.logits(problem.clip, problem.auxiliary))
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("name", METHODS)
def test_what_was_set_is_in_the_head_and_the_support_is_left_alone(name: str, problem: Problem) -> None:
    given_tensors = (problem.support.clip, problem.support.classifier, problem.support.auxiliary)
    before = [tensor.clone() for tensor in given_tensors]
    head = fit_method(name, problem.support, quick(name), seed=9)
    assert all(one.equal(two) for one, two in zip(before, given_tensors, strict=True))
    assert (head.method, head.settings["seed"]) == (name, 9)
    assert DEFAULTS[name].keys() <= head.settings.keys()


@pytest.mark.parametrize("name", BY_EPOCHS)
def test_the_last_epoch_seen_is_the_head(name: str, problem: Problem) -> None:
    heads = []
    final = fit_method(name, problem.support, quick(name), seed=1, on_epoch=lambda _, head: heads.append(head))
    assert len(heads) == (5 if name == "lp_plus_plus" else 2)
    outputs = [head.logits(problem.clip, problem.auxiliary) for head in heads]
    assert outputs[-1].equal(final.logits(problem.clip, problem.auxiliary))
    assert not outputs[0].equal(outputs[1])


@pytest.mark.parametrize("name", METHODS)
def test_methods_learn(name: str) -> None:
    """Every trained method beats a poor zero-shot CLIP where its features tell the classes apart."""
    problem = make_problem(noise=(1.5, 1.5), text_noise=3.0, shots=8, test=20)
    problem = problem._replace(support=replace(problem.support, scale=20.0))
    changes = {"tip_adapter": {"alpha": 50.0}, "tip_adapter_f": {"alpha": 50.0}}.get(name, {})
    score = problem.accuracy(fit_method(name, problem.support, changes, seed=0))
    before = problem.accuracy(fit_method("zero_shot", problem.support, seed=0))
    assert score == before if name == "zero_shot" else score > before + 0.02


# Selection


@SMALL
@given(seed=SEEDS, counts=st.lists(st.integers(0, 9), min_size=1, max_size=8), folds=st.integers(2, 5))
def test_folds_are_stratified(seed: int, counts: list[int], folds: int) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    found = stratified_folds(labels, folds, seed)
    for label, count in enumerate(counts):
        of_class = found[labels == label]
        if count == 1:
            assert of_class.tolist() == [-1]
        elif count:
            sizes = torch.bincount(of_class, minlength=folds)
            assert sizes.max() - sizes.min() <= 1
    sizes = torch.bincount(found[found >= 0], minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    assert found.equal(stratified_folds(labels, folds, seed))


@SMALL
@given(seed=SEEDS, scale=st.sampled_from([0.25, 1.0, 4.0]))
def test_the_loss_of_selection_does_not_see_scale(seed: int, scale: float) -> None:
    logits = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(12) % 4
    found = calibrated_loss(logits, labels)
    torch.testing.assert_close(calibrated_loss(scale * logits, labels), found, rtol=0.05, atol=0)
    assert (found <= math.log(4) + 0.02).all()


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_can_be_searched(name: str, problem: Problem) -> None:
    changes = quick(name, selection="cross_validation")
    head = fit_method(name, problem.support, changes, seed=0)
    assert head.settings["selected"]
    expected = GRIDS[name]
    assert any(all(head.settings[key] == value for key, value in choice.items()) for choice in expected)
    assert head.settings["held_out_loss"] > 0
    chosen = {key: head.settings[key] for key in expected[0]}
    alone = fit_method(name, problem.support, quick(name, selection="fixed") | chosen, seed=0)
    same = alone.logits(problem.clip, problem.auxiliary)
    assert head.logits(problem.clip, problem.auxiliary).equal(same)


def test_selection_trusts_whom_the_support_set_trusts() -> None:
    weak_clip = make_problem(noise=(5.0, 1.5), text_noise=5.0, shots=8).support
    weak_auxiliary = make_problem(noise=(1.5, 9.0), text_noise=1.0, shots=8).support
    chosen = [fit_method("amu_classes", part, seed=0).settings["alpha"] for part in (weak_clip, weak_auxiliary)]
    assert chosen[0] > 4 * chosen[1]


def test_one_shot_has_nothing_to_hold_out() -> None:
    head = fit_method("amu_classes", make_problem(shots=1).support, {"epochs": 2}, seed=0)
    assert not head.settings["selected"]


def test_at_one_shot_a_good_clip_keeps_its_weight_and_a_useless_one_loses_it() -> None:
    problem = make_problem(classes=10, shots=1, noise=(1.0, 1.5), text_noise=0.5)
    useless = replace(problem.support, classifier=problem.support.classifier.roll(1, dims=1))
    heads = [fit_method("amu_classes", support, seed=0) for support in (problem.support, useless)]
    assert heads[1].alpha > 16 * heads[0].alpha


def test_at_one_shot_a_calibrated_clip_gets_the_published_alpha() -> None:
    labels = torch.arange(4)
    clip = one_hot(torch.tensor([0, 1, 2, 0]), 4).float()  # three of four right
    # Smoothed by a fifth, the answered class has (3 * 0.85 + 0.05) / 4 = 0.65 of the labels, each other 0.35 / 3.
    odds = math.log(0.65 / (0.35 / 3))
    support = Support(clip[:, None], clip[:, None], labels, torch.eye(4), scale=odds)
    chosen = trust_in_clip(support, complete_settings("amu_classes", {"temperature": 1.0}))
    assert chosen == {"alpha": DEFAULTS["amu"]["alpha"], "lambda": 0.0}
    scaled = trust_in_clip(replace(support, scale=8 * odds), complete_settings("amu_classes", {"temperature": 2.0}))
    assert scaled["alpha"] == pytest.approx(4 * chosen["alpha"])


@pytest.mark.parametrize(("count", "trainings"), [(399, 4), (400, 2)])
def test_large_support_sets_have_two_folds(count: int, trainings: int) -> None:
    problem = make_problem(classes=3, shots=(count - 200, 100, 100), views=1, widths=(4, 4))
    sizes = []

    def fit(support: Support, candidates: list[dict[str, object]]) -> list[object]:
        sizes.append(len(support.labels))
        return [fit_method("zero_shot", support, seed=0) for _ in candidates]

    losses = cross_validate(fit, problem.support, [{}, {}], folds=4, seed=0)
    assert losses.shape == (2,)
    assert len(sizes) == trainings
    assert sum(count - size for size in sizes) == count


def test_held_out_images_are_not_learned_from() -> None:
    """With random labels, a candidate that remembers what it is judged on would look perfect."""
    problem = make_problem(classes=4, shots=10)
    chance = torch.randint(4, (40,), generator=torch.Generator().manual_seed(0))
    head = fit_method(
        "auxiliary_probe", replace(problem.support, labels=chance), {"selection": "cross_validation"}, seed=0
    )
    assert head.settings["held_out_loss"] > 0.9 * math.log(4)


# What is refused


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("magic", {}, "no few-shot method 'magic'"),
        ("gda", {"beta": 1.0}, "gda has no setting 'beta'"),
        ("gda", {"selection": "test"}, "fixed"),
        ("zero_shot", {"selection": "cross_validation"}, "nothing to be selected"),
        ("gda", {"views": "some"}, "plain"),
    ],
)
def test_settings_that_are_refused(name: str, changes: dict[str, object], words: str, problem: Problem) -> None:
    with pytest.raises(UserError, match=words):
        fit_method(name, problem.support, changes, seed=0)


@pytest.mark.parametrize("name", METHODS)
def test_only_some_methods_need_an_auxiliary_encoder(name: str, problem: Problem) -> None:
    without = replace(problem.support, auxiliary=None)
    if name in NEED_AUXILIARY:
        with pytest.raises(UserError, match="auxiliary"):
            fit_method(name, without, quick(name), seed=0)
        with pytest.raises(UserError, match="auxiliary"):
            fit_method(name, problem.support, quick(name), seed=0).logits(problem.clip)
    else:
        fit_method(name, without, quick(name), seed=0).logits(problem.clip)


@pytest.mark.parametrize(
    "changes",
    [
        {"clip": torch.zeros(6, 4)},
        {"labels": torch.tensor([0, 1, 2, 3, 4, 9] * 3)},
        {"labels": torch.zeros(2, dtype=torch.int64)},
        {"auxiliary": torch.zeros(18, 2, 4)},
        {"classifier": torch.zeros(5, 6)},
        {"classifier": torch.zeros(64, 1)},
        {"clip": torch.zeros(18, 3, 64, dtype=torch.float16)},
    ],
)
def test_a_support_that_does_not_fit_is_refused(changes: dict[str, Tensor], problem: Problem) -> None:
    with pytest.raises(ValueError, match=r"clip|auxiliary|labels|classifier"):
        replace(problem.support, **changes)


# The file


@pytest.mark.parametrize("name", ["tip_adapter", "amu", "stacking"])
def test_numbers_of_torch_and_numpy_are_numbers(name: str, problem: Problem, tmp_path: Path) -> None:
    """Of a head that is fitted with a model's own ``logit_scale.exp()``, the file can be read."""
    expected = fit_method(name, replace(problem.support, scale=64.0), quick(name), seed=1)
    for scale in (np.float32(64), torch.tensor(64.0), torch.nn.Parameter(torch.tensor(8.0)) ** 2):
        head = fit_method(name, replace(problem.support, scale=scale), quick(name), seed=np.int64(1))
        save_head(tmp_path / "head", head, class_names=list("abcdef"), encoders={})
        logits = load_head(tmp_path / "head")[0].logits(*problem.support.plain)
        torch.testing.assert_close(logits, expected.logits(*problem.support.plain))


@pytest.mark.parametrize("names", [list("abcde"), list("abcdefg"), list("abcdea")])
def test_a_head_that_could_not_be_read_is_not_written(names: list[str], problem: Problem, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="6 classes has as many different class_names"):
        save_head(tmp_path / "head", fit_method("gda", problem.support, seed=0), class_names=names, encoders={})
    assert not (tmp_path / "head").exists()


@pytest.mark.parametrize("name", METHODS)
def test_a_head_is_the_same_elsewhere(name: str, problem: Problem, tmp_path: Path) -> None:
    head = fit_method(name, problem.support, quick(name), seed=0)
    hashes = {"clip": "a" * 64, "auxiliary": "b" * 64}
    path = tmp_path / "head.safetensors"
    save_head(path, head, class_names=list("abcdef"), encoders=hashes, metadata={"mean": [0.5, 0.4]})
    loaded, header = load_head(path, encoders=hashes)
    assert type(loaded) is type(head)
    assert (loaded.method, loaded.settings) == (head.method, head.settings)
    for field in fields(head):
        if isinstance(expected := getattr(head, field.name), Tensor):
            assert getattr(loaded, field.name).equal(expected)
    parts = [one.logits(problem.clip, problem.auxiliary) for one in (loaded, head)]
    torch.testing.assert_close(*parts, rtol=1e-5, atol=1e-4)  # the order of sums follows the layout in memory
    assert (header["class_names"], header["encoders"]) == (list("abcdef"), hashes)
    assert header["metadata"] == {"mean": [0.5, 0.4]}
    assert load_snapshots(path) == []


def test_snapshots_come_back_and_share_what_does_not_change(problem: Problem, tmp_path: Path) -> None:
    heads = []
    head = fit_method("amu", problem.support, {"epochs": 3}, seed=0, on_epoch=lambda _, part: heads.append(part))
    save_head(tmp_path / "head", head, class_names=list("abcdef"), encoders={}, snapshots=heads)
    for found, expected in zip(load_snapshots(tmp_path / "head"), heads, strict=True):
        assert found.weight.equal(expected.weight)
        assert found.classifier.equal(head.classifier)
    assert set(load_file(tmp_path / "head")) == {"classifier", "weight", "epoch_0.weight", "epoch_1.weight"}


@pytest.mark.parametrize(
    ("given_hashes", "words"),
    [({"clip": "c" * 64}, "trained on aaaaaaaaaaaa, but encoder clip is cccccccccccc"), ({"other": "a"}, "without")],
)
def test_another_encoder_is_refused(given_hashes: dict[str, str], words: str, problem: Problem, tmp_path: Path) -> None:
    head = fit_method("zero_shot", problem.support, seed=0)
    save_head(tmp_path / "head", head, class_names=list("abcdef"), encoders={"clip": "a" * 64})
    with pytest.raises(UserError, match=words):
        load_head(tmp_path / "head", encoders=given_hashes)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"no"), "no digest.* give one that `fewshot` wrote"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "no digest"),
        (lambda path: write_tensors(path, {"x": torch.zeros(1)}, {"split": "test"}), "not of a few-shot head"),
        (lambda path: write_tensors(path, {}, {"version": 1, "class_names": []}), "version 1 .* fit it again"),
        (lambda path: write_tensors(path, {}, {"version": 99, "class_names": []}), "version 99 .* update"),
    ],
)
def test_files_that_are_refused(write: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    path = tmp_path / "head"
    write(path)
    for load in (load_head, load_snapshots):
        with pytest.raises(UserError, match=words):
            load(path)
