"""How likely given continuations are: teacher-forced, all positions in parallel, shared contexts read once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from logitfusion.fusion.caches import Batch, CachedModel, share_prefixes
from logitfusion.fusion.decoding import columns_at_once, read_prompts, split_logits
from logitfusion.fusion.prefixes import order_rows
from logitfusion.fusion.prompts import PromptMemory
from logitfusion.fusion.sampling import refuse_not_finite_rows
from logitfusion.fusion.steering import Steering
from logitfusion.models.batch_size import BatchSize
from logitfusion.models.padding import left_pad

Pair = tuple[tuple[int, ...], tuple[int, ...]]

# Of positions with logits large ``[N, V]`` and small ``[T + 1, N, V]``, the target tokens ``[N]`` and the likelihood
# gaps of the contexts ``[N]``: what is noted of them.
Reader = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]
# The targets' log-probabilities, and whether they are the likeliest, both ``[N, C]`` for C ways to steer.
Judge = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
# The pairs that positions are of, by number ``[N]``, and what is noted of them.
Noted = tuple[Tensor, tuple[Tensor, ...]]


def judge_steering(steering: Steering) -> Judge:
    """The one way in which a fusion steers."""

    def judge(large: Tensor, small: Tensor, targets: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        steered = steering.steers(gap) if steering.reads_prompts else None
        return judge_logits(steering.fuse(large, small, steered).logits, targets)

    return judge


def judge_logits(logits: Tensor, targets: Tensor, ends: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Log-probability of the target tokens ``[N, 1]`` and whether they are the likeliest.

    Where the first of ``ends`` is the target, any of them is as good.

    Raises:
        UserError: the logits of a position are not finite, or exclude every token.
    """
    targets, norm, likeliest = targets[:, None], logits.logsumexp(-1, keepdim=True), logits.argmax(-1, keepdim=True)
    refuse_not_finite_rows(norm)
    found, right = logits.gather(-1, targets) - norm, likeliest == targets
    if ends is None or not len(ends):
        return found, right
    at_end, any_end = targets == ends[0], logits[:, ends].logsumexp(-1, keepdim=True) - norm
    return torch.where(at_end, any_end, found), torch.where(at_end, torch.isin(likeliest, ends), right)


