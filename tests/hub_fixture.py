"""A hub on loopback that this process's libraries ask, and empty caches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pytest
from hub_standin import Hub, serve
from huggingface_hub import HfFileSystem, constants

from logitfusion.fetch import hub as client


@contextmanager
def ask_standin(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Hub]:
    """A hub without repositories; its caches are in ``folder``."""
    patch.setenv("no_proxy", "*")
    patch.delenv("HF_TOKEN", raising=False)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    patch.setattr(constants, "HF_ASSETS_CACHE", str(folder / "assets"))
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "datasets"))
    patch.setattr(client, "_silence", None)
    HfFileSystem.clear_instance_cache()
    client._new_name.cache_clear()
    datasets.disable_progress_bars()
    with serve() as hub:
        url = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "ENDPOINT", hub.address)
        patch.setattr(datasets.config, "HF_ENDPOINT", hub.address)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        yield hub
    HfFileSystem.clear_instance_cache()
