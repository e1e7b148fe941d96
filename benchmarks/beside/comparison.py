"""One thing done here and there: times in pairs, memory, and whether both give the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from peak import most_bytes
from timing import spread, time_rounds

CPU = torch.device("cpu")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        what: is done.
        beside: whose code does it there, and its version.
        answers: how far both gave the same.
        here, there: milliseconds of processor time, a pair a round.
        memory_here, memory_there: most bytes of tensors at once beyond what is there before.
    """

    what: str
    beside: str
    answers: str
    here: list[float]
    there: list[float]
    memory_here: int
    memory_there: int

    @property
    def times_here(self) -> list[float]:
        """How many times as long it takes there, pair by pair."""
        return [there / here for here, there in zip(self.here, self.there, strict=True)]


def compare(
    what: str,
    beside: str,
    here: Callable[[], Answer],
    there: Callable[[], Answer],
    agree: Callable[[Answer, Answer], str],
    rounds: int,
) -> Comparison:
    """Both in every round, one after the other, in processor time, which other programs' work hardly changes."""
    seconds, made = time_rounds({"here": here, "there": there}, rounds, CPU, time.process_time)
    milliseconds = {name: [1e3 * value for value in values] for name, values in seconds.items()}
    memory = {name: most_bytes(way, CPU) for name, way in (("here", here), ("there", there))}
    return Comparison(
        what, beside, agree(made["here"], made["there"]), **milliseconds,
        memory_here=memory["here"], memory_there=memory["there"],
    )  # fmt: skip


def table(found: Sequence[Comparison]) -> list[str]:
    lines = [
        "| what | beside | here, ms | there, ms | times as long there | pairs | answers | memory here, MB | there |",
        "|" + " --- |" * 9,
    ]
    for row in found:
        lines.append(
            f"| {row.what} | {row.beside} | {spread(row.here, 0)} | {spread(row.there, 0)} | {spread(row.times_here)} |"
            f" {len(row.here)} | {row.answers} | {row.memory_here / 1e6:.0f} | {row.memory_there / 1e6:.0f} |"
        )
    return lines
