"""What a job needs, and how long that takes on a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from logitfusion.plan.hardware import Gpu

# Of a process that computes with torch: its libraries on the card (context, workspaces) and in the machine's memory.
CONTEXT, PROCESS = 0.8e9, 4e9
# Shares of a sheet's numbers that are reached: of products, and of bandwidth while one token a row is computed.
PRODUCTS, READING = 0.4, 0.5


@dataclass(frozen=True)
class Work:
    """What one job computes on its cards together: floating-point operations, and bytes that decoding reads."""

    flops: float = 0.0
    reads: float = 0.0
    parallel: int = 1
    """Cards that compute at the same time; those that a model is parted among by layers take turns."""

    def seconds(self, gpu: Gpu) -> float | None:
        """On such cards; None where the card's numbers are not known."""
        if gpu.bandwidth is None or gpu.flops is None:
            return None
        return (self.flops / (PRODUCTS * gpu.flops) + self.reads / (READING * gpu.bandwidth)) / self.parallel

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.reads + other.reads, max(self.parallel, other.parallel))


@dataclass(frozen=True)
class Cost:
    """Of one job.

    Attributes:
        gpu: part -> bytes, on the fullest of its cards.
        cards: how many it has; without a GPU all of that is in the machine's memory.
        host: part -> bytes of the machine's memory, beside those of ``gpu`` where there is no card.
        disk: bytes that it leaves; None where that is not counted.
        scratch: bytes of the disk while it runs (checkpoints).
        work: what it computes; None where that is not counted.
    """

    gpu: Mapping[str, float] = field(default_factory=dict)
    cards: int = 1
    host: Mapping[str, float] = field(default_factory=lambda: {"process": PROCESS})
    disk: float | None = 0.0
    scratch: float = 0.0
    work: Work | None = None

    @property
    def gpu_bytes(self) -> float:
        """Of the fullest card."""
        return sum(self.gpu.values()) + (CONTEXT if self.gpu else 0.0)

    @property
    def host_bytes(self) -> float:
        """Of the machine's memory, with the GPUs that the job asks for."""
        return sum(self.host.values())

    @property
    def bytes_without_gpu(self) -> float:
        """Of the machine's memory where there is no GPU."""
        return self.host_bytes + self.cards * sum(self.gpu.values())


def largest(costs: list[Cost]) -> Cost:
    """The greatest need of several, which run one after the other in one job; their work is added up."""
    top = max(costs, key=lambda cost: cost.gpu_bytes)
    works = [cost.work for cost in costs if cost.work is not None]
    work = sum(works[1:], works[0]) if works else None
    return Cost(top.gpu, top.cards, max((c.host for c in costs), key=lambda host: sum(host.values())), work=work)
