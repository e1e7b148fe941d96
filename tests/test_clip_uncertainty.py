"""AMU's uncertainty factor: against its definition, scipy, closed forms, and what must not change it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy, kurtosis
from torch import Tensor

from logitfusion.clip import uncertainty
from logitfusion.clip.confidence import KINDS, confidence, largest_kurtosis, reference_of

SMALL = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)
CLASSES = st.integers(2, 60)
MEASURES = tuple(kind for kind in KINDS if kind != "none")


def draw(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_hot_logits(classes: int) -> Tensor:
    return torch.tensor([[200.0] + [0.0] * (classes - 1)])


@SMALL
@given(classes=st.integers(2, 2000), power=st.floats(0, 2))
def test_one_hot_closed_form(classes: int, power: float) -> None:
    expected = (250 * classes**3 / ((classes - 1) * ((classes - 1) ** 3 + 1))) ** power
    found = uncertainty(one_hot_logits(classes), power=power)
    assert found.item() == pytest.approx(expected, rel=1e-4)


@SMALL
@given(seed=SEEDS, classes=CLASSES, scale=st.floats(0.1, 20.0), power=st.floats(0, 1), reference=st.floats(0.5, 300))
def test_kurtosis_is_scipys_with_unbiased_std(
    seed: int, classes: int, scale: float, power: float, reference: float
) -> None:
    logits = draw(seed, 4, classes, scale=scale)
    unbiased = ((classes - 1) / classes) ** 2
    expected = kurtosis(logits.softmax(-1).numpy(), axis=-1, fisher=False, bias=True) * unbiased
    found = uncertainty(logits, power=power, reference=reference)
    torch.testing.assert_close(found[:, 0], torch.from_numpy((reference / expected) ** power), rtol=1e-9, atol=0)


def test_the_table_of_class_counts() -> None:
    for classes, largest, factor in ((10, 6.6, 4.29), (100, 96, 1.47), (1000, 996, 0.575)):
        assert largest_kurtosis(classes) == pytest.approx(largest, rel=0.01)
        assert uncertainty(one_hot_logits(classes)).item() == pytest.approx(factor, rel=0.005)


@pytest.mark.parametrize("kind", MEASURES)
@SMALL
@given(seed=SEEDS, classes=CLASSES, scale=st.floats(0.01, 60.0))
def test_any_kind_is_within_kurtosis_bounds_and_ignores_order_and_shift(
    kind: str, seed: int, classes: int, scale: float
) -> None:
    logits = draw(seed, 3, classes, scale=scale)
    found = confidence(logits, kind)
    least = ((classes - 1) / classes) ** 2 if kind == "kurtosis" else largest_kurtosis(classes) / classes
    assert (found >= least - 1e-9).all()
    assert (found <= largest_kurtosis(classes) * (1 + 1e-9)).all()
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(confidence(logits[:, order] + 7.0, kind), found, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in MEASURES if kind != "kurtosis"])
@pytest.mark.parametrize("classes", [2, 3, 5, 6, 100])
def test_other_kinds_go_from_uniform_to_one_hot(kind: str, classes: int) -> None:
    uniform = confidence(torch.full((1, classes), 4.0), kind).item()
    assert uniform == pytest.approx(largest_kurtosis(classes) / classes, rel=1e-3)
    certain = one_hot_logits(classes) * 1e6  # energy gets there only in the limit
    assert confidence(certain, kind).item() == pytest.approx(largest_kurtosis(classes), rel=1e-4)
    path = torch.stack([t * one_hot_logits(classes)[0] for t in torch.linspace(0, 0.05, 9)])
    assert (confidence(path, kind)[:, 0].diff() > 0).all()


@SMALL
@given(seed=SEEDS, classes=CLASSES)
def test_entropy_and_energy_are_scipys(seed: int, classes: int) -> None:
    logits = draw(seed, 1, classes)
    chances, uniform, log = logits.softmax(-1)[0].numpy(), [1 / classes] * classes, math.log(classes)
    over = entropy(uniform, chances)
    for kind, certainty in (("entropy", 1 - entropy(chances) / log), ("energy", over / (over + log))):
        expected = largest_kurtosis(classes) * (1 + certainty * (classes - 1)) / classes
        assert confidence(logits, kind).item() == pytest.approx(expected, rel=1e-9)


@SMALL
@given(classes=st.integers(3, 3000))
def test_the_relative_reference_gives_a_certain_clip_the_published_factor(classes: int) -> None:
    found = uncertainty(one_hot_logits(classes), reference="classes")
    assert found.item() == pytest.approx(uncertainty(one_hot_logits(1000)).item(), rel=1e-4)
    assert reference_of("classes", 1000) == pytest.approx(250.0)


@pytest.mark.parametrize("reference", [250.0, "classes"])
@SMALL
@given(seed=SEEDS)
def test_two_classes_tell_kurtosis_nothing(reference: float | str, seed: int) -> None:
    found = uncertainty(draw(seed, 6, 2), reference=reference)
    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1e-3, 1e-5])
def test_an_almost_uniform_softmax_has_the_kurtosis_of_its_logits(size: float) -> None:
    """Its probabilities differ in the last digits of fp32 only, or in none."""
    logits = size * draw(3, 5, 50, scale=1.0)
    expected = kurtosis(logits.numpy(), axis=-1, fisher=False) * (49 / 50) ** 2
    found = confidence(logits.float(), "kurtosis")[:, 0].double()
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0.02, atol=0)


@pytest.mark.parametrize("kind", tuple(KINDS))
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extremes_are_finite_and_positive(kind: str, classes: int, dtype: torch.dtype) -> None:
    logits = torch.zeros(6, classes, dtype=dtype)
    logits[1, 0], logits[2, 1], logits[3, :2], logits[4], logits[5, 0] = 6e4, -6e4, 100.0, 6e4, -torch.inf
    found = uncertainty(logits, kind)
    assert found.shape == (6, 1)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (found.isfinite() & (found > 0)).all()


def test_all_equal_logits_are_the_most_uncertain() -> None:
    found = uncertainty(torch.cat([torch.full((1, 10), 21.3), draw(0, 50, 10).float()]))
    assert found.argmax() == 0


def test_none_is_one_and_power_zero_too() -> None:
    logits = draw(1, 2, 3, 10)
    assert (uncertainty(logits, "none") == 1).all()
    assert (uncertainty(logits, power=0.0) == 1).all()
    assert uncertainty(logits).shape == (2, 3, 1)


def test_no_gradient() -> None:
    assert not uncertainty(draw(0, 2, 5).requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("logits", "options"),
    [
        (torch.zeros(3, 1), {}),
        (torch.zeros(3, 4), {"kind": "magic"}),
        (torch.zeros(3, 4), {"reference": "images"}),
        (torch.zeros(3, 4), {"reference": 0.0}),
        (torch.zeros(3, 4), {"reference": math.nan}),
    ],
)
def test_what_is_refused(logits: Tensor, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"classes|kind|reference"):
        uncertainty(logits, **options)
