"""fuse_logits: what it must satisfy for any models."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from logitfusion.fusion import fuse_logits

INF = torch.inf
SMALL = settings(max_examples=40, deadline=None, derandomize=True)
SHAPES = st.lists(st.integers(1, 3), max_size=2).map(tuple)


def draw_models(
    seed: int, *, experts: int = 2, leading: tuple[int, ...] = (3,), vocabulary: int = 11, scale: float = 3.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random large, base, experts and weights."""
    generator = torch.Generator().manual_seed(seed)
    large, base = (scale * torch.randn(*leading, vocabulary, generator=generator) for _ in range(2))
    shift = torch.randn(experts, *leading, vocabulary, generator=generator)
    return large, base, base + shift, 2 * torch.rand(experts, *leading, generator=generator)


@SMALL
@given(seed=st.integers(0, 10**6), experts=st.integers(1, 4), leading=SHAPES, vocabulary=st.integers(1, 9))
def test_weights_0_are_the_large_model_exactly(
    seed: int, experts: int, leading: tuple[int, ...], vocabulary: int
) -> None:
    large, base, others, weights = draw_models(seed, experts=experts, leading=leading, vocabulary=vocabulary)
    assert torch.equal(fuse_logits(large, base, others, torch.zeros_like(weights)), large)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_0_are_the_large_model_exactly_in_half_precision(dtype: torch.dtype) -> None:
    large, base, experts, weights = draw_models(0)
    fused = fuse_logits(large.to(dtype), base.to(dtype), experts.to(dtype), torch.zeros_like(weights))
    assert torch.equal(fused, large.to(dtype).float())


@SMALL
@given(seed=st.integers(0, 10**6), leading=SHAPES, vocabulary=st.integers(1, 9))
def test_one_expert_at_weight_1_is_proxy_tuning(seed: int, leading: tuple[int, ...], vocabulary: int) -> None:
    large, base, experts, weights = draw_models(seed, experts=1, leading=leading, vocabulary=vocabulary)
    fused = fuse_logits(large, base, experts, torch.ones_like(weights))
    torch.testing.assert_close(fused, large + experts[0] - base, rtol=1e-6, atol=1e-5)


