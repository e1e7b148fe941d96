"""AMU's head, fusion, loss and training: against definitions, autograd in float64, and an online loop."""

from __future__ import annotations

import math

import pytest
import torch
from fewshot_features import DEFAULTS, Problem, make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from logitfusion.clip import AMUHead, Support, fit_method, uncertainty
from logitfusion.clip.amu_module import amu_loss
from logitfusion.clip.methods import METHODS, complete_settings
from logitfusion.clip.methods.adamw import AdamW, schedule
from logitfusion.clip.methods.amu import fit_amu, mixing_of, temperature_of

SMALL = settings(max_examples=20, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)
SHORT = {"epochs": 3, "selection": "fixed"}
ORACLE = {"rtol": 1e-9, "atol": 1e-11}


def naive_logits(clip_logits: Tensor, outputs: Tensor, options: dict[str, object]) -> tuple[Tensor, Tensor]:
    """Fused and auxiliary logits, one sample at a time, as the paper prints them."""
    rows = []
    for s0, o in zip(clip_logits, outputs, strict=True):
        p = s0.softmax(0)
        u = (options["reference"] / ((p - p.mean()) / p.std()).pow(4).mean()) ** options["power"]
        mixing = options.get("mixing", 0.0)
        divisor = ((1 - mixing) * o.var() + mixing * options.get("support_spread", 0.0) ** 2).sqrt()
        z = options["temperature"] * (o - o.mean()) / divisor
        rows.append((s0 + options["alpha"] * (1.0 if options["kind"] == "none" else u) * z, z))
    return tuple(torch.stack(part) for part in zip(*rows, strict=True))


def train_online(support: Support, options: dict[str, object], seed: int, encode: object = None) -> Tensor:
    """AMU's weight by autograd, torch's AdamW and scheduler, one step of ``batch`` images after the other.

    ``encode(image, view)`` gives a feature, anew at every step; the cached ones by default.
    """
    features = support.clip if options["branch"] == "clip" else support.auxiliary
    encode = encode or (lambda image, view: features[image, view])
    rows = [features[support.labels == label, 0] for label in range(support.classes)]
    weight = torch.stack([row.mean(0) if len(row) else row.new_zeros(row.shape[1]) for row in rows])
    mixing = 0.0 if options["spread"] == "sample" else 1 / (support.classes - 1) ** 3
    spreads = torch.stack([(weight @ feature).std() for feature in features[:, 0]])
    options = options | {"mixing": mixing, "support_spread": float(spreads.square().mean().sqrt())}
    weight.requires_grad_()
    optimizer = torch.optim.AdamW(
        [weight], lr=options["learning_rate"], weight_decay=options["weight_decay"], eps=options["epsilon"]
    )
    steps = options["epochs"] * math.ceil(len(features) / options["batch"])
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for order, views in schedule(len(features), features.shape[1], options["epochs"], seed):
        for images, chosen in zip(order.split(options["batch"]), views.split(options["batch"]), strict=True):
            x = torch.stack([encode(image, view) for image, view in zip(images, chosen, strict=True)])
            s0 = support.scale * support.clip[images, chosen] @ support.classifier
            fused, auxiliary = naive_logits(s0, x @ weight.T, options)
            labels, share = support.labels[images], options["lambda"]
            loss = (1 - share) * cross_entropy(auxiliary, labels) + share * cross_entropy(fused, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cosine.step()
    return weight.detach()


# The head


@SMALL
@given(classes=st.integers(2, 200), size=st.floats(0.01, 100))
def test_z_of_a_one_hot_output(classes: int, size: float) -> None:
    head = AMUHead(torch.eye(classes, dtype=torch.float64), torch.arange(classes), classes)
    _, z = head(torch.zeros(1, classes, dtype=torch.float64), size * torch.eye(classes, dtype=torch.float64)[:1])
    assert z.max().item() == pytest.approx((classes - 1) / math.sqrt(classes))
    assert (z.max() - z.min()).item() == pytest.approx(math.sqrt(classes))
    floor = math.log(1 + (classes - 1) * math.exp(-math.sqrt(classes)))
    assert cross_entropy(z, torch.tensor([0])).item() == pytest.approx(floor)


@SMALL
@given(classes=st.integers(2, 3000))
def test_the_relative_temperature_spreads_z_as_with_a_thousand_classes(classes: int) -> None:
    assert temperature_of("classes", classes) * math.sqrt(classes) == pytest.approx(math.sqrt(1000))


@SMALL
@given(seed=SEEDS, classes=st.integers(2, 12), power=st.floats(0, 1), alpha=st.floats(0, 3))
def test_forward_is_the_definition(seed: int, classes: int, power: float, alpha: float) -> None:
    support = make_problem(classes=classes, seed=seed, dtype=torch.float64).support
    options = {"alpha": alpha, "power": power, "reference": 30.0, "kind": "kurtosis", "temperature": 2.0}
    head = AMUHead(support.auxiliary[:, 0], support.labels, classes, **options)
    clip_logits, features = support.zero_shot()[:, 1], support.auxiliary[:, 1]
    found = head(clip_logits, features)
    for part, expected in zip(found, naive_logits(clip_logits, features @ head.weight.T, options), strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-6, atol=1e-6)


def test_initial_rows_are_class_means_and_at_one_shot_the_features() -> None:
    support = make_problem(shots=1).support
    head = AMUHead(support.auxiliary[:, 0], support.labels, 10)
    torch.testing.assert_close(head.weight, support.auxiliary[:, 0], rtol=0, atol=0)
    features = normalize(torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), dim=-1)
    head = AMUHead(features, torch.tensor([2, 0, 2, 2, 0]), 4)
    expected = torch.stack([features[[1, 4]].mean(0), torch.zeros(7), features[[0, 2, 3]].mean(0), torch.zeros(7)])
    torch.testing.assert_close(head.weight.detach(), expected)
    assert head.weight[2].norm() < 0.99  # not normalised again


