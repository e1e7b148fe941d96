"""Predictions that are made when they are needed, by a teacher that is in memory beside the student."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.loading import Dtype
from logitfusion.config.objective import Objective
from logitfusion.config.prompting import TextFormat
from logitfusion.distill.encoding import encode_texts
from logitfusion.distill.objective import CachedTeacher, Teacher
from logitfusion.distill.predictions import IGNORED, Predictions
from logitfusion.distill.shared import SharedTokens
from logitfusion.distill.sources.matching import check_vocabulary, match_digests
from logitfusion.distill.teacher import check_k, lay_out, read_logits, summarise, try_reading
from logitfusion.distill.texts import EncodedText, text_digests
from logitfusion.distill.vocabulary import Vocabulary, share_tokens
from logitfusion.errors import UserError
from logitfusion.models.adapters import load_expert
from logitfusion.models.architecture import count_vocabulary
from logitfusion.models.device_maps import input_device
from logitfusion.models.examples import ExampleEncoder, Text
from logitfusion.models.forward import check_texts, evaluating
from logitfusion.models.identity import hash_vocabulary
from logitfusion.models.load import load_tokenizer
from logitfusion.training.weights import own_device


def open_online(
    name: str,
    folder: str | Path,
    texts: Iterable[Text],
    objective: Objective,
    *,
    text_format: TextFormat | None = None,
    arguments: Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
    dtype: Dtype = "auto",
) -> OnlineSource:
    """A teacher of a folder, on this process's own device.

    Args:
        name: for messages.
        folder: of a model, or of an adapter beside its base.
        texts: all that the student learns; read once.
        objective: of the training.
        text_format, arguments: how the teacher reads a text, see ``encode_texts``; plain by default.
        max_tokens: longer texts are cut.
        dtype: of its weights; by default its own.

    Raises:
        UserError: a model that can't be loaded or can't read the texts.
    """
    tokenizer, form = load_tokenizer(folder), text_format or TextFormat()
    options = {"template": form.template, "system": form.system, "arguments": arguments, "max_tokens": max_tokens}
    try:
        encoded = encode_texts(tokenizer, texts, **options)
    except UserError as error:
        raise UserError(f"Teacher {name!r} can't read the texts. {error}") from error
    model = load_expert(folder, device=own_device(), dtype=dtype)
    check_texts(model, (text.ids for text in encoded), f"teacher {name!r}", "its max_tokens")
    return OnlineSource(model, tokenizer, encoded, objective, form, arguments)


class OnlineSource:
    """A teacher that reads each batch once, in its own precision, where the student's loss is computed.

    Terms over the top-k get those of each position, as from a cache, and never more logits at a time than a chunk of
    positions has. Terms over whole vocabularies get the logits of the responses.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[EncodedText],
        objective: Objective,
        form: TextFormat | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Try the teacher on the start of the longest text.

        Args:
            model: the teacher; it stays where and in the precision it is.
            tokenizer: its own.
            texts: all that the student learns, in the teacher's tokens, in any order.
            objective: of the training, which decides what of the predictions is kept.
            form, arguments: how the texts were encoded, which answers of the student's own are, too.

        Raises:
            UserError: a text is longer than the teacher reads or of tokens that it lacks, or it is not causal.
        """
        self.model, self.texts = model, texts
        self.k = None if objective.kl or objective.hybrid else objective.k
        self.reading, self.tokenizer = try_reading(model, texts), tokenizer
        self.encoder = ExampleEncoder(tokenizer, form or TextFormat(), arguments)
        self.shared: SharedTokens | None = None

    def check(self, name: str, objective: Objective, tokenizer: PreTrainedTokenizerBase) -> None:
        """See ``Source``."""
        check_k(count_vocabulary(self.model), objective.entries)
        check_vocabulary(name, hash_vocabulary(self.tokenizer), objective, tokenizer)

    def share(self, name: str, student: Vocabulary) -> SharedTokens:
        """See ``Source``."""
        own = Vocabulary.of(self.tokenizer, count_vocabulary(self.model), self.texts)
        self.shared = share_tokens(student, own)
        return self.shared

    def match(self, name: str, texts: Sequence[EncodedText]) -> Sequence[int]:
        """See ``Source``."""
        return match_digests(name, text_digests(self.texts), texts)

    def ends(self, number: int) -> Sequence[int]:
        """See ``Source``."""
        return self.texts[number].ends

    def collate(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """See ``Source``."""
        return self.lay([self.texts[number] for number in numbers])

    def lay(self, texts: Sequence[EncodedText]) -> dict[str, Tensor]:
        """``collate`` of any texts."""
        ids, places = lay_out(texts)
        lengths, counts = (
            [len(part) for part in parts] for parts in zip(*((t.ids, t.labels) for t in texts), strict=True)
        )
        return {"ids": ids, "places": places, "lengths": torch.tensor(lengths), "counts": torch.tensor(counts)}

    def read(self, columns: dict[str, Tensor], groups: Tensor, weight: float) -> Teacher | CachedTeacher:
        """See ``Source``."""
        own = input_device(self.model)
        # A cache is made outside of the student's mixed precision, too.
        with evaluating(self.model), torch.autocast(own.type, enabled=False):
            return (self._read_logits if self.k is None else self._read_tops)(columns, groups, weight)

    def _read_tops(self, columns: dict[str, Tensor], groups: Tensor, weight: float) -> CachedTeacher:
        counts, k = columns["counts"], self.k
        total = (len(columns["places"]),)
        log_probs, ids = groups.new_empty(*total, k, dtype=torch.float32), groups.new_empty(*total, k)
        tail, own = (groups.new_empty(total, dtype=torch.float32) for _ in range(2))
        for which, logits, labels in self._chunks(columns):
            for into, part in zip((log_probs, ids, tail, own), summarise(logits, labels, k), strict=True):
                into[which] = part.to(into.device)
        return CachedTeacher(Predictions(log_probs, ids, own, counts), groups, weight, tail)

    def _read_logits(self, columns: dict[str, Tensor], groups: Tensor, weight: float) -> Teacher:
        """The responses' logits alone, ``[B, longest response + 1, V]``, so that no label is the first."""
        counts = columns["counts"]
        rows = columns["places"][:, 0]
        ranks = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        shape = len(counts), int(counts.max()) + 1
        own = rows.new_full(shape, IGNORED)
        logits = torch.zeros(*shape, count_vocabulary(self.model), dtype=self.model.dtype, device=rows.device)
        for which, found, labels in self._chunks(columns):
            logits = logits.to(torch.promote_types(logits.dtype, found.dtype))  # some models' are fp32 all the same
            logits[rows[which], ranks[which]] = found.to(logits)
            own[rows[which], ranks[which] + 1] = labels.to(own.device)
        return Teacher(logits, own, weight, groups, self.shared)

    def _chunks(self, columns: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Numbers of some of the batch's places, their logits ``[n, V]``, and the tokens that follow ``[n]``."""
        lengths, places = columns["lengths"], columns["places"]
        counted = columns["counts"] > 0
        long = lengths > self.reading.limit
        alone = [row[None] for row in (counted & long).nonzero()[:, 0]]
        for rows in [*alone, (counted & ~long).nonzero()[:, 0]]:
            if not len(rows):
                continue
            ids = columns["ids"][rows, : int(lengths[rows].max())]
            which = torch.isin(places[:, 0], rows).nonzero()[:, 0]
            there = torch.stack([torch.searchsorted(rows, places[which, 0]), places[which, 1]], dim=1)
            for part, logits, labels in read_logits(self.reading.split, ids, there):
                yield which[part], logits, labels
