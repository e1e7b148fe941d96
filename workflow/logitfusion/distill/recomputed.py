"""Losses of positions of long texts, a few at a time, which the backward pass computes again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from logitfusion.distill.selection import chunks, index_of, working_dtype

# Takes rows ``[n, V]``, their factors ``[n]`` where there are any, and which of the places they are; gives ``[n]``.
Loss = Callable[..., Tensor]
# Takes rows and which of the places they are, as a loss; gives its derivative, ``[n, V]``.
Slope = Callable[[Tensor, slice], Tensor]


def recomputed(
    loss: Loss, logits: Tensor, places: Tensor, factors: Tensor | None = None, slope: Slope | None = None
) -> Tensor:
    """The loss of each of some places of logits, ``[N]``; the one tensor of their size that is made is their gradient.

    Args:
        loss: called as ``loss(rows, part)``, or with factors ``loss(rows, factors, part)``: rows of the logits in fp32
            (float64 for float64), and the slice of the places that they are.
        logits: ``[B, L, V]``.
        places: text and position, ``[N, 2]`` int64, all different.
        factors: numbers of each place that have a gradient too, ``[N]``.
        slope: of a loss without factors, its derivative written out: autograd then need not compute the loss again.
    """
    return _Recomputed.apply(loss, logits, places, factors, slope)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, loss: Loss, logits: Tensor, places: Tensor,
        factors: Tensor | None, slope: Slope | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(logits, places, factors)
        ctx.loss, ctx.slope = loss, slope
        losses = torch.empty(len(places), dtype=working_dtype(logits.dtype), device=logits.device)
        for part in chunks(len(places), logits.shape[-1], logits.device):
            losses[part] = loss(*_inputs(logits, places, factors, part), part)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor
    ) -> tuple[None, Tensor, None, Tensor | None, None]:
        logits, places, factors = ctx.saved_tensors
        gradient = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        of_factors = None if factors is None else torch.empty_like(factors)
        for part in chunks(len(places), logits.shape[-1], logits.device):
            inputs = _inputs(logits, places, factors, part)
            if ctx.slope is not None:
                slopes = [ctx.slope(*inputs, part).mul_(upstream[part, None])]
            else:
                inputs = [value.requires_grad_() for value in inputs]
                with torch.enable_grad():
                    slopes = torch.autograd.grad(ctx.loss(*inputs, part), inputs, upstream[part])
            gradient[index_of(places[part])] = slopes[0].to(gradient.dtype)
            if of_factors is not None:
                of_factors[part] = slopes[1].to(of_factors.dtype)
        return None, gradient, None, of_factors, None


def _inputs(logits: Tensor, places: Tensor, factors: Tensor | None, part: slice) -> list[Tensor]:
    rows = logits[index_of(places[part])].to(working_dtype(logits.dtype)).detach()
    return [rows] if factors is None else [rows, factors[part].detach().to(rows.dtype)]
