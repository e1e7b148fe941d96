"""The models of one fusion after another, of which only those that the next one needs stay in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from logitfusion.models.adapter_kinds import is_plain
from logitfusion.models.adapters import load_expert, load_sharing, refuse_no_expert
from logitfusion.models.checkpoint import find_base


class Opened(NamedTuple):
    """The models of a fusion, as ``FusedLM`` takes them."""

    large: PreTrainedModel
    base: PreTrainedModel | None
    experts: list[PreTrainedModel] | list[str]


class Models:
    """Opens models by name. Experts that are all plain LoRA of the fusion's base are read with it in one pass.

    Args:
        folders: of every model, by name.
        options: those of ``load_model``.

    Raises:
        UserError: a folder that holds no model and no adapter beside its base.
    """

    def __init__(self, folders: Mapping[str, Path], **options: Any) -> None:
        self.folders, self.options = dict(folders), options
        self._loaded: dict[str | tuple[str, ...], Any] = {}
        self._apart: set[tuple[str, ...]] = set()  # adapters that can't share their base
        for folder in self.folders.values():
            refuse_no_expert(folder)

    def open(self, names: Sequence[str]) -> Opened:
        """The models of a fusion: the large one, then the base and the experts, if there are any."""
        large, *others = names
        steering = tuple(others)
        if self._shares(steering):
            self._keep([large, steering])
            if self._loaded[steering] is not None:
                return Opened(self._loaded[large], *self._loaded[steering])
            self._apart.add(steering)
        self._keep(names)
        loaded = [self._loaded[name] for name in names]
        return Opened(loaded[0], loaded[1] if others else None, loaded[2:])

    def _shares(self, steering: tuple[str, ...]) -> bool:
        if len(steering) < 2 or steering in self._apart:
            return False
        base, *experts = (self.folders[name] for name in steering)
        named = [find_base(folder) for folder in experts]
        return all(one is not None and one.resolve() == base.resolve() for one in named) and all(map(is_plain, experts))

    def _keep(self, keys: Sequence[str | tuple[str, ...]]) -> None:
        self._loaded = {key: model for key, model in self._loaded.items() if key in keys}
        for key in keys:
            if key in self._loaded:
                continue
            if isinstance(key, tuple):
                base, *experts = (self.folders[name] for name in key)
                self._loaded[key] = load_sharing(base, experts, **self.options)
            else:
                self._loaded[key] = load_expert(self.folders[key], **self.options)
