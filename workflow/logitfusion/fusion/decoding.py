"""Decoding a batch token by token: what all rows share, and the continuation of each row so far."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from logitfusion.config.decoding import DecodingOptions
from logitfusion.fusion.caches import Batch, CachedModel, refuse_not_finite
from logitfusion.fusion.ends import StopStrings
from logitfusion.fusion.gate.features import Predicted
from logitfusion.fusion.graphs import StepGraphs
from logitfusion.fusion.prompts import PromptMemory
from logitfusion.fusion.sampling import pick_tokens
from logitfusion.fusion.steering import Steering
from logitfusion.models.padding import left_pad

_TEMPORARIES = 4  # of a model's logits, where two models are compared


@dataclass
class Generation:
    """One continuation.

    Attributes:
        text: the decoded continuation, cut before the stop string, without special tokens. While it grows: as far as it
            is certain, without half characters and what a stop string may still cut.
        token_ids: every token that was generated, the last one included even if it ended the text.
        weights: the experts' weights at each token, ``[tokens][T]``; empty lists where no expert takes part.
        expert: index of the expert that steered each token, -1 where none did.
        finish_reason: ``"eos"`` (an end token of one of the models), ``"stop"`` (a stop string) or ``"length"``
            (``max_new_tokens``, or all that the models read).
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    expert: list[int] = field(default_factory=list)
    finish_reason: str = "length"


@dataclass(frozen=True)
class Fused:
    """The models of a fusion with empty caches, the large one first; how they are fused; what they share.

    ``remake`` gives the models with empty caches once more, for a prompt that must be read in one pass because its
    length decides how its positions are encoded; None for others. ``memory`` may know what they make of the prompts,
    ``graphs`` of their steps; None: they take them without.
    """

    models: Sequence[CachedModel]
    steering: Steering
    vocabulary: int
    max_length: float
    remake: Callable[[], Sequence[CachedModel]] | None = None
    memory: PromptMemory | None = None
    graphs: StepGraphs | None = None


class Continuations:
    """The continuations of a batch as they grow, and which of them still do."""

    def __init__(
        self,
        limits: Sequence[int],
        options: DecodingOptions,
        tokenizer: PreTrainedTokenizerBase,
        ends: Collection[int],
        on_token: Callable[[int, Generation], None] | None,
        criterion: Callable[[list[int]], bool] | None = None,
    ) -> None:
        self.all = [Generation() for _ in limits]
        self.active = [row for row, limit in enumerate(limits) if limit]
        self.limits = limits  # the most tokens of each row
        self.options, self.ends, self.on_token, self.criterion = options, ends, on_token, criterion
        self.stops = StopStrings(options.stop, tokenizer)

    @property
    def longest(self) -> int:
        """The most tokens that an active row still gets."""
        return max((self.limits[row] - len(self.all[row].token_ids) for row in self.active), default=0)

    def append(self, row: int, token: int, weights: list[float], expert: int) -> bool:
        """Add a token to the active row number ``row``; whether it was its last."""
        number = self.active[row]
        generation = self.all[number]
        generation.token_ids.append(token)
        generation.weights.append(weights)
        generation.expert.append(expert)
        finished = self._finish(generation, self.limits[number])
        if self.on_token is not None:
            if not finished:
                generation.text = self._certain_text(generation.token_ids)
            self.on_token(number, generation)
        return finished

    def retire(self, finished: list[bool]) -> list[int]:
        """Go on without the active rows that are finished; which of them remain."""
        remaining = [row for row, ended in enumerate(finished) if not ended]
        self.active = [self.active[row] for row in remaining]
        return remaining

    def _finish(self, generation: Generation, limit: int) -> bool:
        """Whether the newest token ends the continuation; notes why, and its text."""
        ids = generation.token_ids
        ended, stopped = ids[-1] in self.ends, self.stops.find(ids)
        complete = self.criterion is not None and self.criterion(ids)
        if not (ended or stopped or complete or len(ids) == limit):
            return False
        generation.finish_reason = "eos" if ended else "stop" if stopped or complete else "length"
        # An end is no part of the text, whether or not the tokenizer calls it special.
        generation.text = self.stops.text_before(ids[:-1] if ended and not stopped else ids, stopped)
        return True

    def _certain_text(self, ids: list[int]) -> str:
        """The text so far that no later token changes: no half characters, nothing that a stop string may cut."""
        text = self.stops.text_before(ids, self.stops.held_back(ids))
        return text.rstrip("\N{REPLACEMENT CHARACTER}")  # what a character is whose last bytes are still to come