def score_pairs(
    make_models: Callable[[], Sequence[CachedModel]],
    judge: Judge,
    pairs: Sequence[Pair],
    *,
    vocabulary: int,
    batch_size: BatchSize,
    shared_length: float = math.inf,
    reads_contexts: bool = False,
    memory: PromptMemory | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-likelihood of each continuation after its context, and whether greedy decoding would give it.

    Args:
        judge: what is computed at every position of a continuation; for the others see ``read_pairs``.

    Returns:
        ``[pairs, C]`` float64 and bool.
    """
    parts = read_pairs(
        make_models,
        judge,
        pairs,
        vocabulary=vocabulary,
        batch_size=batch_size,
        shared_length=shared_length,
        reads_contexts=reads_contexts,
        memory=memory,
        on_batch=on_batch,
    )
    ways = parts[0][1][0].shape[-1] if parts else 1
    total = torch.zeros(len(pairs), ways, dtype=torch.float64)
    wrong = torch.zeros(len(pairs), ways, dtype=torch.long)
    for numbers, (found, likeliest) in parts:
        total.index_add_(0, numbers, found.double().cpu())
        wrong.index_add_(0, numbers, (~likeliest).long().cpu())
    return total, wrong == 0


def read_pairs(
    make_models: Callable[[], Sequence[CachedModel]],
    reader: Reader,
    pairs: Sequence[Pair],
    *,
    vocabulary: int,
    batch_size: BatchSize,
    shared_length: float = math.inf,
    reads_contexts: bool = False,
    memory: PromptMemory | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Noted]:
    """What a reader notes at the positions of every continuation, several positions at a time.

    Args:
        make_models: gives the models with empty caches, the large one first.
        reader: is given each position once, those of a continuation in order.
        pairs: token ids of context (at least one) and continuation.
        shared_length: pairs of more tokens are read alone, in one pass.
        reads_contexts: whether the reader needs the likelihood gaps of the contexts (else they are 0).
        memory: of contexts, shared with others that score after the same.
    """
    # By context, so that equal contexts share a batch and are read once.
    shares = not reads_contexts and share_prefixes(make_models())
    order = order_rows([context for context, _ in pairs], batch_size.rows, shares=shares)
    lengths = [len(context) + len(continuation) - 1 for context, continuation in pairs]
    last = _LastContext(memory)

    def read(numbers: list[int]) -> list[Noted]:
        some = [pairs[number] for number in numbers]
        if lengths[numbers[0]] > shared_length:
            return _read_alone(make_models, reader, some[0], vocabulary, reads_contexts)
        return _read_batch(make_models(), reader, some, vocabulary, reads_contexts, last.of(some))

    found: list[Noted] = []
    for numbers, parts in batch_size.each(group_rows(order, lengths, batch_size.rows, shared_length), read):
        found += [(torch.tensor(numbers)[rows], noted) for rows, noted in parts]
        if on_batch is not None:
            on_batch(len(numbers))
    return found


class _LastContext:
    """What remembers the contexts of a batch: the memory that is shared, or one of the context alone that it is all of.

    So a context is read once where its continuations are more than a batch.
    """

    def __init__(self, shared: PromptMemory | None) -> None:
        self.shared, self.own = shared, PromptMemory()
        self.context: tuple[int, ...] | None = None

    def of(self, pairs: Sequence[Pair]) -> PromptMemory | None:
        contexts = {context for context, _ in pairs}
        if self.shared is not None or len(contexts) > 1:
            return self.shared
        if contexts != {self.context}:
            self.own.clear()
            (self.context,) = contexts
        return self.own


def group_rows(
    order: Sequence[int], lengths: Sequence[int], batch_size: int, shared_length: float
) -> Iterator[list[int]]:
    """Numbers of rows in batches, in order; those of more than ``shared_length`` tokens come last, each alone."""
    shared = [number for number in order if lengths[number] <= shared_length]
    for first in range(0, len(shared), batch_size):
        yield shared[first : first + batch_size]
    for number in order:
        if lengths[number] > shared_length:
            yield [number]


def _read_alone(
    make_models: Callable[[], Sequence[CachedModel]], reader: Reader, pair: Pair, vocabulary: int, reads_contexts: bool
) -> list[Noted]:
    """One pair in one pass, as a plain forward reads it: its length decides how all of its positions are encoded."""
    models = make_models()
    device = models[0].device
    context, continuation = (torch.tensor(ids, dtype=torch.long, device=device)[None] for ids in pair)
    gap = torch.zeros(1, device=device)
    if reads_contexts:
        gap = read_prompts(Batch(models, 1), context, torch.ones_like(context), vocabulary)
        models = make_models()
    batch = Batch(models, 1)
    given = torch.cat([context, continuation[:, :-1]], dim=-1)
    count = continuation.shape[1]
    keep = max(1, count)  # token ids may be none
    large, small = split_logits(batch.read(given, torch.ones_like(given), keep=keep), vocabulary)
    places = slice(keep - count, None)
    noted = reader(large[0, places], small[:, 0, places], continuation[0], gap.expand(count))
    return [(torch.zeros(count, dtype=torch.long), noted)]


def _read_batch(
    models: Sequence[CachedModel],
    reader: Reader,
    pairs: list[Pair],
    vocabulary: int,
    reads_contexts: bool,
    memory: PromptMemory | None,
) -> list[Noted]:
    device = models[0].device
    contexts = list(dict.fromkeys(context for context, _ in pairs))
    rows = torch.tensor([contexts.index(context) for context, _ in pairs], device=device)
    batch = Batch(models, len(contexts), memory)
    ids, mask, _ = (tensor.to(device) for tensor in left_pad([list(context) for context in contexts], 0))
    gap = torch.zeros(len(contexts), device=device)
    if reads_contexts:
        gap = read_prompts(batch, ids, mask, vocabulary)
    elif ids.shape[1] > 1:
        batch.read_first(ids[:, :-1], mask[:, :-1])
    batch.select_rows(rows)
    targets, counts = _right_pad([list(continuation) for _, continuation in pairs], device)
    # The last token of the context predicts the first of the continuation, and so on.
    given = torch.cat([ids[rows, -1:], targets[:, :-1]], dim=-1)
    return _follow(batch, reader, gap[rows], given, targets, counts, vocabulary)


def _follow(
    batch: Batch,
    reader: Reader,
    gap: Tensor,
    given: Tensor,
    targets: Tensor,
    counts: Tensor,
    vocabulary: int,
) -> list[Noted]:
    """Read ``given [B, n]`` a few columns at a time, noting what comes next with ``targets``; by row."""
    found: list[Noted] = []
    width = columns_at_once(len(targets), vocabulary)
    for start in range(0, targets.shape[1], width):
        columns = slice(start, start + width)
        counted, following = counts[:, columns], targets[:, columns]
        large, small = split_logits(batch.read(given[:, columns], counted, keep=following.shape[1]), vocabulary)
        rows, places = counted.nonzero(as_tuple=True)
        noted = reader(large[rows, places], small[:, rows, places], following[rows, places], gap[rows])
        found.append((rows.cpu(), noted))
    return found


def _right_pad(sequences: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``[B, n]``; what stands to the right can't be seen from a token."""
    length = max(len(sequence) for sequence in sequences)
    ids = torch.tensor([sequence + [0] * (length - len(sequence)) for sequence in sequences], dtype=torch.long)
    counts = torch.tensor([[1] * len(sequence) + [0] * (length - len(sequence)) for sequence in sequences])
    shape = (len(sequences), length)  # also of sequences that are all empty
    return ids.reshape(shape).to(device), counts.long().reshape(shape).to(device)
