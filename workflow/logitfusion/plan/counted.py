"""The models of a run whose numbers are known, as the config says they are used. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from logitfusion.config.experts import TrainedExpert
from logitfusion.config.models import HubModel, PathModel
from logitfusion.config.run import RunConfig
from logitfusion.plan.size import ModelSize

if TYPE_CHECKING:
    from logitfusion.plan.metadata import Checkpoint


@dataclass(frozen=True)
class Counted:
    """A model whose numbers are known.

    Attributes:
        size: its numbers; ``size.dtype`` is that of its weights in this run.
        config: what its ``config.json`` holds.
        checkpoint: where it comes from; None for what is made here.
    """

    size: ModelSize
    config: dict[str, Any]
    checkpoint: Checkpoint | None = None


class Models:
    """All models and experts of a run.

    Attributes:
        counted: name -> numbers of those that are known.
        unknown: name -> why a model's numbers are not known yet.
    """

    def __init__(self, counted: Mapping[str, Counted], unknown: Mapping[str, str]) -> None:
        self.counted, self.unknown = dict(counted), dict(unknown)

    def find(self, run: RunConfig, name: str) -> Counted | None:
        """The model behind a name, as a config says it is used: experts are of their base's numbers."""
        found = self.counted.get(root(run, name))
        if found is None:
            return None
        entry = run.models[root(run, name)]
        made = "auto" if isinstance(entry, (HubModel, PathModel)) else "float32"  # what is made here is in fp32
        dtype = made if entry.dtype == "auto" else entry.dtype
        return found if dtype == "auto" else replace(found, size=replace(found.size, dtype=dtype))


def root(run: RunConfig, name: str) -> str:
    """The model that an expert was trained from."""
    while name in run.experts:
        name = run.experts[name].base
    return name


def adapter_rank(run: RunConfig, name: str) -> int:
    """The rank of an expert that stays an adapter; 0 of one with all its weights, and of a model."""
    expert = run.experts.get(name)
    return expert.lora.rank if isinstance(expert, TrainedExpert) and expert.method == "lora" else 0
