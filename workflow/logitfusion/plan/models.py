"""Counting the models of a run by their configs: those of the hub, of folders, and those that are made here."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from logitfusion.config.methods import method_models, method_tasks, used_models
from logitfusion.config.models import HubModel, PathModel, PrunedModel, RandomModel
from logitfusion.config.run import RunConfig
from logitfusion.errors import UserError
from logitfusion.files import read_json
from logitfusion.models.load import load_tokenizer
from logitfusion.models.vocabulary import check_same_prefix, check_same_vocabulary
from logitfusion.plan.counted import Counted, Models, root
from logitfusion.plan.measure import measure, read_config
from logitfusion.plan.metadata import Checkpoint, ask_hub_for, fetch_tokenizer, read_folder, read_stored
from logitfusion.plan.saved import cut_layers
from logitfusion.plan.size import ModelSize

# Families pad their output layers to multiples of at most so many entries; whoever differs by more has other tokens.
_PADDING = 1024


def count_models(run: RunConfig, metadata: Path | None = None, results: Path = Path("results")) -> Models:
    """Count every model that a run uses.

    Args:
        metadata: a folder that describes models of the hub; without it the hub is asked.
        results: where an earlier run has made models that are not known otherwise.

    Raises:
        UserError: what is known to be wrong with a model before it is downloaded.
    """
    counted: dict[str, Counted] = {}
    unknown: dict[str, str] = {}
    used = [name for name in used_models(run) if name in run.models]
    for name in sorted(used, key=lambda name: isinstance(run.models[name], PrunedModel)):  # after those they are of
        found = _count(run, name, counted, metadata, results / run.run / "models" / name)
        if isinstance(found, str):
            unknown[name] = found
        else:
            counted[name] = found
    return Models(counted, unknown)


def _count(run: RunConfig, name: str, counted: dict[str, Counted], metadata: Path | None, made: Path) -> Counted | str:
    entry = run.models[name]
    match entry:
        case HubModel():
            checkpoint = ask_hub_for(entry.id, entry.revision) if metadata is None else read_stored(metadata, entry.id)
            return _counted(checkpoint.config, f"The model {entry.id!r} (revision {entry.revision})", checkpoint)
        case PathModel():
            checkpoint = read_folder(Path(entry.path), f"The model {name!r}")
            return _counted(checkpoint.config, f"The model {name!r} in {entry.path}", checkpoint)
        case RandomModel():
            return _counted(_random_config(entry), f"The model {name!r}")
        case PrunedModel() if entry.from_ in counted:
            return _counted(cut_layers(counted[entry.from_].config, len(entry.layers)), f"The model {name!r}")
        case PrunedModel():
            return f"it is a part of {entry.from_}"
    if (made / "config.json").is_file():
        return _counted(read_json(made / "config.json"), f"The model {name!r}")
    return "its package says nothing of it before it is downloaded"


def _counted(config: dict[str, Any], title: str, checkpoint: Checkpoint | None = None) -> Counted:
    return Counted(_measure(json.dumps(config, sort_keys=True), title), config, checkpoint)


@functools.lru_cache(maxsize=64)
def _measure(config: str, title: str) -> ModelSize:
    return measure(read_config(json.loads(config), title), title)


def _random_config(entry: RandomModel) -> dict[str, Any]:
    from logitfusion.models.source import random_config
    from logitfusion.models.tiny import tiny_tokenizer

    config = random_config(entry, tiny_tokenizer(pairs=entry.tokenizer == "pairs"))
    return config.to_dict()


# ---- what is known to be wrong ---------------------------------------------------------------------------------------
def refuse_other_vocabularies(run: RunConfig, models: Models) -> None:
    """Refuse a fusion whose models number their tokens differently, which would show after the experts are trained.

    Raises:
        UserError: names two models.
    """
    if run.fusion is None:
        return
    seen = set()
    for method in run.fusion.methods:
        for task in method_tasks(run, method):
            names = tuple(dict.fromkeys(root(run, name) for name in method_models(run, method, task)))
            if len(names) > 1 and names not in seen and all(name in models.counted for name in names):
                seen.add(names)
                _refuse_unlike({name: models.counted[name] for name in names})


def _refuse_unlike(counted: dict[str, Counted]) -> None:
    sizes = {name: model.size.vocabulary for name, model in counted.items()}
    least, most = min(sizes, key=sizes.get), max(sizes, key=sizes.get)
    if sizes[most] - sizes[least] > _PADDING:
        raise UserError(
            f"Models {least!r} and {most!r} can't be fused: their vocabularies differ ({sizes[least]} and"
            f" {sizes[most]} entries); use models of one family, or distil instead of fusing."
        )
    folders = {name: model.checkpoint and fetch_tokenizer(model.checkpoint) for name, model in counted.items()}
    if all(folders.values()):
        tokenizers = {name: load_tokenizer(folder) for name, folder in folders.items()}
        check_same_prefix(tokenizers)
        check_same_vocabulary(tokenizers)