def test_the_released_start_divides_by_the_mean_count() -> None:
    still = {"learning_rate": 0.0, "epochs": 1}
    for shots in ((3, 1, 0, 4, 2), (2,) * 5):
        support = make_problem(classes=5, shots=shots, dtype=torch.float64).support
        own = fit_method("amu", support, still, seed=0).weight
        released = fit_method("amu", support, still | {"counts": "mean"}, seed=0).weight
        targets = torch.nn.functional.one_hot(support.labels, 5).double()
        expected = targets.T @ support.auxiliary[:, 0] / (len(support.labels) / 5)
        torch.testing.assert_close(released, expected)
        assert torch.allclose(own, released) == (len(set(shots)) == 1)


def test_alpha_zero_is_zero_shot_exactly() -> None:
    problem = make_problem(test=5)
    found = fit_method("amu", problem.support, SHORT | {"alpha": 0.0}, seed=0)
    expected = fit_method("zero_shot", problem.support, seed=0)
    assert found.logits(problem.clip, problem.auxiliary).equal(expected.logits(problem.clip))


def test_the_heads_size_does_not_matter() -> None:
    problem = make_problem(test=5)
    head = fit_method("amu", problem.support, SHORT, seed=0)
    scaled = type(head)(**(vars(head) | {"weight": 37.0 * head.weight}))
    torch.testing.assert_close(
        scaled.logits(problem.clip, problem.auxiliary), head.logits(problem.clip, problem.auxiliary)
    )


def test_a_head_without_an_opinion_is_zero_shot() -> None:
    head = AMUHead(torch.ones(4, 1), torch.arange(4), 4)
    clip_logits = torch.tensor([[3.0, 1.0, 0.0, 2.0]])
    fused, z = head(clip_logits, torch.ones(1, 1))
    assert fused.equal(clip_logits)
    assert (z == 0).all()


@SMALL
@given(seed=SEEDS)
def test_the_loss_at_its_ends(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    fused, auxiliary = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (6,), generator=generator)
    assert amu_loss(fused, auxiliary, labels, 1.0).equal(cross_entropy(fused, labels))
    assert amu_loss(fused, auxiliary, labels, 0.0).equal(cross_entropy(auxiliary, labels))
    middle = (cross_entropy(fused, labels) + cross_entropy(auxiliary, labels)) / 2
    torch.testing.assert_close(amu_loss(fused, auxiliary, labels, 0.5), middle)


# Training


