"""What a model says along the responses of a batch: the likeliest tokens of each position, and the label's probability.

This is all that the losses read and all that a teacher's cache holds. Of a student it is taken from the logits in one
pass, and the one tensor of the logits' size that is made is their gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from logitfusion.distill.graph import as_signals
from logitfusion.distill.selection import chunks, log_normaliser, shifted_exp, top_k, working_dtype

IGNORED = -100


@dataclass(frozen=True)
class Predictions:
    """N positions, those of the first text first, each text's in order.

    Attributes:
        log_probs: the k largest natural log-probabilities of each position, ``[N, k]``, largest first; fp32 (float64
            for float64 logits).
        ids: their tokens, ``[N, k]`` int64.
        label_log_probs: log-probability of the text's own next token, ``[N]``.
        counts: positions of each text, ``[B]`` int64, 0 where none counts.
    """

    log_probs: Tensor
    ids: Tensor
    label_log_probs: Tensor
    counts: Tensor

    @property
    def texts(self) -> Tensor:
        """The text of each position, ``[N]`` int64."""
        return torch.arange(len(self.counts), device=self.counts.device).repeat_interleave(self.counts)

    @property
    def starts(self) -> Tensor:
        """The first position of each text, ``[B]`` int64."""
        return self.counts.cumsum(0) - self.counts

    def signals(self, signal: str, k: int) -> Tensor:
        """``"logprob"`` or ``"prob"`` of the k likeliest, ``[N, k]``; an excluded token (-inf) has signal 0."""
        values = self.log_probs[:, :k]
        return as_signals(values, values.isneginf(), signal)


def predict(logits: Tensor, labels: Tensor, k: int) -> Predictions:
    """The predictions of the positions that have a label; gradients flow to ``logits`` through the values.

    Args:
        logits: ``[B, L, V]``, any float type.
        labels: ``[B, L]`` int64, -100 outside the response; ``labels[:, t]`` belongs to ``logits[:, t - 1]``.
        k: how many tokens of each position; more than V are V.
    """
    shifted = shift_labels(labels)
    places = (shifted != IGNORED).nonzero()
    log_probs, ids = _TopLogProbabilities.apply(logits, places, shifted[places[:, 0], places[:, 1]], k)
    counts = (shifted != IGNORED).sum(1)
    return Predictions(log_probs[:, :-1], ids, log_probs[:, -1], counts)


def shift_labels(labels: Tensor) -> Tensor:
    """The label that each position predicts, ``[B, L]``; labels move, as slicing logits would copy their gradient."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


class _TopLogProbabilities(torch.autograd.Function):
    """Log-probabilities of the top-k and, in the last column, of the label, at some places of ``[B, L, V]``."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, logits: Tensor, places: Tensor, labels: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        vocabulary, dtype = logits.shape[-1], working_dtype(logits.dtype)
        k = min(k, vocabulary)
        ids = torch.empty(len(places), k, dtype=torch.int64, device=logits.device)
        values = torch.empty(len(places), k + 1, dtype=dtype, device=logits.device)
        norm = torch.empty(len(places), 1, dtype=dtype, device=logits.device)
        for part, where in _parts(logits, places):
            rows = logits[where].to(dtype)
            values[part, :k], ids[part] = top_k(rows, k)
            values[part, k:] = rows.gather(1, labels[part, None])
            norm[part] = log_normaliser(rows, values[part, :1])
        ctx.save_for_backward(logits, places, torch.cat([ids, labels[:, None]], dim=1), norm)
        ctx.mark_non_differentiable(ids)
        return values - norm, ids

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None, None]:
        logits, places, ids, norm = ctx.saved_tensors
        gradient = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        for part, where in _parts(logits, places):
            rows = shifted_exp(logits[where].to(norm.dtype), norm[part])
            rows *= -upstream[part].sum(-1, keepdim=True)
            rows.scatter_add_(1, ids[part], upstream[part])
            gradient[where] = rows.to(gradient.dtype)
        return gradient, None, None, None


def _parts(logits: Tensor, places: Tensor) -> Iterator[tuple[slice, tuple[Tensor, Tensor] | tuple[int, slice]]]:
    """A few places at a time, and where the logits have them: in a slice, which is no copy, if they are neighbours."""
    on_host = places.cpu()
    for part in chunks(len(places), logits.shape[-1], logits.device):
        (text, first), (last_text, last) = on_host[part.start].tolist(), on_host[part.stop - 1].tolist()
        if text == last_text and last - first == part.stop - part.start - 1:
            yield part, (text, slice(first, last + 1))
        else:
            yield part, (places[part, 0], places[part, 1])
