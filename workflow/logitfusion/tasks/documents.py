"""A task's documents on disk: processed, cut to size, and ready to be evaluated where there is no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lm_eval.tasks.manager import TaskDict

Split = Literal["test", "validation"]


@dataclass(frozen=True)
class Document:
    """A document of a task.

    Attributes:
        task: name of the leaf task.
        index: its place among the leaf's documents of the split, as ``samples`` of ``lm_eval.evaluate`` counts.
        id: its number in the leaf's data set.
    """

    task: str
    index: int
    id: int


@dataclass(frozen=True)
class OpenedTask:
    """A task or group with its documents.

    Attributes:
        name: of the task or group.
        loaded: what ``lm_eval.evaluate`` takes: "tasks", "groups" and "group_map".
        documents: all of the split, in one order that never changes; shards are parts of it.
        metric: name and filter of the metric that tables compare.
    """

    name: str
    loaded: TaskDict
    documents: tuple[Document, ...]
    metric: tuple[str, str]

    def make_examples(
        self, chat_template: Any = None, system: str | None = None, fewshot_as_multiturn: bool = False
    ) -> list[tuple[str, str]]:
        """Context and right answer of each document."""
        raise NotImplementedError


def open_documents(
    folder: str | Path,
    *,
    split: Split = "test",
    num_fewshot: int | None = None,
    generation_kwargs: Mapping[str, Any] | None = None,
    metric: str | None = None,
) -> OpenedTask:
    """Open what the stage ``task`` wrote.

    Args:
        folder: ``.../<task>/documents``.
        split: validation documents stand in the place of test documents.
        num_fewshot: examples in each prompt; None: the definition's own number.
        generation_kwargs: merged into the definition's.
        metric: the metric that tables compare, as the config names it; None: the definition's first.

    Raises:
        UserError: the folder or a definition is not as it was, or the task has no such metric.
    """
    raise NotImplementedError
