"""The rows of a distillation: a text in the student's tokens, and what it shares with each teacher's."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from logitfusion.distill.alignment import align, share, truncate
from logitfusion.distill.encoding import EncodedText
from logitfusion.distill.sources import Source
from logitfusion.errors import UserError
from logitfusion.models.examples import Text
from logitfusion.training.batches import INPUTS, CompletionCollator

logger = logging.getLogger(__name__)

ALIGNMENTS = {"bytes": align, "positions": lambda student, teacher: truncate(len(student), len(teacher))}


def read_texts(rows: Iterable[Mapping[str, Any]], name: str) -> list[Text]:
    """The texts of a data set, whose ``name`` is for messages.

    Raises:
        UserError: it is a stream, or a row has other columns than ``messages``, or ``prompt`` and ``response`` (or
            ``completion``), each a text or messages.
    """
    if not hasattr(rows, "__len__"):
        raise UserError(f"{name} is a stream, whose texts can't be paired with the teachers'; give a list of its rows.")
    return list(map(_read_text, rows))


def _read_text(row: Mapping[str, Any]) -> Text:
    if "messages" in row:
        return row["messages"]
    response = row.get("response", row.get("completion"))
    if "prompt" not in row or response is None:
        known = ", ".join(map(str, row)) or "none"
        raise UserError(f"A text has the columns prompt and response, or messages, and this one has {known}.")
    prompt = row["prompt"]
    return (prompt, response) if isinstance(prompt, str) else [*prompt, *response]


def pair_texts(texts: Sequence[EncodedText], teachers: dict[str, Source], alignment: str) -> list[dict[str, Any]]:
    """A row for each text: its tokens, its number with each teacher, and the groups of positions that they share."""
    matched = [source.match(name, texts) for name, source in teachers.items()]
    rows = []
    for text, *numbers in zip(texts, *matched, strict=True):
        if not text.labels:  # a limit of tokens may leave none
            continue
        ends = [source.ends(number) for source, number in zip(teachers.values(), numbers, strict=True)]
        groups = [ALIGNMENTS[alignment](text.ends, others) for others in ends]
        row = {"input_ids": list(text.ids), "completion": len(text.ids) - text.start, "numbers": numbers}
        rows.append(row | {"groups": groups} | ({"learned": _learned(text)} if text.between else {}))
    for place, teacher in enumerate(teachers):
        shares = share([row["groups"][place] for row in rows], list(map(_count_labels, rows)))
        logger.info(
            "teacher %s: %.1f %% of the student's tokens meet one of its, %.1f %% are in merged groups, %.1f %% alone",
            teacher, *(100 * shares[part] for part in ("one_to_one", "merged", "dropped")),
        )  # fmt: skip
    return rows


def _learned(text: EncodedText) -> list[bool]:
    """Which of the tokens from the first response on are of one."""
    own = set(text.places)
    return [place in own for place in range(text.start, len(text.ids))]


def _count_labels(row: dict[str, Any]) -> int:
    return sum(row["learned"]) if "learned" in row else row["completion"]


def pair_held_out(texts: Sequence[EncodedText], teachers: dict[str, Source], alignment: str) -> list[dict[str, Any]]:
    """``pair_texts`` of texts that a student is evaluated on: if a teacher lacks some, its labels are all there is."""
    try:
        return pair_texts(texts, teachers, alignment)
    except UserError as error:
        logger.warning("evaluation by the loss of the labels alone: %s", error)
        return pair_texts(texts, {}, alignment)


class PairedTexts(Dataset):
    """Rows of ``pair_texts``, and after their last number a blank one, which is read and counts nothing."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index] if index < len(self.rows) else self.blank

    @cached_property
    def blank(self) -> dict[str, Any]:
        """The shortest text, of which nothing is learned."""
        row = min(self.rows, key=lambda row: len(row["input_ids"]))
        return row | {"learned": [False] * row["completion"], "groups": [groups[:0] for groups in row["groups"]]}

    @property
    def paired(self) -> bool:
        """Whether teachers have the texts, too."""
        return bool(self.rows and self.rows[0]["numbers"])

    @cached_property
    def tokens(self) -> int:
        """Labels of all texts."""
        return sum(map(_count_labels, self.rows))


class FilledUp(Sampler[int]):
    """The order of a sampler, filled up to whole batches of all processes by the number after the last row's.

    Left short, accelerate would fill the last ones up by texts from the beginning, which then count twice.
    """

    def __init__(self, order: Sampler[int], batch: int) -> None:
        self.order, self.batch = order, batch

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from [len(self.order)] * (-len(self.order) % self.batch)

    def __len__(self) -> int:
        return len(self.order) + -len(self.order) % self.batch

    def set_epoch(self, epoch: int) -> None:
        """Which of its orders a random sampler has."""
        if hasattr(self.order, "set_epoch"):
            self.order.set_epoch(epoch)


class DistillationCollator(CompletionCollator):
    """With what each teacher reads of the texts."""

    def __init__(self, pad: int, sources: list[Source], inputs: Sequence[str] = INPUTS) -> None:
        super().__init__(pad, inputs)
        self.sources = sources

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        paired = range(len(rows[0]["numbers"]))  # none where the labels alone are evaluated
        teachers = [self._of_teacher(place, rows) for place in paired]
        return super().__call__(rows) | {"teachers": teachers}

    def _of_teacher(self, place: int, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        columns = self.sources[place].collate([row["numbers"][place] for row in rows])
        groups, starts = [], torch.zeros(2, dtype=torch.int64)
        for row, count in zip(rows, columns["counts"].tolist(), strict=True):
            groups.append(row["groups"][place] + starts.repeat_interleave(2))
            starts = starts + torch.tensor([_count_labels(row), count])
        return columns | {"groups": torch.cat(groups)}
