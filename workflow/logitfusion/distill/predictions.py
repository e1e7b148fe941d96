"""A model's predictions along the responses of a batch: the likeliest tokens of each position, and the label's.

This is all that the top-k losses read and all that a teacher's cache holds. From logits it is taken in one pass, and
the one tensor of the logits' size that is made is their gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from logitfusion.distill.selection import chunks, index_of, log_normaliser, shifted_exp, top_k, working_dtype
from logitfusion.tensors import check_count, check_floats, check_int64, check_logits, check_one_device, check_tensors
from logitfusion.training.batches import IGNORED


@dataclass(frozen=True)
class Predictions:
    """N positions, those of the first text first, each text's in order.

    Attributes:
        log_probs: the k largest natural log-probabilities of each position, ``[N, k]``, largest first; fp32 (float64
            for float64 logits). Raw logits from ``predict_at(normalised=False)``.
        ids: their tokens, ``[N, k]`` int64.
        label_log_probs: log-probability of the text's own next token, ``[N]``; NaN where labels are not known.
        counts: positions of each text, ``[B]`` int64, 0 where none counts.

    Raises:
        TypeError: what are no tensors of these types.
        ValueError: shapes that don't fit together, or several devices.
    """

    log_probs: Tensor
    ids: Tensor
    label_log_probs: Tensor
    counts: Tensor

    def __post_init__(self) -> None:
        check_floats(log_probs=self.log_probs, label_log_probs=self.label_log_probs)
        check_int64(ids=self.ids, counts=self.counts)
        check_one_device(log_probs=self.log_probs, ids=self.ids, counts=self.counts)
        fits = self.log_probs.ndim == 2 and self.ids.shape == self.log_probs.shape
        if not fits or self.label_log_probs.shape != self.ids.shape[:1] or self.counts.ndim != 1:
            shapes = ", ".join(f"{tuple(part.shape)}" for part in vars(self).values())
            raise ValueError(
                f"predictions are log_probs [N, k], ids [N, k], label_log_probs [N], counts [B], not {shapes}"
            )

    @property
    def texts(self) -> Tensor:
        """The text of each position, ``[N]`` int64."""
        return torch.arange(len(self.counts), device=self.counts.device).repeat_interleave(self.counts)

    def signals(self, signal: str, k: int) -> Tensor:
        """``"prob"``, ``"logprob"`` or ``"logit"`` of the k likeliest, ``[N, k]``; an excluded token (-inf) has 0."""
        values = self.log_probs[:, :k]
        excluded = values.isneginf()
        values = values.masked_fill(excluded, 0.0)
        return values.exp().masked_fill(excluded, 0.0) if signal == "prob" else values


def predict(logits: Tensor, labels: Tensor, k: int) -> Predictions:
    """The predictions of the positions that have a label; gradients flow to ``logits`` through the values.

    Args:
        logits: ``[B, L, V]``, any float type.
        labels: ``[B, L]`` int64, -100 outside the response; ``labels[:, t]`` belongs to ``logits[:, t - 1]``.
        k: how many tokens of each position; more than V are V.

    Raises:
        TypeError: logits that are no floating-point numbers, labels that are not int64.
        ValueError: shapes that don't fit together, k below 1, or a label that is no token of the vocabulary.
    """
    check_labels(logits, labels)
    shifted = shift_labels(labels)
    mask = shifted != IGNORED
    return predict_at(logits, mask, k, labels=shifted[mask])


def predict_at(
    logits: Tensor, mask: Tensor, k: int, *, labels: Tensor | None = None, normalised: bool = True
) -> Predictions:
    """The predictions of the positions that are true in ``mask``, ``[B, L]``.

    Args:
        logits: ``[B, L, V]``, any float type. Where the mask is False the gradient is 0 whatever they are, NaN too.
        mask: bool.
        k: how many tokens of each position; more than V are V.
        labels: ``[N]`` int64, the token that follows each of the positions, if known.
        normalised: False for raw logits in place of log-probabilities.

    Raises:
        TypeError: logits that are no floating-point numbers, labels that are not int64, or no mask.
        ValueError: shapes that don't fit together, or k below 1.
    """
    check_logits(logits=logits)
    check_tensors(mask=mask)
    check_int64(labels=labels)
    check_count("k", k)
    check_one_device(logits=logits, mask=mask, labels=labels)
    if logits.ndim != 3 or mask.shape != logits.shape[:2]:
        raise ValueError(f"logits are [B, L, V] and mask [B, L], not {tuple(logits.shape)} and {tuple(mask.shape)}")
    places = mask.nonzero()
    if labels is not None and labels.shape != places.shape[:1]:
        raise ValueError(f"labels are [N] for the {len(places)} positions that count, not {tuple(labels.shape)}")
    if labels is not None and len(labels) and not 0 <= labels.min() <= labels.max() < logits.shape[-1]:
        raise ValueError(f"labels are tokens from 0 to {logits.shape[-1] - 1}")
    known = places[:, :0] if labels is None else labels[:, None]
    values, ids = _TopAndLabels.apply(logits, places, known, k, normalised)
    own = values.new_full((len(values),), torch.nan) if labels is None else values[:, -1]
    return Predictions(values[:, : ids.shape[1]], ids, own, mask.sum(1))


def check_labels(logits: Tensor, labels: Tensor, name: str = "") -> None:
    """Refuse logits ``[B, L, V]`` and labels ``[B, L]`` that don't fit together; ``name`` is the model's.

    Raises:
        TypeError: logits that are no floating-point numbers, labels that are not int64.
        ValueError: other shapes, several devices, or a label that is neither a token of the vocabulary nor -100.
    """
    names = [f"{name}'s {part}" if name else part for part in ("logits", "labels")]
    check_logits(**{names[0]: logits})
    check_int64(**{names[1]: labels})
    check_one_device(**dict(zip(names, (logits, labels), strict=True)))
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            f"{names[0]} are [B, L, V] and {names[1]} [B, L], not {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    wrong = (labels != IGNORED) & ((labels < 0) | (labels >= logits.shape[-1]))
    if wrong.any():
        raise ValueError(
            f"{names[1]} are -100 or tokens from 0 to {logits.shape[-1] - 1}, and one is {int(labels[wrong][0])}"
        )


def shift_labels(labels: Tensor) -> Tensor:
    """The label that each position predicts, ``[B, L]``; labels move, as slicing logits would copy their gradient."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


