"""What a student is trained on: its own labels, and what one or more teachers say (InfiGFusion, arXiv 2505.13893)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logitfusion.distill.losses import gld_loss, uld_loss
from logitfusion.distill.selection import log_probabilities_at

COMBINATIONS = ("sum", "weighted", "min_ce")
IGNORED = -100


@dataclass(frozen=True)
class Teacher:
    """What one teacher says of a batch of texts, in its own tokens.

    Attributes:
        logits: ``[B, L', V_t]``, any float type.
        labels: ``[B, L']`` int64, the token of each position, -100 outside the response; ``labels[:, t]`` belongs to
            ``logits[:, t - 1]``, as in transformers.
        weight: its share where ``combine="weighted"``.
    """

    logits: Tensor
    labels: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class DistillLoss:
    """The objective and its parts, scalars in fp32 (float64 for float64 logits).

    Attributes:
        total: the objective, with a gradient.
        sft, uld, gld: its parts before their factors, detached; of several teachers already combined. Parts with
            factor 0 are not computed, and 0.
        teacher: ``[B]`` int64, the teacher chosen for each text with ``"min_ce"``, else None.
    """

    total: Tensor
    sft: Tensor
    uld: Tensor
    gld: Tensor
    teacher: Tensor | None


def distill_loss(
    student: Tensor,
    labels: Tensor,
    teachers: Sequence[Teacher],
    *,
    k: int,
    uld_weight: float,
    gld_weight: float,
    sft_weight: float | None = None,
    combine: str = "sum",
    nodes: str = "vocab",
    signal: str = "logprob",
    uld_k: int | None = None,
    tokens: int | None = None,
    texts: int | None = None,
) -> DistillLoss:
    """``(1 - lambda) SFT + lambda_uld ULD + lambda_gld GLD`` over one or more teachers.

    SFT and ULD are divided by the number of the student's labels, GLD by the number of texts that have one. Under
    gradient accumulation give ``tokens`` and ``texts`` of the whole step: then the parts add up to one large batch.

    Args:
        student: raw logits ``[B, L, V_s]``.
        labels: ``[B, L]`` int64, -100 outside the response; ``labels[:, t]`` belongs to ``student[:, t - 1]``.
        teachers: at least one.
        k: of GLD.
        uld_weight, gld_weight: lambda_uld and lambda_gld; how the paper splits lambda is not published.
        sft_weight: None for ``1 - uld_weight - gld_weight``.
        combine: ``"sum"`` over teachers (published); ``"weighted"``, by their weights; ``"min_ce"``, for each text the
            teacher that finds it likeliest. Cross-entropies are of whole responses there and not of a token, as
            tokenizers cut the same text into unlike numbers of tokens.
        nodes, signal: of GLD.
        uld_k: k of ULD; None for whole vocabularies.
        tokens, texts: what to divide by instead of this batch's own numbers.

    Raises:
        ValueError: shapes or names that can't be used, factors that are negative, no teachers, no labels.
    """
    factors = _factors(sft_weight, uld_weight, gld_weight)
    if not teachers or combine not in COMBINATIONS:
        raise ValueError(f"distill_loss needs at least one teacher, and combine one of {COMBINATIONS}, not {combine!r}")
    entropy, mask = _cross_entropy(student, labels, "student")
    counts = (
        int(mask.sum()) if tokens is None else tokens,
        int(mask.any(1).sum()) if texts is None else texts,
    )
    if not mask.any():
        raise ValueError("no label of the student counts: all are -100, or only the first of a text is not")
    if min(counts) < 1:
        raise ValueError(f"tokens and texts are those of a whole step and at least 1, not {tokens} and {texts}")
    shares, chosen = _shares(teachers, combine, student)
    zero = entropy.new_zeros(())
    parts = [entropy.sum() / counts[0], zero, zero]
    for teacher, share in zip(teachers, shares, strict=True):
        _check_labels(teacher.logits, teacher.labels, "teacher")
        if not (mask.any(1) & (share > 0)).any():
            continue
        masks = mask & (share > 0)[:, None], _shifted(teacher.labels) != IGNORED
        common = {"student_mask": masks[0], "teacher_mask": masks[1], "reduction": "none"}
        pair = student, teacher.logits
        if factors[1]:
            parts[1] = parts[1] + (share * uld_loss(*pair, k=uld_k, **common)).sum() / counts[0]
        if factors[2]:
            losses = gld_loss(*pair, k=k, nodes=nodes, signal=signal, **common)
            parts[2] = parts[2] + (share * losses).sum() / counts[1]
    total = sum(factor * part for factor, part in zip(factors, parts, strict=True))
    return DistillLoss(total, *(part.detach() for part in parts), chosen)


def _factors(sft_weight: float | None, uld_weight: float, gld_weight: float) -> tuple[float, float, float]:
    sft = 1 - uld_weight - gld_weight if sft_weight is None else sft_weight
    factors = sft, uld_weight, gld_weight
    if not min(factors) >= -1e-12:
        raise ValueError(f"the factors of SFT, ULD and GLD are not negative, and were {factors}")
    return max(sft, 0.0), uld_weight, gld_weight


def _check_labels(logits: Tensor, labels: Tensor, name: str) -> None:
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            f"the {name}'s logits are [B, L, V] and its labels [B, L], not {tuple(logits.shape)}"
            f" and {tuple(labels.shape)}"
        )


def _cross_entropy(logits: Tensor, labels: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Of the label that each position predicts in nats, ``[B, L]``, 0 where none counts, and the mask."""
    _check_labels(logits, labels, name)
    labels = _shifted(labels)
    mask = labels != IGNORED
    ids = labels.masked_fill(~mask, 0).unsqueeze(-1)
    return -log_probabilities_at(logits, ids, mask).squeeze(-1).masked_fill(~mask, 0.0), mask


def _shifted(labels: Tensor) -> Tensor:
    """The label that each position predicts: labels move, as a slice of the logits would copy their gradient."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def _shares(teachers: Sequence[Teacher], combine: str, student: Tensor) -> tuple[Tensor, Tensor | None]:
    """Each teacher's share of each text, ``[T, B]``, and the chosen ones ``[B]``."""
    if combine == "min_ce":
        with torch.no_grad():
            entropies = [_of_responses(*_cross_entropy(one.logits, one.labels, "teacher")) for one in teachers]
        chosen = torch.stack(entropies).argmin(0)
        return torch.arange(len(teachers), device=student.device)[:, None] == chosen, chosen
    weights = [one.weight if combine == "weighted" else 1.0 for one in teachers]
    if not min(weights) >= 0:
        raise ValueError(f"the weights of teachers are not negative, and were {weights}")
    return torch.tensor(weights, device=student.device)[:, None].expand(-1, len(student)), None


def _of_responses(entropy: Tensor, mask: Tensor) -> Tensor:
    """The cross-entropy of each whole response, ``[B]``; a teacher that has no label of it is the last choice."""
    return entropy.float().sum(1).masked_fill(~mask.any(1), torch.inf)
