"""Tensors of odd shapes, types and values."""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor

SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (2,), (7,), (3, 7), (0, 7), (3, 0), (3, 1), (2, 3, 7), (1, 1, 7))
DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
    *(torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64),
)


def draw_tensor(shape: tuple[int, ...], draw: Random, dtype: torch.dtype | None = None) -> Tensor:
    """Of this shape and mostly fp32; one of eight has values that are none, huge or all the same."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    values = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    spoil = draw.choice(["nan", "inf", "-inf", "huge", "tiny", "same", "zero"]) if draw.random() < 0.12 else ""
    if spoil in ("nan", "inf", "-inf") and values.numel():
        values.view(-1)[draw.randrange(values.numel())] = float(spoil)
        if draw.random() < 0.3:
            values.fill_(float(spoil))
    values = {"huge": values * 1e30, "tiny": values * 1e-30, "same": torch.ones_like(values), "zero": values * 0}.get(
        spoil, values
    )
    dtype = dtype or (draw.choice(DTYPES) if draw.random() < 0.08 else torch.float32)
    return values.nan_to_num().to(dtype) if not (dtype.is_floating_point or dtype.is_complex) else values.to(dtype)


def draw_shape(fitting: tuple[int, ...], draw: Random) -> tuple[int, ...]:
    """The shape that fits, or in one of twenty cases another one."""
    return draw.choice(SHAPES) if draw.random() < 0.05 else fitting
