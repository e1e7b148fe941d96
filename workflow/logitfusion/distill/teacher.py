"""A teacher reads texts: the k likeliest tokens of every position that predicts a response token.

The vocabulary-sized logits are made of those positions only, a few at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitfusion.distill.encoding import EncodedText
from logitfusion.distill.selection import top_k, working_dtype
from logitfusion.distill.shard import TeacherText, no_tokens
from logitfusion.errors import UserError

# Logits made together: 128 MB of fp32. Each chunk reads the whole output matrix, so it is not smaller.
_CHUNK = 2**25
# Batches whose texts are sorted by length together: enough for little padding, and few results wait for their turn.
_WINDOW = 32


def read_teacher(
    model: PreTrainedModel,
    texts: Sequence[EncodedText],
    *,
    k: int,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[TeacherText]:
    """A teacher's predictions of texts, in their order.

    Every text is read as if it were alone: shorter ones are padded behind their end, where no causal model looks.

    Args:
        model: any causal language model of transformers; it stays where and in the precision it is.
        texts: in the teacher's own tokens; one without response tokens gives an empty result.
        k: tokens kept of each position.
        batch_size: texts read together.
        on_batch: called with the number of response tokens of each batch that is done.

    Returns:
        results on the CPU, in fp32; the log-softmax is taken in fp32 (float64 for float64 logits).

    Raises:
        UserError: k is larger than the vocabulary, the model's output can't be taken apart, or it gives NaN.
    """
    check_k(model, k)
    if batch_size < 1:
        raise UserError("The batch size is at least 1.")
    if model.base_model is model or model.get_output_embeddings() is None:
        raise UserError(f"{type(model).__name__} is not a causal language model whose last layer can be called alone.")
    return _read(model, texts, k, batch_size, on_batch or (lambda _: None))


def count_vocabulary(model: PreTrainedModel) -> int:
    """Entries of a model's logits; may be more than its tokenizer has tokens."""
    return model.config.get_text_config().vocab_size


def check_k(model: PreTrainedModel, k: int) -> None:
    """Refuse a k that the model can't fill."""
    if not 1 <= k <= count_vocabulary(model):
        raise UserError(f"k is {k}, and must be from 1 to the teacher's {count_vocabulary(model)} tokens.")


def _read(
    model: PreTrainedModel, texts: Sequence[EncodedText], k: int, batch_size: int, on_batch: Callable[[int], None]
) -> Iterator[TeacherText]:
    window = batch_size * _WINDOW
    for start in range(0, len(texts), window):
        some = texts[start : start + window]
        found = [no_tokens(k)] * len(some)
        for batch in _batches(some, batch_size, _rope_limit(model.config)):
            results = _read_batch(model, [some[number] for number in batch], k)
            for number, result in zip(batch, results, strict=True):
                found[number] = result
            on_batch(sum(len(result) for result in results))
        yield from found


def _batches(texts: Sequence[EncodedText], batch_size: int, limit: int) -> Iterator[list[int]]:
    """Numbers of texts of similar length, the longest first, so that too little memory shows at once."""
    order = [number for number, text in enumerate(texts) if text.labels]
    order.sort(key=lambda number: -len(texts[number].ids))
    for part in (
        [number for number in order if len(texts[number].ids) > limit],
        [number for number in order if len(texts[number].ids) <= limit],
    ):
        for start in range(0, len(part), batch_size):
            yield part[start : start + batch_size]


def _rope_limit(config: Any) -> int:
    """Beyond this many tokens "longrope" turns all of a batch another way; 0 for models that have no such limit."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return rope["original_max_position_embeddings"] if rope.get("rope_type") == "longrope" else 0


@torch.no_grad()
def _read_batch(model: PreTrainedModel, texts: list[EncodedText], k: int) -> list[TeacherText]:
    counts = [len(text.labels) for text in texts]
    ids = nn.utils.rnn.pad_sequence([torch.tensor(text.ids) for text in texts], batch_first=True).to(model.device)
    outputs = model.base_model(input_ids=ids, use_cache=False)
    places = [(row, text.start - 1 + n) for row, text in enumerate(texts) for n in range(len(text.labels))]
    rows, columns = torch.tensor(places, dtype=torch.long, device=ids.device).T
    hidden, labels = outputs.last_hidden_state[rows, columns], ids[rows, columns + 1]
    step = max(1, _CHUNK // count_vocabulary(model))
    chunks = [
        _summarise(_logits(model, outputs, hidden[start : start + step]), labels[start : start + step], k)
        for start in range(0, len(hidden), step)
    ]
    parts = [torch.cat(part).cpu() for part in zip(*chunks, strict=True)]
    ends = [torch.tensor(text.ends, dtype=torch.long) for text in texts]
    return [TeacherText(*fields) for fields in zip(*(part.split(counts) for part in parts), ends, strict=True)]


def _logits(model: PreTrainedModel, outputs: Any, hidden: Tensor) -> Tensor:
    """``[n, D] -> [n, V]``: the model's own forward behind its last hidden states.

    So whatever it does with its logits after the output matrix (caps, scales) is done here too.
    """
    given = replace(outputs, last_hidden_state=hidden[None])
    with _answering(model.base_model, given):
        return model(input_ids=torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)).logits[0]


@contextmanager
def _answering(module: nn.Module, answer: Any) -> Iterator[None]:
    """Let a module give a known answer instead of computing one."""
    before = module.__dict__.get("forward")
    module.forward = lambda *_, **__: answer
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _summarise(logits: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