class _TopAndLabels(torch.autograd.Function):
    """Log-probabilities of the top-k and, behind them, of the labels ``[N, 0 or 1]`` at some places of ``[B, L, V]``.

    Autograd of slices would make a tensor as large as all logits for each of them; this writes the one gradient, and
    keeps one number a position for it beside the inputs.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, logits: Tensor, places: Tensor, labels: Tensor, k: int,
        normalised: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        vocabulary, dtype = logits.shape[-1], working_dtype(logits.dtype)
        k = min(k, vocabulary)
        ids = torch.empty(len(places), k, dtype=torch.int64, device=logits.device)
        values = torch.empty(len(places), k + labels.shape[1], dtype=dtype, device=logits.device)
        norm = torch.zeros(len(places), 1, dtype=dtype, device=logits.device)
        for part, where in _parts(logits, places):
            rows = logits[where].to(dtype)
            values[part, :k], ids[part] = top_k(rows, k)
            values[part, k:] = rows.gather(1, labels[part])
            if normalised:
                norm[part] = log_normaliser(rows, values[part, :1])
        ctx.save_for_backward(logits, places, torch.cat([ids, labels], dim=1), norm)
        ctx.mark_non_differentiable(ids)
        ctx.normalised = normalised
        return values - norm, ids

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        logits, places, ids, norm = ctx.saved_tensors
        gradient = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        if not ctx.normalised:
            where = places[:, 0, None], places[:, 1, None], ids
            gradient.index_put_(where, upstream.to(gradient.dtype), accumulate=True)
            return gradient, None, None, None, None
        for part, where in _parts(logits, places):
            rows = shifted_exp(logits[where].to(norm.dtype), norm[part])
            rows *= -upstream[part].sum(-1, keepdim=True)
            rows.scatter_add_(1, ids[part], upstream[part])
            gradient[where] = rows.to(gradient.dtype)
        return gradient, None, None, None, None


def _parts(logits: Tensor, places: Tensor) -> Iterator[tuple[slice, tuple[Tensor, Tensor] | tuple[int, slice]]]:
    """A few places at a time, and where the logits have them: in a slice, which is no copy, if they are neighbours."""
    on_host = places.cpu()
    for part in chunks(len(places), logits.shape[-1], logits.device):
        where = index_of(on_host[part])
        yield part, where if isinstance(where[0], int) else (places[part, 0], places[part, 1])
