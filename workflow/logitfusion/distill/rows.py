"""The rows of a distillation: a text in the student's tokens, and what it shares with each teacher's."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from logitfusion.distill.alignment import align, share, truncate
from logitfusion.distill.sources import Source
from logitfusion.distill.texts import EncodedText, StoredTexts
from logitfusion.errors import UserError
from logitfusion.models.examples import Text
from logitfusion.training.batches import CompletionCollator, Row, Sizes, size_rows

logger = logging.getLogger(__name__)

_SAMPLED = 10_000  # texts of which is said how much of them is shared
ALIGNMENTS = {"bytes": align, "positions": lambda student, teacher: truncate(len(student), len(teacher))}


def read_texts(rows: Iterable[Mapping[str, Any]], name: str) -> list[Text]:
    """The texts of a data set, whose ``name`` is for messages.

    Raises:
        UserError: it is a stream, or a row has other columns than ``messages``, or ``prompt`` and ``response`` (or
            ``completion``), each a text or messages.
    """
    refuse_stream(rows, name)
    return list(map(_read_text, rows))


def refuse_stream(rows: Any, name: str) -> None:
    """Refuse a data set of no known length.

    Raises:
        UserError: gives its ``name``.
    """
    if rows is not None and not hasattr(rows, "__len__"):
        raise UserError(f"{name} is a stream, whose texts can't be paired with the teachers'; give a list of its rows.")


def _read_text(row: Mapping[str, Any]) -> Text:
    if not isinstance(row, Mapping):
        raise UserError(
            f"A text is a row of columns (a dict), and not {str(row)[:40]!r}; give a Dataset or such a list."
        )
    given = {name: value for name, value in row.items() if value is not None}  # columns that other rows alone have
    if "messages" in given:
        return given["messages"]
    prompt, response = given.get("prompt"), given.get("response", given.get("completion"))
    if prompt is None or response is None or {"response", "completion"} <= given.keys():
        known = ", ".join(map(str, given)) or "none"
        raise UserError(
            f"A text has the columns prompt and response (or completion), or messages; this one has {known}."
        )
    if isinstance(prompt, str) and isinstance(response, str):
        return prompt, response
    if not all(
        isinstance(part, Sequence) and all(isinstance(one, Mapping) for one in part) for part in (prompt, response)
    ):
        raise UserError(
            f"Prompt and response are both texts, or both messages, and not {str(prompt)[:40]!r} and"
            f" {str(response)[:40]!r}."
        )
    return [*prompt, *response]


class PairedRows(Sequence[Row]):
    """Texts that are learned, made into rows when they are read: tokens, and what is shared with each teacher's.

    A row has ``input_ids``, its ``completion``'s length, which of that is ``learned`` if not all, and for each teacher
    its number there (``numbers``) and the ``groups`` of positions that belong together.

    Attributes:
        sizes: of the rows.
    """

    def __init__(self, texts: Sequence[EncodedText], teachers: Mapping[str, Source], alignment: str) -> None:
        """Find the texts with each teacher; those of which a limit of tokens has left no response are left out.

        Raises:
            UserError: names the teacher, and a text that it does not have.
        """
        stored = texts if isinstance(texts, StoredTexts) else StoredTexts(texts)
        matched = [source.match(name, stored) for name, source in teachers.items()]
        self._texts, self._places = stored, np.flatnonzero(stored.labels)
        self._sources, self._align = list(teachers.values()), ALIGNMENTS[alignment]
        self._numbers = [np.asarray(numbers, dtype=np.int64)[self._places] for numbers in matched]
        tokens = stored.tokens[self._places]
        self.sizes = Sizes(tokens, tokens - stored.starts[self._places])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> Row:
        text = self._texts[int(self._places[place])]
        numbers = [int(numbers[place]) for numbers in self._numbers]
        ends = [source.ends(number) for source, number in zip(self._sources, numbers, strict=True)]
        return _as_row(text) | {"numbers": numbers, "groups": [self._align(text.ends, others) for others in ends]}

    def unpaired(self) -> Iterator[Row]:
        """The rows without what is shared, which takes longer to find than all else."""
        return (_as_row(self._texts[int(place)]) for place in self._places)


def _as_row(text: EncodedText) -> Row:
    row = {"input_ids": list(text.ids), "completion": len(text.ids) - text.start}
    return row | ({"learned": _learned(text)} if text.between else {})


def pair_texts(texts: Sequence[EncodedText], teachers: Mapping[str, Source], alignment: str) -> PairedRows:
    """The rows of texts that are learned; says how much of them the student shares with each teacher."""
    rows = PairedRows(texts, teachers, alignment)
    some = [rows[place] for place in range(min(len(rows), _SAMPLED))] if teachers else []
    for place, teacher in enumerate(teachers if some else ()):
        shares = share([row["groups"][place] for row in some], list(map(_count_labels, some)))
        logger.info(
            "teacher %s: %.1f %% of the student's tokens meet one of its, %.1f %% are in merged groups, %.1f %% alone"
            "%s",
            teacher, *(100 * shares[part] for part in ("one_to_one", "merged", "dropped")),
            f" (of the first {len(some)} texts)" if len(some) < len(rows) else "",
        )  # fmt: skip
    return rows


def _learned(text: EncodedText) -> list[bool]:
    """Which of the tokens from the first response on are of one."""
    own = set(text.places)
    return [place in own for place in range(text.start, len(text.ids))]


def _count_labels(row: dict[str, Any]) -> int:
    return sum(row["learned"]) if "learned" in row else row["completion"]


def pair_held_out(texts: Sequence[EncodedText], teachers: Mapping[str, Source], alignment: str) -> PairedRows:
    """``pair_texts`` of texts that a student is evaluated on: if a teacher lacks some, its labels are all there is."""
    try:
        return pair_texts(texts, teachers, alignment)
    except UserError as error:
        logger.warning("the texts that are held out are evaluated by the loss of the labels alone: %s", error)
        return pair_texts(texts, {}, alignment)


class PairedTexts(Dataset):
    """Rows of ``pair_texts``, and after their last number a blank one, which is read and counts nothing.

    Raises:
        UserError: there are none.
    """

    def __init__(self, rows: PairedRows) -> None:
        if not len(rows):
            raise UserError("No text has a response that could be learned; give others, or raise max_tokens.")
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.blank if index == len(self.rows) else self.rows[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.rows[index] for index in range(len(self.rows)))  # without the blank one

    @cached_property
    def blank(self) -> dict[str, Any]:
        """The shortest text, of which nothing is learned."""
        row = self.rows[int(size_rows(self.rows).tokens.argmin())]
        return row | {"learned": [False] * row["completion"], "groups": [groups[:0] for groups in row["groups"]]}

    @property
    def paired(self) -> bool:
        """Whether teachers have the texts, too."""
        return bool(self.rows[0]["numbers"])

    @cached_property
    def tokens(self) -> int:
        """Labels of all texts."""
        return sum(map(_count_labels, self.rows.unpaired()))


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

    def __init__(self, pad: int, sources: list[Source]) -> None:
        super().__init__(pad)
        self.sources = sources

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        numbers = zip(*(row["numbers"] for row in rows), strict=True)  # none where the labels alone are evaluated
        return self.assemble(rows, [source.collate(own) for source, own in zip(self.sources, numbers, strict=False)])

    def assemble(self, rows: list[dict[str, Any]], columns: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        """A batch of rows, and of what each source has collated for them."""
        teachers = [self._with_groups(place, rows, own) for place, own in enumerate(columns)]
        return super().__call__(rows) | {"teachers": teachers}

    def _with_groups(self, place: int, rows: list[dict[str, Any]], columns: dict[str, Tensor]) -> dict[str, Tensor]:
        groups, starts = [], torch.zeros(2, dtype=torch.int64)
        for row, count in zip(rows, columns["counts"].tolist(), strict=True):
            groups.append(row["groups"][place] + starts.repeat_interleave(2))
            starts = starts + torch.tensor([_count_labels(row), count])
        return columns | {"groups": torch.cat(groups)}
