"""Public functions say in words which tensors they can't use: nothing is left to an error of torch, or to chance."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import logitfusion
from logitfusion.clip import AMUHead, Support, fit_method, uncertainty
from logitfusion.distill import (
    CachedTeacher,
    Predictions,
    Teacher,
    distill_loss,
    gld_loss,
    predict,
    predict_at,
    uld_loss,
)
from logitfusion.distill.alignment import group_factors
from logitfusion.distill.bounds import gromov_bound
from logitfusion.errors import UserError
from logitfusion.fusion import fuse_logits, solve_weights

PACKAGE = Path(logitfusion.__file__).parent


class Use(NamedTuple):
    """A public function with arguments that it takes; ``floats``, ``whole`` and ``others`` name its tensors."""

    function: Callable[..., Any]
    given: dict[str, Any]
    floats: tuple[str, ...]
    whole: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def unit(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(numbers(*shape), dim=-1)


def labels(texts: int, length: int, vocabulary: int) -> Tensor:
    found = torch.arange(texts * length).reshape(texts, length) % vocabulary
    return found.masked_fill(torch.arange(length) < 2, -100)


LABELS = labels(2, 5, 7)
PREDICTIONS = vars(predict(numbers(2, 5, 7), LABELS, 3))
SUPPORT = {
    "clip": unit(6, 2, 8), "auxiliary": unit(6, 2, 5), "labels": torch.arange(6) % 3, "classifier": unit(3, 8).T,
    "groups": torch.arange(6),
}  # fmt: skip


def teach(logits: Tensor, teacher_labels: Tensor, **given: Any) -> Any:
    return distill_loss(teachers=[Teacher(logits, teacher_labels)], k=3, uld_weight=0.3, gld_weight=0.3, **given)


def teach_from_cache(groups: Tensor, **given: Any) -> Any:
    cached = [CachedTeacher(Predictions(**PREDICTIONS), groups)]
    return distill_loss(numbers(2, 5, 9), LABELS, cached, k=3, uld_k=3, uld_weight=0.5, gld_weight=0.0, **given)


def amu(aux_features: Tensor, labels: Tensor) -> AMUHead:
    return AMUHead(aux_features, labels, 3)


def answer(clip: Tensor, auxiliary: Tensor) -> Tensor:
    return fit_method("logit_sum", Support(**SUPPORT), seed=0).logits(clip, auxiliary)


FUSED = {"large": numbers(2, 7), "base": numbers(2, 7, seed=1), "experts": numbers(3, 2, 7)}
DISTILLED = {"student": numbers(2, 5, 9), "teacher": numbers(2, 6, 7)}
USES = {
    "fuse_logits": Use(fuse_logits, FUSED | {"weights": numbers(3, 2)}, ("large", "base", "experts", "weights")),
    "solve_weights": Use(solve_weights, FUSED, tuple(FUSED)),
    "gld_loss": Use(
        gld_loss, DISTILLED | {"k": 3, "student_mask": torch.ones(2, 5), "teacher_mask": torch.ones(2, 6)},
        tuple(DISTILLED), (), ("student_mask", "teacher_mask"),
    ),
    "uld_loss": Use(
        uld_loss, DISTILLED | {"student_mask": torch.ones(2, 5), "teacher_mask": torch.ones(2, 6)}, tuple(DISTILLED),
        (), ("student_mask", "teacher_mask"),
    ),
    "distill_loss": Use(
        teach,
        {"student": numbers(2, 5, 9), "labels": LABELS, "logits": numbers(2, 5, 7), "teacher_labels": LABELS},
        ("student", "logits"), ("labels", "teacher_labels"),
    ),
    "distill_loss, cached": Use(
        teach_from_cache, {"groups": torch.tensor([[0, 1, 0, 0], [2, 2, 1, 2]])}, (), ("groups",)
    ),
    "Predictions": Use(Predictions, PREDICTIONS, ("log_probs", "label_log_probs"), ("ids", "counts")),
    "predict": Use(predict, {"logits": numbers(2, 5, 7), "labels": LABELS, "k": 3}, ("logits",), ("labels",)),
    "predict_at": Use(
        predict_at,
        {"logits": numbers(2, 5, 7), "mask": LABELS >= 0, "labels": LABELS[LABELS >= 0], "k": 3},
        ("logits",), ("labels",), ("mask",),
    ),
    "group_factors": Use(
        group_factors, {"label_log_probs": numbers(4), "groups": torch.tensor([[0, 3, 0, 1]]), "side": "student"},
        ("label_log_probs",), ("groups",),
    ),
    "gromov_bound": Use(
        gromov_bound, {"first": numbers(3, 3), "second": numbers(3, 3), "bound": "flb"}, ("first", "second")
    ),
    "uncertainty": Use(uncertainty, {"clip_logits": numbers(4, 6)}, ("clip_logits",)),
    "AMUHead": Use(amu, {"aux_features": unit(6, 5), "labels": torch.arange(6) % 3}, ("aux_features",), ("labels",)),
    "AMUHead.forward": Use(
        amu(unit(6, 5), torch.arange(6) % 3), {"clip_logits": numbers(4, 3), "aux_features": unit(4, 5)},
        ("clip_logits", "aux_features"),
    ),
    "Support": Use(Support, SUPPORT, ("clip", "auxiliary", "classifier"), ("labels", "groups")),
    "head.logits": Use(answer, {"clip": unit(4, 8), "auxiliary": unit(4, 5)}, ("clip", "auxiliary")),
}  # fmt: skip


def spoil(use: Use, name: str) -> Iterator[tuple[str, Any]]:
    """Values that an argument can't have, with a word for each."""
    tensor, alone = use.given[name], len(use.floats + use.whole + use.others) == 1
    yield "a list", tensor.tolist()
    yield "a text", "text"
    yield "a number", 1.0
    if name in use.floats:
        yield "whole numbers", tensor.long()
        yield "truth values", tensor > 0
        yield "complex numbers", tensor.to(torch.complex64)
    if name in use.whole:
        yield "fractions", tensor.float()
        yield "int32", tensor.int()
        yield "complex numbers", tensor.to(torch.complex64)
        yield "too high", tensor + 100
        yield "too low", tensor - 101
    yield "a scalar", tensor.flatten()[0]
    yield (
        "one dimension more" if not alone else "an empty vocabulary",
        tensor[..., None] if not alone else tensor[..., :0],
    )
    if tensor.ndim > 1:
        yield "an empty vocabulary", tensor[..., :0]
        yield "one dimension less", tensor[0] if not alone else tensor[..., :0]
    if not alone and name not in use.others:  # masks follow their logits
        yield "another device", tensor.to("meta")


