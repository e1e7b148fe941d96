"""A teacher reads texts: the k likeliest tokens of every position that predicts a response token.

The vocabulary-sized logits are made of those positions only, a few at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitfusion.distill.encoding import EncodedText
from logitfusion.distill.selection import top_k, working_dtype
from logitfusion.distill.teacher_text import TeacherText, no_tokens
from logitfusion.errors import UserError
from logitfusion.models.architecture import count_vocabulary, rope_limit
from logitfusion.models.batch_size import BatchSize
from logitfusion.models.device_maps import input_device
from logitfusion.models.forward import agree, check_texts, evaluating, plain_logits, probe, refuse_not_causal
from logitfusion.models.split import SplitModel

# Logits made together: 128 MB of fp32. Each chunk reads the whole output matrix, so it is not smaller.
_CHUNK = 2**25
# Batches whose texts are sorted by length together: enough for little padding, and few results wait for their turn.
_WINDOW = 32


def read_teacher(
    model: PreTrainedModel,
    texts: Sequence[EncodedText],
    *,
    k: int,
    batch_size: int | Literal["auto"],
    on_batch: Callable[[int], None] | None = None,
    reading: Reading | None = None,
) -> Iterator[TeacherText]:
    """A teacher's predictions of texts, in their order.

    Every text is read as if it were alone: shorter ones are padded behind their end, where no causal model looks. The
    model is tried first; where padding shows all the same, or its output can't be taken apart, texts are read one by
    one, with the logits of all their positions in memory.

    Args:
        model: any causal language model of transformers; it stays where and in the precision it is.
        texts: in the teacher's own tokens; one without response tokens gives an empty result.
        k: tokens kept of each position.
        batch_size: texts read together; ``"auto"`` halves it where the memory is used up.
        on_batch: called with the number of response tokens of each batch that is done.
        reading: of ``try_reading``, where the model has been tried.

    Returns:
        results on the CPU, in fp32; the log-softmax is taken in fp32 (float64 for float64 logits).

    Raises:
        UserError: k is larger than the vocabulary, a text is longer than the model reads, or the model is not causal or
            gives NaN.
    """
    check_k(count_vocabulary(model), k)
    size = BatchSize(batch_size, "texts")
    reading = reading or try_reading(model, texts)
    return _read(reading, texts, k, size, on_batch or (lambda _: None))


@dataclass(frozen=True)
class Reading:
    """How a teacher is read: the halves of its forward, and the length above which texts are read one by one."""

    split: SplitModel
    limit: float


def try_reading(model: PreTrainedModel, texts: Sequence[EncodedText]) -> Reading:
    """Try a model on the start of the longest text.

    Raises:
        UserError: a text is longer than the model reads or of tokens that it lacks, or the model is not causal.
    """
    check_texts(model, (text.ids for text in texts), type(model).__name__, "max_tokens")
    first = probe(model, [text.ids for text in texts if text.labels] or [[0, 0]])
    refuse_not_causal(model, "The teacher")
    split = SplitModel(model, first)
    alone = split.body is None or not _reads_padding(split, first)
    return Reading(split, 0 if alone else rope_limit(model))


def _reads_padding(split: SplitModel, ids: list[int]) -> bool:
    """Whether a text's logits stay the same beside a longer one, as they should with padding behind its end."""
    whole = torch.tensor([ids], device=input_device(split.model))
    short = whole.flip(1)[:, : (len(ids) + 1) // 2]  # of other tokens than its neighbour
    padded = nn.functional.pad(short, (0, len(ids) - short.shape[1]))
    with evaluating(split.model):
        together = split.logits(split.hidden_states(torch.cat([whole, padded]))[1, : short.shape[1]])
        return agree(together, plain_logits(split.model, short)[0])


def check_k(vocabulary: int, k: int) -> None:
    """Refuse a k that a teacher of so many tokens can't fill."""
    if not 1 <= k <= vocabulary:
        raise UserError(f"k is {k}, and must be from 1 to the teacher's {vocabulary} tokens.")


def _read(
    reading: Reading, texts: Sequence[EncodedText], k: int, size: BatchSize, on_batch: Callable[[int], None]
) -> Iterator[TeacherText]:
    window = size.rows * _WINDOW
    for start in range(0, len(texts), window):
        some = texts[start : start + window]
        found = [no_tokens(k, text.digest) for text in some]

        def read(batch: list[int], some: Sequence[EncodedText] = some) -> list[TeacherText]:
            return _read_batch(reading.split, [some[number] for number in batch], k)

        for batch, results in size.each(_batches(some, size.rows, reading.limit), read):
            for number, result in zip(batch, results, strict=True):
                found[number] = result
            on_batch(sum(len(result) for result in results))
        yield from found


def _batches(texts: Sequence[EncodedText], batch_size: int, limit: float) -> Iterator[list[int]]:
    """Numbers of texts of similar length, the longest first, so that too little memory shows at once.

    Texts of more than ``limit`` tokens are alone.
    """
    order = [number for number, text in enumerate(texts) if text.labels]
    order.sort(key=lambda number: -len(texts[number].ids))
    alone = sum(len(texts[number].ids) > limit for number in order)
    yield from ([number] for number in order[:alone])
    for start in range(alone, len(order), batch_size):
        yield order[start : start + batch_size]


@torch.no_grad()
def _read_batch(split: SplitModel, texts: list[EncodedText], k: int) -> list[TeacherText]:
    ids, places = lay_out(texts)
    found = [summarise(logits, labels, k) for _, logits, labels in read_logits(split, ids, places)]
    counts = [len(text.labels) for text in texts]
    parts = [torch.cat(part).cpu().split(counts) for part in zip(*found, strict=True)]
    ends = [torch.tensor(text.ends, dtype=torch.long) for text in texts]
    return [TeacherText(*fields) for fields in zip(*parts, ends, [text.digest for text in texts], strict=True)]


def lay_out(texts: Sequence[EncodedText]) -> tuple[Tensor, Tensor]:
    """Texts as one batch: tokens ``[B, L]``, padded behind their end, and where responses' tokens are predicted.

    Those places are text and position of each, ``[N, 2]`` int64.
    """
    ids = nn.utils.rnn.pad_sequence([torch.tensor(text.ids) for text in texts], batch_first=True)
    places = [(row, place - 1) for row, text in enumerate(texts) for place in text.places]
    return ids, torch.tensor(places, dtype=torch.long).reshape(-1, 2)


@torch.no_grad()
def read_logits(split: SplitModel, ids: Tensor, places: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some of the places at a time, their logits ``[n, V]`` and the tokens that follow ``[n]``.

    Args:
        split: reads the whole batch at once.
        ids, places: of ``lay_out``; of one place at least.
    """
    device = input_device(split.model)
    ids, (rows, columns) = ids.to(device), places.to(device).T
    hidden, labels = split.hidden_states(ids)[rows, columns], ids[rows, columns + 1]
    step = max(1, _CHUNK // count_vocabulary(split.model))
    for start in range(0, len(hidden), step):
        part = slice(start, start + step)
        yield part, split.logits(hidden[part]), labels[part]


def summarise(logits: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities and ids ``[n, k]``, tail and log-probabilities of labels ``[n]``, of logits ``[n, V]``."""
    logits = logits.to(working_dtype(logits.dtype), copy=True)
    values, ids = top_k(logits, k)
    own = logits.gather(1, labels[:, None])
    # The tail is summed up, not 1 - sum: where the teacher is certain, all digits would be lost.
    rest = logits.scatter_(1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    norm = torch.logaddexp(values.logsumexp(-1, keepdim=True), rest)
    if not norm.isfinite().all():
        raise UserError("The teacher's logits are infinite or not numbers; read it with --dtype fp32.")
    tail, own = (rest - norm).exp().squeeze(1), (own - norm).squeeze(1)
    return (values - norm).float(), ids, tail.float(), own.float()
