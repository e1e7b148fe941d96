"""A job of a run, what it needs, and what the config does not say about it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from logitfusion.plan.cost import Cost
from logitfusion.plan.tasks import DOCUMENTS

Edit = Mapping[str, Any]  # keys of the config, with dots -> other values


@dataclass(frozen=True)
class Job:
    """Jobs that are alike.

    Attributes:
        rule: of the workflow.
        name: what it makes.
        count: how many there are (shards, seeds).
        compute: its cost; None where a model is not known.
        unknown: why not.
        edits: what of the config would make it smaller, the mildest first.
    """

    rule: str
    name: str
    count: int
    compute: Callable[[], Cost] | None
    unknown: str = ""
    edits: tuple[Edit, ...] = field(default=())

    @functools.cached_property
    def cost(self) -> Cost | None:
        """Of one; None where a model is not known."""
        return None if self.compute is None else self.compute()

    @property
    def key(self) -> tuple[str, str]:
        """By which it is found again after the config was edited."""
        return self.rule, self.name


@dataclass(frozen=True)
class Assumed:
    """What a config does not say: the data is not there yet.

    Attributes:
        prompt: tokens of the longest prompt, without examples.
        documents: of a task of which nothing says how many it has.
        cards: the most GPUs that a job could be given.
        memory: bytes of a GPU; None: as much as it takes.
        on_cpu: there is no GPU.
    """

    prompt: int = 512
    documents: int = DOCUMENTS
    cards: int = 8
    memory: float | None = None
    on_cpu: bool = False


Listed = tuple[tuple[str, str], Callable[[], Job]]  # a job's key, and what makes it
