"""A teacher's predictions that have been rounded into a cache, beside those that went in."""

from __future__ import annotations

import math
from dataclasses import fields

import torch
from torch import Tensor

from logitfusion.config.distill import Rounding
from logitfusion.distill.teacher_text import TeacherText

LEVELS = {"fine": 2**11 - 1, "coarse": 2**6 - 1}
LOST = {"fine": 1e-6, "coarse": 1e-3}
TYPES = {
    "log_probs": torch.float32,
    "ids": torch.int64,
    "tail": torch.float32,
    "label_log_probs": torch.float32,
    "ends": torch.int64,
}


def assert_same(found: TeacherText, expected: TeacherText, rounding: Rounding = "fine") -> None:
    """Equal but for log-probabilities, which lose what the rounding may, and the order of those that become equal."""
    assert found.digest == expected.digest
    names = [field.name for field in fields(found) if field.name != "digest"]
    assert {name: getattr(found, name).dtype for name in names} == TYPES
    assert torch.equal(found.ends, expected.ends)
    assert torch.equal(found.tail, expected.tail)
    label = expected.label_log_probs
    assert torch.equal(found.label_log_probs, label if rounding == "fine" else label.half().float())
    assert found.log_probs.shape == expected.log_probs.shape
    assert (found.log_probs.diff(dim=1).nan_to_num(0) <= 0).all()
    for position in range(len(found)):
        assert_same_row(*((text.log_probs[position], text.ids[position]) for text in (found, expected)), rounding)


def assert_same_row(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], rounding: Rounding) -> None:
    """The same tokens; log-probabilities, if they are not the same, within a step and half precision's."""
    (numbers, ids), (exact, right) = ([part.tolist() for part in row] for row in (found, expected))
    assert sorted(ids) == sorted(right)
    if numbers == exact:
        return
    ours, theirs = (sorted(zip(*row, strict=True)) for row in ((ids, numbers), (right, exact)))
    pairs = [(one, other) for (_, one), (_, other) in zip(ours, theirs, strict=True)]
    most = 1.2 * spacing(exact, rounding)
    for one, other in pairs:
        assert abs(one - other) <= most + 2**-11 * abs(other) + 1e-6
    lost = math.fsum(math.exp(other) * (math.expm1(one - other) - (one - other)) for one, other in pairs)
    assert lost <= LOST[rounding]


def spacing(log_probs: list[float], rounding: Rounding = "fine") -> float:
    """Where levels reach from the first to the last of a row."""
    return (log_probs[0] - log_probs[-1]) / LEVELS[rounding]
