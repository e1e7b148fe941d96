"""The papers' configs at sizes of minutes: the same models, tasks, experts and methods, few of everything else."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from checkout import ROOT

PAPERS = ROOT / "config/paper"
NAMES = sorted(path.stem for path in PAPERS.glob("*.yaml"))
ONE_CARD = sorted(path.stem for path in (PAPERS / "one-card").glob("*.yaml"))
"""Of these there is a second file, which is read after the first."""

_TRAINING = {"epochs": None, "steps": 2, "batch_size": 4, "micro_batch": 4, "max_tokens": 256}
_ONE_PROCESS = {"processes": 1, "sharded": False}
_ALONE = {"gpus": 1, "batch_size": 8}


def read(name: str) -> dict[str, Any]:
    """A config as it is written."""
    return yaml.safe_load((PAPERS / f"{name}.yaml").read_text(encoding="utf-8"))


def shrink(config: dict[str, Any]) -> dict[str, Any]:
    """The same config, small."""
    small = deepcopy(config) | {"evaluate": config.get("evaluate", {}) | {"resamples": 100}}
    for task in small.get("tasks", {}).values():
        _shrink_task(task)
    for expert in small.get("experts", {}).values():
        if "merge" not in expert:
            expert |= _TRAINING | _ONE_PROCESS
    if fusion := small.get("fusion"):
        fusion |= _ALONE | {"shards": 1}
        for method in fusion["methods"].values():
            method.pop("gpus", None)
            method.pop("batch_size", None)
    if distill := small.get("distill"):
        distill |= _ALONE | {"cache": distill["cache"] | {"shards": 1, "batch_size": 4, "max_tokens": 256}}
        distill["training"] |= _TRAINING | _ONE_PROCESS
    if clip := small.get("clip"):
        clip |= {"shots": [1], "seeds": [0], "views": 2, "batch_size": 16}
    return small


def _shrink_task(task: dict[str, Any]) -> None:
    for split, most in (("train", 16), ("validation", 4)):
        if split in task:
            task[split] = min(task[split], most)
    if "harness" in task:
        task |= {"test": 2, "generation_kwargs": {"max_gen_toks": 8}}


def names_of(config: Any, key: str) -> Iterator[str]:
    """All values of a key, wherever it is."""
    if isinstance(config, dict):
        yield from (value for name, value in config.items() if name == key and isinstance(value, str))
    inner = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for value in inner:
        yield from names_of(value, key)


def write_small(folder: Path, name: str) -> str:
    """A small config in a checkout; its path there."""
    path = f"config/small-{name}.yaml"
    (folder / path).write_text(yaml.safe_dump(shrink(read(name)), sort_keys=False), encoding="utf-8")
    return path
