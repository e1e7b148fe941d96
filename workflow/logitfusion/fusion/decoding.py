"""Decoding a batch token by token: what all rows share, and the continuation of each row so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.decoding import DecodingOptions
from logitfusion.fusion.caches import Batch, CachedModel, refuse_not_finite
from logitfusion.fusion.sampling import pick_tokens
from logitfusion.fusion.steering import Steering
from logitfusion.models.architecture import text_config
from logitfusion.models.padding import left_pad


@dataclass
class Generation:
    """One continuation.

    Attributes:
        text: the decoded continuation, cut before the stop string, without special tokens.
        token_ids: every token that was generated, the last one included even if it ended the text.
        weights: the experts' weights at each token, ``[tokens][T]``; empty lists where no expert takes part.
        expert: index of the expert that steered each token, -1 where none did.
        finish_reason: ``"eos"``, ``"stop"`` (a stop string) or ``"length"``.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    expert: list[int] = field(default_factory=list)
    finish_reason: str = "length"


@dataclass(frozen=True)
class Fused:
    """The models of a fusion with empty caches, the large one first; how they are fused; the entries they share."""

    models: Sequence[CachedModel]
    steering: Steering
    vocabulary: int


class Continuations:
    """The continuations of a batch as they grow, and which of them still do."""

    def __init__(
        self,
        rows: int,
        options: DecodingOptions,
        tokenizer: PreTrainedTokenizerBase,
        ends: set[int],
        on_token: Callable[[int, Generation], None] | None,
    ) -> None:
        self.all = [Generation() for _ in range(rows)]
        self.active = list(range(rows))
        self.options, self.tokenizer, self.ends, self.on_token = options, tokenizer, ends, on_token
        # A stop string can only end inside the newest token, and no token is less than a byte.
        self.tail = max((len(word.encode()) for word in options.stop), default=0) + 8

    def append(self, row: int, token: int, weights: list[float], expert: int) -> bool:
        """Add a token to the active row number ``row``; whether it was its last."""
        number = self.active[row]
        generation = self.all[number]
        generation.token_ids.append(token)
        generation.weights.append(weights)
        generation.expert.append(expert)
        finished = self._finished(generation)
        if finished or self.on_token is not None:
            generation.text = self._text(generation)
        if self.on_token is not None:
            self.on_token(number, generation)
        return finished

    def retire(self, finished: list[bool]) -> list[int]:
        """Go on without the active rows that are finished; which of them remain."""
        remaining = [row for row, ended in enumerate(finished) if not ended]
        self.active = [self.active[row] for row in remaining]
        return remaining

    def _finished(self, generation: Generation) -> bool:
        """Whether the newest token ends the continuation; notes why."""
        if generation.token_ids[-1] in self.ends:
            generation.finish_reason = "eos"
            return True
        if self.options.stop:
            text = self.tokenizer.decode(generation.token_ids[-self.tail :], skip_special_tokens=True)
            if any(word in text for word in self.options.stop):
                generation.finish_reason = "stop"
                return True
        return len(generation.token_ids) == self.options.max_new_tokens

    def _text(self, generation: Generation) -> str:
        ids = [token for token in generation.token_ids if token not in self.ends]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        cuts = [text.find(word) for word in self.options.stop if word in text]
        return text[: min(cuts)] if cuts else text


def decode(
    fused: Fused, prompts: list[list[int]], generators: list[torch.Generator], continuations: Continuations
) -> None:
    """Let the continuations of the prompts grow to their ends, one token of every row at a time."""
    options, steering, device = continuations.options, fused.steering, fused.models[0].model.device
    batch = Batch(fused.models, len(prompts), device)
    ids, mask, _ = (tensor.to(device) for tensor in left_pad(prompts, 0))
    steered_rows = None
    if steering.reads_prompts:
        steered_rows = steering.steers(read_prompts(batch, ids, mask, fused.vocabulary))
        ids, mask = ids[:, -1:], mask[:, -1:]
    while continuations.active and options.max_new_tokens:
        large, small = split_logits(batch.read(ids, mask, keep=1), fused.vocabulary)
        steered = steering.fuse(large[:, 0], small[:, :, 0], steered_rows)
        rows = [generators[number] for number in continuations.active]
        tokens = pick_tokens(
            steered.logits, rows, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p
        )
        listed = zip(tokens.tolist(), steered.weights.T.tolist(), steered.expert.tolist(), strict=True)
        finished = [continuations.append(row, *values) for row, values in enumerate(listed)]
        if any(finished):
            kept = torch.tensor(continuations.retire(finished), device=device, dtype=torch.long)
            tokens = tokens[kept]
            steered_rows = None if steered_rows is None else steered_rows[kept]
            batch.select_rows(kept)
        ids, mask = tokens[:, None], torch.ones_like(tokens[:, None])


def split_logits(logits: list[Tensor], vocabulary: int) -> tuple[Tensor, Tensor]:
    """Of the large model ``[B, n, V]`` and of the small ones ``[T + 1, B, n, V]`` (none: ``[0, ...]``).

    Families pad their output layers to different sizes; the entries beyond the tokenizer mean nothing.
    """
    large, *small = [part[..., :vocabulary] for part in logits]
    return large[0], torch.cat(small) if small else large[:0]


def read_prompts(batch: Batch, ids: Tensor, mask: Tensor, vocabulary: int) -> Tensor:
    """Read all but the last tokens of the prompts ``[B, L]``: how much worse the base predicts them.

    Returns:
        the likelihood gap ``[B]``: by how many nats a token the log-likelihood of the large model is above that of the
        base; 0 for prompts of one token.
    """
    width = columns_at_once(len(ids), vocabulary)
    large, base = ids.new_zeros(2, len(ids), dtype=torch.float64)
    for start in range(0, ids.shape[1] - 1, width):
        columns = slice(start, min(start + width, ids.shape[1] - 1))
        following = ids[:, start + 1 : columns.stop + 1]
        for place, model in enumerate(batch.models):  # large, base, experts
            keep = following.shape[1] if place < 2 else 1
            logits = batch.read_ahead(model, ids[:, columns], mask[:, columns], keep)[0, ..., :vocabulary]
            if place < 2:
                found = logits.gather(-1, following[..., None])[..., 0] - logits.logsumexp(-1)
                # What follows padding is a row's first token, and given.
                (large, base)[place].add_((found * mask[:, columns]).sum(-1))
        batch.commit(mask[:, columns])
    refuse_not_finite(batch.models)
    return (large - base) / (mask.sum(-1) - 1).clamp(min=1)


def columns_at_once(rows: int, vocabulary: int) -> int:
    """How many positions of every row may have logits in memory at a time: about 256 MB a model."""
    return max(1, 2**26 // (rows * vocabulary))


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a text."""
    found = [text_config(model).eos_token_id, tokenizer.eos_token_id]
    if model.generation_config is not None:  # chat models may list further ends only here
        found.append(model.generation_config.eos_token_id)
    several = [tokens if isinstance(tokens, Iterable) else [tokens] for tokens in found]
    return {token for tokens in several for token in tokens if token is not None}
