"""How likely given continuations are: teacher-forced, all positions in parallel, shared contexts read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from logitfusion.fusion.caches import Batch, CachedModel
from logitfusion.fusion.decoding import columns_at_once, split_logits
from logitfusion.fusion.steering import Steering
from logitfusion.models.padding import left_pad

Pair = tuple[tuple[int, ...], tuple[int, ...]]


def score_pairs(
    make_models: Callable[[], Sequence[CachedModel]],
    steering: Steering,
    pairs: Sequence[Pair],
    *,
    vocabulary: int,
    batch_size: int,
    on_batch: Callable[[int], None] | None,
) -> list[tuple[float, bool]]:
    """Log-likelihood of each continuation after its context, and whether greedy decoding would say it.

    Args:
        make_models: gives the models with empty caches, the large one first.
        pairs: token ids of context (at least one) and continuation.
    """
    results: dict[int, tuple[float, bool]] = {}
    # Sorted by context, so that equal contexts share a batch and are read once, and rows have similar lengths.
    order = sorted(range(len(pairs)), key=lambda number: (len(pairs[number][0]), pairs[number]))
    for first in range(0, len(order), batch_size):
        numbers = order[first : first + batch_size]
        scores = _score_batch(make_models(), steering, [pairs[number] for number in numbers], vocabulary)
        results.update(zip(numbers, scores, strict=True))
        if on_batch is not None:
            on_batch(len(numbers))
    return [results[number] for number in range(len(pairs))]


def _score_batch(
    models: Sequence[CachedModel], steering: Steering, pairs: list[Pair], vocabulary: int
) -> list[tuple[float, bool]]:
    device = models[0].model.device
    contexts = list(dict.fromkeys(context for context, _ in pairs))
    rows = torch.tensor([contexts.index(context) for context, _ in pairs], device=device)
    batch = Batch(models, len(contexts), device)
    ids, mask, _ = (tensor.to(device) for tensor in left_pad([list(context) for context in contexts], 0))
    if ids.shape[1] > 1:
        batch.read(ids[:, :-1], mask[:, :-1], keep=1)
    batch.select_rows(rows)
    targets, counts = _right_pad([list(continuation) for _, continuation in pairs], device)
    # The last token of the context predicts the first of the continuation, and so on.
    given = torch.cat([ids[rows, -1:], targets[:, :-1]], dim=-1)
    return _follow(batch, steering, given, targets, counts, vocabulary)


def _follow(
    batch: Batch, steering: Steering, given: Tensor, targets: Tensor, counts: Tensor, vocabulary: int
) -> list[tuple[float, bool]]:
    """Read ``given [B, n]`` a few columns at a time, comparing what comes next with ``targets``."""
    total = torch.zeros(len(targets), dtype=torch.float64, device=targets.device)
    greedy = torch.ones(len(targets), dtype=torch.bool, device=targets.device)
    width = columns_at_once(len(targets), vocabulary)
    for start in range(0, targets.shape[1], width):
        columns = slice(start, start + width)
        counted, wanted = counts[:, columns], targets[:, columns]
        logits = batch.read(given[:, columns], counted, keep=wanted.shape[1])
        steered = steering.fuse(*split_logits(logits, vocabulary))
        found = steered.logits.gather(-1, wanted[..., None])[..., 0] - steered.logits.logsumexp(-1)
        total += torch.where(counted == 1, found, 0.0).double().sum(-1)
        greedy &= ((steered.logits.argmax(-1) == wanted) | (counted == 0)).all(-1)
    return list(zip(total.tolist(), greedy.tolist(), strict=True))


def _right_pad(sequences: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``[B, n]``; what stands to the right can't be seen from a token."""
    length = max(len(sequence) for sequence in sequences)
    ids = torch.tensor([sequence + [0] * (length - len(sequence)) for sequence in sequences], dtype=torch.long)
    counts = torch.tensor([[1] * len(sequence) + [0] * (length - len(sequence)) for sequence in sequences])
    shape = (len(sequences), length)  # also of sequences that are all empty
    return ids.reshape(shape).to(device), counts.long().reshape(shape).to(device)