UNCHECKED = {("Predictions", "ids"), ("Predictions", "counts"), ("Support", "groups")}  # whose values are not ranges
FREE = {("uncertainty", "clip_logits"), ("head.logits", "clip"), ("head.logits", "auxiliary")}  # [..., C]
ANYWHERE = {"group_factors"}  # takes groups from the CPU
CASES = [
    pytest.param(use, name, value, id=f"{title}: {name} is {word}")
    for title, use in USES.items()
    for name in (*use.floats, *use.whole, *use.others)
    for word, value in spoil(use, name)
    if not ((title, name) in UNCHECKED and word.startswith("too"))
    and not ((title, name) in FREE and word in ("one dimension less", "one dimension more"))
    and not (title in ANYWHERE and word == "another device")
]


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_these_arguments_can_be_used(use: Use) -> None:
    use.function(**use.given)


@pytest.mark.parametrize(("use", "name", "value"), CASES)
def test_a_tensor_that_can_not_be_used_is_refused_in_words(use: Use, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError, UserError)) as caught:
        use.function(**use.given | {name: value})
    last = traceback.extract_tb(caught.tb)[-1]
    assert PACKAGE in Path(last.filename).parents, f"torch says it: {caught.value}"


@pytest.mark.parametrize("k", [2.5, True, "3", None, torch.nan])
def test_a_k_is_a_whole_number(k: Any) -> None:
    for function, given in ((gld_loss, DISTILLED), (predict, {"logits": numbers(2, 5, 7), "labels": LABELS})):
        with pytest.raises(TypeError, match="k is a whole number, not"):
            function(**given, k=k)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["uld_weight", "gld_weight", "sft_weight"])
def test_factors_of_a_loss_are_finite(name: str, value: float) -> None:
    given = {"uld_weight": 0.3, "gld_weight": 0.3, "sft_weight": 0.4} | {name: value}
    with pytest.raises(ValueError, match="finite and not negative"):
        distill_loss(numbers(2, 5, 9), LABELS, [Teacher(numbers(2, 5, 7), LABELS)], k=3, **given)
    with pytest.raises(ValueError, match="weights of teachers"):
        distill_loss(
            numbers(2, 5, 9), LABELS, [Teacher(numbers(2, 5, 7), LABELS, weight=value)], k=3, uld_weight=0.3,
            gld_weight=0.3, combine="weighted",
        )  # fmt: skip


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["clip", "auxiliary", "classifier"])
def test_features_are_finite(name: str, value: float) -> None:
    broken = SUPPORT[name].clone()
    broken[-1, -1] = value
    with pytest.raises(ValueError, match=f"{name} hold NaN or infinity"):
        Support(**SUPPORT | {name: broken})
    with pytest.raises(ValueError, match="scale is a positive number"):
        Support(**SUPPORT, scale=value)
