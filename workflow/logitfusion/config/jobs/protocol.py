"""What of a config a comparison freezes, and what a job that decodes a test split knows of it."""

from __future__ import annotations

from typing import Any

from logitfusion.config.clip import Clip
from logitfusion.config.distill import Cache, Distill
from logitfusion.config.fusion import Fusion, SingleMethod, SteeredMethod
from logitfusion.config.names import fewshot_method
from logitfusion.config.protocol import Standing
from logitfusion.config.run import RunConfig
from logitfusion.config.section import Section, Sha256
from logitfusion.config.training import PLACEMENT, Training

# What is not frozen: which split is decoded, where and in how large pieces it is computed, what the report shows.
# A batch of a training is no such piece: it is part of the recipe.
_COMPUTING = frozenset({"gpus", "shards", "batch_size", "speculative"})
_FREE: dict[type[Section], frozenset[str]] = {
    RunConfig: frozenset({"run", "report", "protocol"}),
    Fusion: _COMPUTING | {"split"},
    SingleMethod: _COMPUTING,
    SteeredMethod: _COMPUTING,
    Distill: _COMPUTING | {"split"},
    Cache: _COMPUTING,
    Training: PLACEMENT,
    Clip: _COMPUTING | {"shown"},
}


class ProtocolJob(Section):
    """The protocol of a job that decodes a test split."""

    comparison: str
    run: str
    frozen: str
    """Where the comparison is frozen."""
    records: str
    """The folder that remembers what was decoded."""
    digest: Sha256
    """Of all that decides this run's answers."""
    exploratory: bool


def frozen_values(run: RunConfig) -> dict[str, Any]:
    """All values of a config that decide answers on test splits and how they are compared, defaults written out.

    Keys are those of the config; lists are as in JSON.
    """
    values = _plain(run)
    for name in run.clip.methods if run.clip else ():
        method, settings = fewshot_method(run.clip, name)
        values["clip"]["methods"][name] = {"method": method.name} | settings.dump()
    return values


def _plain(value: Any) -> Any:
    match value:
        case Section():
            free = frozenset().union(*(names for kind, names in _FREE.items() if isinstance(value, kind)))
            fields = {name: field.alias or name for name, field in type(value).model_fields.items() if name not in free}
            return {key: _plain(getattr(value, name)) for name, key in fields.items()}
        case dict():
            return {key: _plain(inner) for key, inner in value.items()}
        case tuple() | list():
            return [_plain(inner) for inner in value]
    return value


def standing(run: RunConfig, split: str = "test") -> Standing | None:
    """What answers on a split are; None for validation, and of a run without a protocol."""
    return run.protocol.standing if run.protocol is not None and split == "test" else None


def confirmed_comparison(run: RunConfig, split: str = "test") -> str | None:
    """The comparison that answers on a split confirm, if they do.

    It is part of their jobs' slices: what was decoded before anything was frozen is decoded again, and checked.
    """
    return run.protocol.comparison if standing(run, split) == "confirmatory" else None


def tested_tracks(run: RunConfig) -> list[str]:
    """The tracks that decode a test split."""
    splits = {"fusion": run.fusion and run.fusion.split, "distill": run.distill and run.distill.split}
    return [track for track, split in splits.items() if split == "test"] + (["clip"] if run.clip else [])