@SMALL
@given(seed=st.integers(0, 10**6), experts=st.integers(1, 4), leading=SHAPES)
def test_every_expert_adds_its_weighted_shift(seed: int, experts: int, leading: tuple[int, ...]) -> None:
    large, base, others, weights = (part.double() for part in draw_models(seed, experts=experts, leading=leading))
    expected = large + (weights.unsqueeze(-1) * (others - base)).sum(0)
    found = fuse_logits(large.float(), base.float(), others.float(), weights.float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_sum_is_fp32_whatever_comes_in(dtype: torch.dtype) -> None:
    large, base, experts, weights = draw_models(1)
    fused = fuse_logits(large.to(dtype), base.to(dtype), experts.to(dtype), weights.to(dtype))
    rounded = [part.to(dtype).float() for part in (large, base, experts, weights)]
    assert fused.dtype == torch.float32
    assert torch.equal(fused, fuse_logits(*rounded))


def test_models_may_differ_in_precision() -> None:
    large, base, experts, weights = draw_models(2)
    fused = fuse_logits(large.bfloat16(), base.half(), experts, weights)
    assert torch.equal(fused, fuse_logits(large.bfloat16().float(), base.half().float(), experts, weights))


def test_inputs_are_left_as_they_were() -> None:
    given_ = draw_models(3)
    before = [part.clone() for part in given_]
    fuse_logits(*given_)
    assert all(torch.equal(part, old) for part, old in zip(given_, before, strict=True))


MASKS = st.lists(st.sampled_from(["none", "large", "base", "expert", "base+expert", "all"]), min_size=5, max_size=5)


@SMALL
@given(masks=MASKS, weight=st.sampled_from([0.0, 0.1, 1.0, 2.0]), seed=st.integers(0, 10**6))
def test_no_mask_makes_nan_and_the_large_models_mask_stays(masks: list[str], weight: float, seed: int) -> None:
    large, base, experts, _ = draw_models(seed, experts=1, leading=(), vocabulary=len(masks))
    for entry, mask in enumerate(masks):
        for name, logits in (("large", large), ("base", base), ("expert", experts[0])):
            if name in mask or mask == "all":
                logits[entry] = -INF
    fused = fuse_logits(large, base, experts, torch.tensor([weight]))
    assert not fused.isnan().any()
    assert torch.isneginf(fused[torch.isneginf(large)]).all()
    assert not torch.isposinf(fused).any()


def test_an_entry_that_the_base_excludes_is_the_large_models() -> None:
    large, base, experts, weights = draw_models(4)
    base[..., 2] = -INF
    fused = fuse_logits(large, base, experts, weights)
    assert torch.equal(fused[..., 2], large[..., 2])
    assert fused.isfinite().all()


def test_an_entry_that_base_and_expert_exclude_is_the_large_models() -> None:
    large, base, experts, weights = draw_models(5)
    base[..., 2] = experts[..., 2] = -INF
    assert torch.equal(fuse_logits(large, base, experts, weights)[..., 2], large[..., 2])


def test_an_expert_excludes_an_entry_only_where_it_has_weight() -> None:
    large, base, experts, _ = draw_models(6, leading=(2,))
    experts[0, :, 4] = -INF
    weights = torch.tensor([[0.0, 0.5], [1.0, 1.0]])  # the first expert steers the second row alone
    fused = fuse_logits(large, base, experts, weights)
    assert fused[0].isfinite().all()
    assert torch.isneginf(fused[1, 4])
    assert fused[1, :4].isfinite().all()


@SMALL
@given(seed=st.integers(0, 10**6), constants=st.tuples(*[st.integers(-50, 50)] * 4))
def test_constants_leave_the_distribution_alone(seed: int, constants: tuple[int, int, int, int]) -> None:
    large, base, experts, weights = draw_models(seed)
    moved = experts + torch.tensor(constants[2:])[:, None, None]
    fused = fuse_logits(large + constants[0], base + constants[1], moved, weights)
    plain = fuse_logits(large, base, experts, weights)
    torch.testing.assert_close(fused.softmax(-1), plain.softmax(-1), rtol=1e-3, atol=1e-5)


@SMALL
@given(seed=st.integers(0, 10**6), order=st.permutations(range(11)))
def test_permuting_the_vocabulary_permutes(seed: int, order: list[int]) -> None:
    large, base, experts, weights = draw_models(seed)
    fused = fuse_logits(large[..., order], base[..., order], experts[..., order], weights)
    assert torch.equal(fused, fuse_logits(large, base, experts, weights)[..., order])


@pytest.mark.parametrize("leading", [(), (2,), (2, 3), (0,), (2, 0)])
def test_leading_shapes_are_kept(leading: tuple[int, ...]) -> None:
    large, base, experts, weights = draw_models(7, leading=leading)
    assert fuse_logits(large, base, experts, weights).shape == large.shape


def test_rows_do_not_see_each_other() -> None:
    large, base, experts, weights = draw_models(8, leading=(2, 3))
    fused = fuse_logits(large, base, experts, weights)
    assert torch.equal(fused[1, 2], fuse_logits(large[1, 2], base[1, 2], experts[:, 1, 2], weights[:, 1, 2]))


@pytest.mark.parametrize(
    ("large", "base", "experts", "weights"),
    [
        ((3, 11), (3, 10), (2, 3, 11), (2, 3)),  # vocabularies differ
        ((3, 11), (11,), (2, 3, 11), (2, 3)),  # no broadcasting of the base
        ((3, 11), (3, 11), (3, 11), (3,)),  # experts without their own dimension
        ((3, 11), (3, 11), (2, 4, 11), (2, 4)),  # more rows in the experts
        ((3, 11), (3, 11), (2, 3, 11), (3,)),  # one weight a row, two experts
        ((3, 11), (3, 11), (2, 3, 11), (1, 3)),
        ((3, 11), (3, 11), (2, 3, 11), (2, 3, 1)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(large: tuple, base: tuple, experts: tuple, weights: tuple) -> None:
    with pytest.raises(ValueError, match="fuse_logits needs"):
        fuse_logits(*(torch.zeros(shape) for shape in (large, base, experts, weights)))
