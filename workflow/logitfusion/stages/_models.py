"""The models of a job: loaded in their precision, put on the job's GPUs, and kept from task to task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from logitfusion.config.loading import Loading
from logitfusion.models.cards import DeviceMap, free_memory, place_folders
from logitfusion.models.load import load_model


class JobModels:
    """Loads the models of one task after another; only those of the newest stay in memory.

    Args:
        folders: of all models, by name.
        loading: their precision and attention.
    """

    def __init__(self, folders: Mapping[str, Path], loading: Loading) -> None:
        self.folders, self.loading = folders, loading
        self.cards = free_memory()  # before anything is on them
        self._loaded: dict[str, tuple[DeviceMap | None, PreTrainedModel]] = {}

    def load(self, names: Sequence[str]) -> list[PreTrainedModel]:
        """The models of a task, the one that leads first.

        Raises:
            UserError: one that can't be loaded, or together they do not fit the job's GPUs.
        """
        maps = place_folders([self.folders[name] for name in names], self.cards, self.loading.dtype)
        places = dict(zip(names, maps, strict=True))
        # A model that is to be elsewhere beside others is loaded again.
        self._loaded = {name: kept for name, kept in self._loaded.items() if name in places and kept[0] == places[name]}
        for name, place in places.items():
            if name not in self._loaded:
                model = load_model(
                    self.folders[name], dtype=self.loading.dtype, device_map=place, attention=self.loading.attention
                )
                self._loaded[name] = (place, model)
        return [self._loaded[name][1] for name in names]