@pytest.mark.parametrize("name", ["amu", "amu_no_a", "amu_no_m", "amu_no_u", "amu_classes"])
@pytest.mark.parametrize("shots", [(1,) * 5, (3, 1, 0, 4, 2), (3, 2), (2, 1, 3)])
def test_training_is_that_of_autograd_and_torchs_adamw(name: str, shots: tuple[int, ...]) -> None:
    classes = len(shots)
    support = make_problem(classes=classes, shots=shots, dtype=torch.float64).support
    head = fit_method(name, support, SHORT, seed=3)
    options = DEFAULTS[name] | SHORT
    if name == "amu_classes":
        largest = [(c - 1) * ((c - 1) ** 3 + 1) / c**3 for c in (classes, 1000)]
        options |= {"temperature": math.sqrt(1000 / classes), "reference": 250 * largest[0] / largest[1]}
    torch.testing.assert_close(head.weight, train_online(support, options, seed=3), **ORACLE)


def test_in_fp32_it_is_the_same_to_rounding() -> None:
    single, double = (make_problem(dtype=dtype).support for dtype in (torch.float32, torch.float64))
    found = fit_method("amu", single, SHORT, seed=1).weight
    torch.testing.assert_close(found.double(), train_online(double, DEFAULTS["amu"] | SHORT, 1), rtol=0, atol=1e-6)