def tell_once(on_token: Callable[[int, Generation], None]) -> Callable[[int, Generation], None]:
    """Leave out what was told already of a prompt whose batch is computed again."""
    told: dict[int, int] = {}

    def notify(number: int, generation: Generation) -> None:
        if len(generation.token_ids) > told.get(number, 0):
            told[number] = len(generation.token_ids)
            on_token(number, generation)

    return notify


def decode(
    fused: Fused, prompts: list[list[int]], generators: list[torch.Generator], continuations: Continuations
) -> None:
    """Let the continuations of the prompts grow to their ends, one token of every row at a time."""
    options, steering, device = continuations.options, fused.steering, fused.models[0].device
    batch = Batch(fused.models, len(prompts), fused.memory)
    ids, mask, _ = (tensor.to(device) for tensor in left_pad(prompts, 0))
    steered_rows, read = None, batch.read_first
    if steering.reads_prompts:
        steered_rows = steering.steers(read_prompts(batch, ids, mask, fused.vocabulary))
        if fused.remake is None:
            ids, mask, read = ids[:, -1:], mask[:, -1:], batch.read
        else:
            batch = Batch(fused.remake(), len(prompts))
            read = batch.read_first
    while continuations.active:
        if fused.graphs is not None:
            fused.graphs.follow(batch, len(prompts), ids, continuations.longest)
        large, small = split_logits(read(ids, mask), fused.vocabulary)
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
        ids, mask, read = tokens[:, None], torch.ones_like(tokens[:, None]), batch.read


def split_logits(logits: list[Tensor], vocabulary: int) -> tuple[Tensor, Tensor]:
    """Of the large model ``[B, n, V]`` and of the small ones ``[T + 1, B, n, V]`` (none: ``[0, ...]``).

    Families pad their output layers to different sizes; the entries beyond the tokenizer mean nothing.
    """
    large, *small = [part[..., :vocabulary] for part in logits]
    return large[0], torch.cat(small) if small else large[:0]


def read_prompts(batch: Batch, ids: Tensor, mask: Tensor, vocabulary: int) -> Tensor:
    """Read all but the last tokens of the prompts ``[B, L]``: how much worse the nearest expert predicts them.

    What the large model finds likely stands for what is there: that varies less from prompt to prompt, and tells apart
    more of the prompts that no expert knows.

    Returns:
        the likelihood gap ``[B]``: by how many nats a token the large model expects its log-likelihood to be above an
        expert's, ``KL(large || expert)``, of the expert where that is least; 0 for prompts of one token.
    """
    if batch.memory is None:
        return _read_gaps(batch, ids, mask, vocabulary)
    purpose = f"gaps of {vocabulary} entries"
    gaps = batch.memory.read(batch.models, purpose, ids, mask, lambda: _read_gaps(batch, ids, mask, vocabulary))
    if not batch.mask.shape[1]:  # they were known
        batch.commit(mask[:, :-1])
    return gaps


def _read_gaps(batch: Batch, ids: Tensor, mask: Tensor, vocabulary: int) -> Tensor:
    width = max(1, columns_at_once(len(ids), vocabulary) // _TEMPORARIES)
    members = sum(model.members for model in batch.models)
    gaps = torch.zeros(members, len(ids), dtype=torch.float64, device=batch.device)
    for start in range(0, ids.shape[1] - 1, width):
        columns = slice(start, min(start + width, ids.shape[1] - 1))
        counted, place, large = mask[:, columns], 0, None
        for model in batch.models:  # large, base, experts
            alone = place == 1 and model.members == 1
            keep = 1 if alone else counted.shape[1]  # the base steers nothing
            for logits in batch.read_ahead(model, ids[:, columns], counted, keep)[..., :vocabulary]:
                if place != 1:
                    predicted = Predicted.of(logits)
                    large = large or predicted
                    gaps[place] += torch.where(counted == 1, large.divergence(predicted), 0.0).sum(-1)
                place += 1
        batch.commit(counted)
    refuse_not_finite(batch.models)
    return gaps[2:].amin(0) / (mask.sum(-1) - 1).clamp(min=1)


def columns_at_once(rows: int, vocabulary: int) -> int:
    """How many positions of every row may have logits in memory at a time: about 256 MB a model."""
    return max(1, 2**26 // (rows * vocabulary))
