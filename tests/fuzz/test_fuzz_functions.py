"""Public functions on odd tensors and numbers: the naive answer, or an error that says what is expected."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, get_args

import pytest
import torch
from odd_tensors import SHAPES, draw_shape, draw_tensor
from outcomes import Case
from sizes import inputs
from torch import Tensor

from logitfusion.clip import AMUHead, uncertainty
from logitfusion.clip.confidence import KINDS
from logitfusion.config.gate import FeatureName, Gate, GateFeature
from logitfusion.distill import gld_loss, uld_loss
from logitfusion.fusion import fuse_logits, solve_weights
from logitfusion.fusion.selections import SELECTIONS

Watch = Callable[..., None]
REFUSALS = (ValueError, TypeError)
NUMBERS = (0, 1, 2, 3, 7, -1, 0.5, float("nan"), float("inf"), 1e-30, 1e30, True, 10**30, None, "x")

_PARTS = {name: GateFeature(weight=0.5) for name in get_args(FeatureName)}
GATE = Gate(features=_PARTS, relative=_PARTS)


def all_finite(*tensors: Tensor) -> bool:
    return all(bool(one.isfinite().all()) for one in tensors)


def within(largest: float, *tensors: Tensor) -> bool:
    """Whether no number is larger than this, up to which fp32 can be asked for a finite answer."""
    return all(bool((one.double().abs() <= largest).all()) for one in tensors)  # fp16 takes 1e6 for infinity


def fused(draw: Random) -> tuple[Callable[[], Any], Callable[[Any], bool]]:
    shape, experts = draw.choice(SHAPES), draw.randrange(0, 3)
    large, base = (draw_tensor(draw_shape(shape, draw), draw) for _ in range(2))
    others = draw_tensor(draw_shape((experts, *shape), draw), draw)
    weights = draw_tensor(draw_shape((experts, *shape[:-1]), draw), draw)
    if draw.random() < 0.3:
        weights = torch.zeros_like(weights)

    def is_right(found: Tensor) -> bool:
        if found.dtype != torch.float32 or found.shape != large.shape:
            return False
        if not weights.any():
            return found.equal(large.float()) or bool((found.isnan() == large.isnan()).all())
        if not all_finite(large, base, others, weights):
            return True
        exact = large.double() + (weights.double().unsqueeze(-1) * (others.double() - base.double())).sum(0)
        scale = 1 + max(one.double().abs().max().item() for one in (large, base, others)) * (
            1 + weights.double().abs().max().item()
        )
        return scale > 1e37 or torch.allclose(found.double(), exact, atol=1e-5 * scale)

    return lambda: fuse_logits(large, base, others, weights), is_right


def solved(draw: Random) -> tuple[Callable[[], Any], Callable[[Any], bool]]:
    shape, experts = draw.choice(SHAPES), draw.randrange(0, 3)
    large, base = (draw_tensor(draw_shape(shape, draw), draw) for _ in range(2))
    others = draw_tensor(draw_shape((experts, *shape), draw), draw)
    options: dict[str, Any] = {"selection": draw.choice([*SELECTIONS, *SELECTIONS, "none"])}
    if draw.random() < 0.1:
        options["step"] = draw.choice(NUMBERS)
    if draw.random() < 0.1:
        options["bounds"] = (draw.choice(NUMBERS), draw.choice(NUMBERS))
    if draw.random() < 0.3:
        options["rule"] = draw.choice(["grid", "newton", "gate", ""])
    gated = options.get("rule") == "gate" and draw.random() < 0.8
    if gated:
        options["gate"] = GATE
    low, high = (0.0, GATE.largest) if gated else options.get("bounds", (0.0, 2.0))

    def is_right(found: Any) -> bool:
        fits = found.weights.shape == others.shape[:-1] and (gated or found.loss.shape == large.shape[:-1])
        inside = bool(((found.weights >= min(low, 0) - 1e-6) & (found.weights <= max(high, 0) + 1e-6)).all())
        finite = gated or all_finite(found.loss) or not within(1e15, large, base, others)  # it is a sum of squares
        return fits and inside and finite

    return lambda: solve_weights(large, base, others, **options), is_right


def distilled(loss: Callable[..., Tensor]) -> Callable[[Random], tuple[Callable[[], Any], Callable[[Any], bool]]]:
    def make(draw: Random) -> tuple[Callable[[], Any], Callable[[Any], bool]]:
        batch, lengths = draw.randrange(0, 3), (draw.randrange(0, 4), 3)
        vocabularies = (draw.choice([0, 1, 5, 5, 9, 9]), 7)
        student, teacher = (
            draw_tensor(draw_shape((batch, length, size), draw), draw)
            for length, size in zip(lengths, vocabularies, strict=True)
        )
        options = {"k": draw.choice(NUMBERS if draw.random() < 0.2 else (1, 2, 4))} if draw.random() < 0.8 else {}
        if draw.random() < 0.3:
            options["signal"] = draw.choice(["prob", "logprob", "logit", "none"])
        if draw.random() < 0.3:
            options["student_mask"] = draw_tensor(draw_shape((batch, lengths[0]), draw), draw, torch.bool)

        def is_right(found: Tensor) -> bool:
            if found.shape != ():
                return False
            return not within(1e6, student, teacher) or bool(found.isfinite() & (found >= 0))

        return lambda: loss(student, teacher, **options), is_right

    return make


def unsure(draw: Random) -> tuple[Callable[[], Any], Callable[[Any], bool]]:
    logits = draw_tensor(draw.choice(SHAPES), draw)
    options: dict[str, Any] = {"kind": draw.choice([*KINDS, "x"])}
    for name in ("power", "reference"):
        if draw.random() < 0.15:
            options[name] = draw.choice([*NUMBERS, "classes"])

    def is_right(found: Tensor) -> bool:
        fits = found.shape == (*logits.shape[:-1], 1)
        certain = all_finite(logits) and abs(options.get("power", 0)) < 10
        return fits and (not certain or bool((found.isfinite() & (found > 0)).all()))

    return lambda: uncertainty(logits, **options), is_right


def tuned(draw: Random) -> tuple[Callable[[], Any], Callable[[Any], bool]]:
    images, width = draw.randrange(0, 9), draw.choice([0, 1, 6, 6, 6])
    classes = 3 if draw.random() < 0.8 else draw.choice(NUMBERS)
    features = draw_tensor(draw_shape((images, width), draw), draw)
    kind = torch.int64 if draw.random() < 0.9 else None
    labels = draw_tensor(draw_shape((images,), draw), draw, kind)
    if kind is not None:
        labels = labels.abs() % draw.choice([3, 3, 3, 9])
    clip, seen = draw_tensor(draw_shape((2, 3), draw), draw), draw_tensor(draw_shape((2, width), draw), draw)
    options = {"alpha": draw.choice(NUMBERS)} if draw.random() < 0.3 else {}

    def is_right(found: tuple[Tensor, Tensor]) -> bool:
        fits = found[0].shape == clip.shape and found[0].shape == found[1].shape
        return fits and (not all_finite(features, clip, seen) or all_finite(*found))

    return lambda: AMUHead(features, labels, classes, **options)(clip, seen), is_right


FUNCTIONS = {
    "fuse_logits": fused,
    "solve_weights": solved,
    "gld_loss": distilled(gld_loss),
    "uld_loss": distilled(uld_loss),
    "uncertainty": unsure,
    "AMUHead": tuned,
}


@inputs(150, 8000)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function(name: str, inputs: int, watch: Watch) -> None:
    def make(number: int) -> Case:
        call, is_right = FUNCTIONS[name](Random(f"{name} {number}"))
        return Case(f"{name} {number}", call, is_right, REFUSALS)

    watch(make(number) for number in range(inputs))