def test_cached_training_is_online_training() -> None:
    """An encoder that runs anew on each image at every step gives the head that its cached features gave."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 20, generator=generator, dtype=torch.float64)  # [n, views, pixels]
    frozen = torch.randn(20, 12, generator=generator, dtype=torch.float64)
    clip, classifier = make_problem(classes=4, shots=2, dtype=torch.float64).support.clip, torch.eye(64)[:, :4].double()
    labels = torch.arange(4).repeat(2)
    support = Support(clip, normalize((images @ frozen).tanh(), dim=-1), labels, classifier)
    calls = []

    def encode(image: Tensor, view: Tensor) -> Tensor:
        calls.append((int(image), int(view)))
        return normalize((images[image, view] @ frozen).tanh(), dim=-1)

    online = train_online(support, DEFAULTS["amu"] | SHORT, 5, encode)
    torch.testing.assert_close(fit_method("amu", support, SHORT, seed=5).weight, online, **ORACLE)
    assert len(calls) == 3 * 8


def test_several_candidates_at_once_are_each_alone() -> None:
    support = make_problem(dtype=torch.float64).support
    changes = [
        {},
        {"lambda": 0.0},
        {"lambda": 0.0, "alpha": 3.0, "kind": "none"},
        {"lambda": 1.0, "kind": "entropy"},
        {"power": 0.9, "temperature": "classes"},
        {"alpha": 2.0, "reference": "classes"},
    ]
    candidates = [complete_settings("amu", SHORT | change) for change in changes]
    for settings_of, found in zip(candidates, fit_amu(support, candidates, seed=2), strict=True):
        (alone,) = fit_amu(support, [settings_of], seed=2)
        torch.testing.assert_close(found.weight, alone.weight, **ORACLE)
        assert (found.alpha, found.power, found.kind) == (alone.alpha, alone.power, alone.kind)
    first, second = fit_amu(support, candidates[1:3], seed=2)
    assert first.weight.equal(second.weight)
    assert not first.weight.equal(fit_amu(support, candidates[:1], seed=2)[0].weight)


@SMALL
@given(seed=SEEDS, steps=st.integers(1, 12), decay=st.sampled_from([0.0, 0.01, 0.5]), turned=st.booleans())
def test_adamw_is_torchs_however_the_gradient_lies(seed: int, steps: int, decay: float, turned: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    start, *gradients = torch.randn(steps + 1, 3, 4, generator=generator, dtype=torch.float64)
    gradients = [gradient.T.contiguous().T if turned else gradient for gradient in gradients]
    ours, theirs = start.clone(), start.clone().requires_grad_()
    optimizer = AdamW(ours, steps=steps, learning_rate=0.1, weight_decay=decay, epsilon=1e-4)
    reference = torch.optim.AdamW([theirs], lr=0.1, weight_decay=decay, eps=1e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(reference, steps)
    for gradient in gradients:
        optimizer.step(gradient)
        theirs.grad = gradient
        reference.step()
        cosine.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)


@SMALL
@given(seed=SEEDS, count=st.integers(1, 20), views=st.integers(1, 5))
def test_every_epoch_has_each_image_once_and_only_augmented_views(seed: int, count: int, views: int) -> None:
    epochs = list(schedule(count, views, 30, seed))
    for order, view in epochs:
        assert order.sort().values.tolist() == list(range(count))
        assert set(view.tolist()) <= set(range(1, views) if views > 1 else [0])
    if views > 1:
        assert {value for _, view in epochs for value in view.tolist()} == set(range(1, views))


def test_seeds_decide_and_nothing_else() -> None:
    support = make_problem().support
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (fit_method("amu", support, SHORT, seed=seed).weight for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)
    assert torch.get_rng_state().equal(state)


def test_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    fit_method("amu", make_problem().support, SHORT, seed=0)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_epochs_can_be_watched_without_a_change() -> None:
    problem = make_problem(test=3)
    seen = {}
    watched = fit_method("amu", problem.support, SHORT, seed=0, on_epoch=seen.__setitem__)
    assert list(seen) == [1, 2, 3]
    assert seen[3].weight.equal(watched.weight)
    assert not seen[1].weight.equal(seen[2].weight)
    assert watched.weight.equal(fit_method("amu", problem.support, SHORT, seed=0).weight)


def test_the_ablations_are_what_they_say() -> None:
    problem = make_problem(test=4)
    without_a = fit_method("amu_no_a", problem.support, SHORT, seed=0)
    assert without_a.weight.shape == (10, 64)
    assert without_a.logits(problem.clip).equal(without_a.logits(problem.clip, problem.auxiliary))
    without_u = fit_method("amu_no_u", problem.support, SHORT | {"lambda": 0.0}, seed=0)
    amu = fit_method("amu", problem.support, SHORT | {"lambda": 0.0}, seed=0)
    zero_shot = fit_method("zero_shot", problem.support, seed=0).logits(problem.clip)
    biases = [head.logits(problem.clip, problem.auxiliary) - zero_shot for head in (amu, without_u)]
    torch.testing.assert_close(biases[0], uncertainty(zero_shot) * biases[1], rtol=1e-4, atol=1e-4)


# Two classes


def overlapping(seed: int) -> Problem:
    """Two classes that differ along one direction, with most noise along others; CLIP knows little of them."""
    generator = torch.Generator().manual_seed(seed)
    labels, tested = torch.arange(2).repeat_interleave(16), torch.arange(2).repeat_interleave(250)
    noise = torch.ones(24, dtype=torch.float64)
    noise[1:5] = 4.0

    def draw(labels: Tensor) -> Tensor:
        rows = noise * torch.randn(len(labels), 24, generator=generator, dtype=torch.float64)
        rows[:, 0] += 4.0 * labels - 2.0
        return normalize(rows, dim=-1)

    clip, text = (normalize(torch.randn(n, 8, generator=generator).double(), dim=-1) for n in (532, 2))
    support = Support(clip[:32, None], draw(labels)[:, None], labels, text.T)
    return Problem(support, clip[32:], draw(tested), tested)


def test_with_two_classes_ours_learns_and_the_published_stays_at_class_means() -> None:
    alone = {"selection": "fixed", "lambda": 0.0, "alpha": 1000.0, "kind": "none"}
    still = alone | {"learning_rate": 0.0}
    start, ours, published, chosen = [], [], [], []
    for seed in range(5):
        problem = overlapping(seed)
        start.append(problem.accuracy(fit_method("amu_classes", problem.support, still, seed=seed)))
        ours.append(problem.accuracy(fit_method("amu_classes", problem.support, alone, seed=seed)))
        published.append(problem.accuracy(fit_method("amu", problem.support, alone, seed=seed)))
        chosen.append(problem.accuracy(fit_method("amu_classes", problem.support, seed=seed)))
    assert published == pytest.approx(start, abs=0.01)
    assert sum(ours) / 5 > sum(start) / 5 + 0.05
    assert sum(chosen) / 5 > sum(start) / 5


def test_with_two_classes_the_published_head_has_no_gradient_and_the_mixed_one_has() -> None:
    support = make_problem(classes=2, shots=8, dtype=torch.float64).support
    size = {}
    for spread in ("sample", "mixed"):
        head = AMUHead(support.auxiliary[:, 0], support.labels, 2, spread=spread)
        fused, auxiliary = head(support.zero_shot()[:, 1], support.auxiliary[:, 1])
        amu_loss(fused, auxiliary, support.labels, 0.35).backward()
        size[spread] = float(head.weight.grad.abs().max())
    assert size["sample"] < 1e-12
    assert size["mixed"] > 1e-3


def test_the_mixed_spread_tends_to_the_published_one() -> None:
    assert mixing_of("mixed", 2) == 1.0
    difference = []
    for classes in (3, 10, 100, 1000):
        assert mixing_of("sample", classes) == 0.0
        support = make_problem(classes=classes, shots=1, widths=(8, 48), dtype=torch.float64).support
        published, mixed = (
            AMUHead(support.auxiliary[:, 0], support.labels, classes, spread=spread)(
                support.zero_shot()[:, 1], support.auxiliary[:, 1]
            )[1]
            for spread in ("sample", "mixed")
        )
        difference.append(float(((mixed - published).norm() / published.norm()).detach()))
    assert difference == sorted(difference, reverse=True)
    assert difference[0] > 1e-3
    assert difference[1] < 5e-4
    assert difference[-1] < 1e-9


def test_only_the_published_form_with_two_classes_is_cautioned() -> None:
    for name in ("amu", "amu_no_a", "amu_no_m", "amu_no_u", "amu_classes"):
        said = {classes: METHODS[name].caution(complete_settings(name, {}), classes) for classes in (2, 3)}
        assert said[3] is None
        assert (said[2] is None) == (name == "amu_classes")
    mixed = complete_settings("amu", {"spread": "mixed"})
    assert METHODS["amu"].caution(mixed, 2) is None
    assert "can't learn from two classes" in METHODS["amu"].caution(complete_settings("amu", {}), 2)


# The class-count trap, with ten classes

ALL = ("zero_shot", "auxiliary_probe", "amu", "amu_classes")


@pytest.mark.parametrize("shots", [4, 8])
def test_amu_loses_to_its_auxiliary_where_clip_is_sure_and_wrong_and_ours_does_not(shots: int) -> None:
    problem = make_problem(noise=(5.0, 1.7), text_noise=4.0, shots=shots, test=40)
    score = {name: problem.accuracy(fit_method(name, problem.support, seed=0)) for name in ALL}
    assert score["amu"] < score["auxiliary_probe"] - 0.2
    assert score["amu_classes"] > score["auxiliary_probe"] - 0.03


@pytest.mark.parametrize("shots", [2, 8])
def test_ours_keeps_a_good_clip_from_a_bad_auxiliary(shots: int) -> None:
    problem = make_problem(noise=(1.5, 8.0), text_noise=1.0, shots=shots, test=40)
    score = {name: problem.accuracy(fit_method(name, problem.support, seed=0)) for name in ALL}
    assert score["auxiliary_probe"] < score["zero_shot"] - 0.4
    assert score["amu_classes"] > score["zero_shot"] - 0.03


def test_ours_gains_where_both_know_something() -> None:
    problem = make_problem(noise=(2.5, 2.5), text_noise=2.0, shots=8, test=40)
    score = {name: problem.accuracy(fit_method(name, problem.support, seed=0)) for name in ALL}
    assert score["amu_classes"] > max(score["zero_shot"], score["auxiliary_probe"])


def test_the_floor_makes_a_published_head_worse_than_its_start_and_the_temperature_does_not() -> None:
    problem = make_problem(noise=(5.0, 2.5), shots=16, views=2, test=100)
    alone = complete_settings("amu", {"lambda": 0.0, "alpha": 1000.0, "kind": "none"})
    changes = ({"learning_rate": 0.0}, {}, {"temperature": "classes"})
    start, published, relative = (
        problem.accuracy(fit_amu(problem.support, [alone.changed(change)], seed=0)[0]) for change in changes
    )
    assert published < start - 0.06
    assert relative > start - 0.03


def test_refused() -> None:
    with pytest.raises(ValueError, match="trained together"):
        fit_amu(make_problem().support, [complete_settings(name, {}) for name in ("amu", "amu_no_a")], seed=0)
    with pytest.raises(ValueError, match="temperature"):
        AMUHead(torch.ones(2, 1), torch.arange(2), 2, temperature="images")
    with pytest.raises(ValueError, match="reference"):
        AMUHead(torch.ones(2, 1), torch.arange(2), 2, reference="images")
    with pytest.raises(ValueError, match="spread"):
        AMUHead(torch.ones(2, 1), torch.arange(2), 2, spread="images")
