"""What `logitfusion plan` says that the memory is, to be held against what is measured."""

from __future__ import annotations

from collections.abc import Callable

from decoding.sizes import RANK, Setting, Shape
from logitfusion.models.static_shapes import static_shape
from logitfusion.plan.decoding import Member, Texts, decode_cost, read_cost
from logitfusion.plan.measure import measure

Predicted = Callable[[int, int, int], float]
"""Bytes at the peak of decoding, for rows, tokens of a prompt, and tokens that are made."""


def predict_decoding(setting: Setting, dtype: str, *, graphs: bool) -> Predicted:
    """Of a fusion on one card, with the caches of CUDA graphs or not."""
    large, base = (measure(shape.config()) for shape in (setting.large, setting.base))
    shared = Member(base, dtype, ranks=(RANK,) * setting.experts, passes=1 + setting.experts)
    others = [shared] if setting.adapters else [Member(base, dtype)] * (1 + setting.experts)

    def predict(rows: int, prompt: int, new: int) -> float:
        members = [Member(large, dtype), *others]
        cost = decode_cost(members, Texts(rows, prompt, new), rows)
        # Graphs have caches of a fixed length, beside those that grow.
        static = sum(member.cache(*static_shape(rows, prompt + new)) for member in members) if graphs else 0
        return sum(cost.gpu.values()) + static

    return predict


def predict_reading(shape: Shape, dtype: str, texts: int, tokens: int, batch: int) -> float:
    """Bytes at the peak of a teacher's reading on one card."""
    return sum(read_cost(Member(measure(shape.config()), dtype), texts, tokens, batch).gpu.values())
