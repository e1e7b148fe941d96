"""The models of one fusion after another, of which only those that the next one needs stay in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.loading import Loading
from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.fusion.ends import folder_ends
from logitfusion.fusion.opening import Opened
from logitfusion.fusion.prompts import PromptMemory
from logitfusion.models.adapter_kinds import is_plain
from logitfusion.models.adapters import load_expert, load_sharing, refuse_no_expert
from logitfusion.models.checkpoint import find_base
from logitfusion.models.device_maps import DeviceMap, free_memory, place_folders
from logitfusion.models.vocabulary import load_shared_tokenizer

# A model, or a base with the adapters that share it.
_Key = str | tuple[str, ...]


class Models:
    """Opens models by name. Experts that are all plain LoRA of the fusion's base are read with it in one pass.

    They are parted among the GPUs that the job has, see ``models.placement``.

    Args:
        folders: of every model, by name.
        loading: their precision and attention.

    Raises:
        UserError: a folder that holds no model and no adapter beside its base.
    """

    def __init__(self, folders: Mapping[str, Path], loading: Loading) -> None:
        self.folders, self.loading = dict(folders), loading
        self._loaded: dict[_Key, tuple[DeviceMap | None, Any]] = {}
        self._apart: set[tuple[str, ...]] = set()  # adapters that can't share their base
        for folder in self.folders.values():
            refuse_no_expert(folder)
        self._cards = free_memory()  # before anything is on them

    def open(self, names: Sequence[str]) -> Opened:
        """The models of a fusion: the large one, then the base and the experts, if there are any.

        Raises:
            UserError: they can't be loaded, or do not fit the GPUs.
        """
        large, *others = names
        steering = tuple(others)
        if self._shares(steering):
            first, sharing = self._keep([large, steering])
            if sharing is not None:
                return Opened(first, *sharing)
            self._apart.add(steering)
        loaded = self._keep(names)
        return Opened(loaded[0], loaded[1] if others else None, loaded[2:])

    def _shares(self, steering: tuple[str, ...]) -> bool:
        if len(steering) < 2 or steering in self._apart:
            return False
        base, *experts = (self.folders[name] for name in steering)
        named = [find_base(folder) for folder in experts]
        return all(one is not None and one.resolve() == base.resolve() for one in named) and all(map(is_plain, experts))

    def _keep(self, keys: Sequence[_Key]) -> list[Any]:
        """What the keys name, loaded; nothing else stays. A model that is to be elsewhere now is loaded again."""
        measured = [self.folders[key[0] if isinstance(key, tuple) else key] for key in keys]
        maps = place_folders(measured, self._cards, self.loading.dtype)
        places = dict(zip(keys, maps, strict=True))
        kept = self._loaded.items()
        self._loaded = {key: held for key, held in kept if key in places and held[0] == places[key]}
        for key, place in places.items():
            if key not in self._loaded:
                self._loaded[key] = (place, self._load(key, place))
        return [self._loaded[key][1] for key in keys]

    def _load(self, key: _Key, place: DeviceMap | None) -> Any:
        options = {"dtype": self.loading.dtype, "attention": self.loading.attention, "device_map": place}
        if isinstance(key, str):
            return load_expert(self.folders[key], **options)
        base, *experts = (self.folders[name] for name in key)
        return load_sharing(base, experts, **options)


class Fusions:
    """Several fusions, one after another, with the tokenizer and the ends that their models share.

    Args:
        folders: of every model, named by it.
        loading: their precision and attention.
        wanted: the names of the models of each, the one that leads first.

    Raises:
        UserError: a model whose folder is not given, or what ``Models`` refuses.
    """

    def __init__(self, folders: Sequence[Path], loading: Loading, wanted: Iterable[Sequence[str]]) -> None:
        named = {path.name: path for path in folders}
        distinct = dict.fromkeys(map(tuple, wanted))
        if missing := sorted({name for names in distinct for name in names} - named.keys()):
            raise UserError(f"The models {', '.join(missing)} are needed, which the command line does not give.")
        self.models, self.memory = Models(named, loading), PromptMemory()
        paths = {names: [named[name] for name in names] for names in distinct}
        self._shared = {names: load_shared_tokenizer(some) for names, some in paths.items()}
        self._ends = {names: folder_ends(some) for names, some in paths.items()}

    def open(self, names: Sequence[str], options: FusionOptions) -> FusedLM:
        """The fusion of some of the models, which remembers prompts that others put to them."""
        names = tuple(names)
        tokenizer, entries = self._shared[names]
        opened, ends = self.models.open(names), self._ends[names]
        return FusedLM(*opened, tokenizer=tokenizer, entries=entries, options=options, ends=ends, memory=self.memory)
