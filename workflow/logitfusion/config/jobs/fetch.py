"""Slices of the config for downloads: what there is to fetch, and for whom."""

from __future__ import annotations

from typing import Any

from logitfusion.config.encoders import OpenClip, Preprocess, TimmAuxiliary, TorchvisionAuxiliary
from logitfusion.config.jobs.page import used_tasks
from logitfusion.config.methods import used_models
from logitfusion.config.models import HubModel
from logitfusion.config.packages import Package
from logitfusion.config.run import RunConfig
from logitfusion.config.section import one_of
from logitfusion.config.tasks import HubRows

CLIP = "clip"  # the name of the CLIP among encoders
FetchedEncoder = one_of("source", open_clip=OpenClip, timm=TimmAuxiliary, torchvision=TorchvisionAuxiliary)


def used_packages(run: RunConfig) -> list[Package]:
    """The packages of models and tasks that a track uses, and of few-shot CLIP."""
    owners: list[Any] = [run.models[name] for name in used_models(run) if name in run.models]
    owners += [run.tasks[name].definition.source for name in used_tasks(run)]
    if run.clip is not None:
        owners += [run.clip.encoder, *run.clip.auxiliaries.values(), *run.clip.datasets.values()]
    return [part for owner in owners for part in getattr(owner, "packages", ())]


def hub_models(run: RunConfig) -> dict[str, HubModel]:
    """The models of the hub, used or not."""
    return {name: entry for name, entry in run.models.items() if isinstance(entry, HubModel)}


def hub_rows(run: RunConfig) -> dict[str, HubRows]:
    """Task, used or not -> the data set of the hub that its rows are of, for tasks that have one."""
    sources = {name: task.definition.source for name, task in run.tasks.items()}
    return {name: source for name, source in sources.items() if isinstance(source, HubRows)}


def fetched_encoders(run: RunConfig) -> dict[str, Any]:
    """The encoders whose weights are downloaded, by name, without what downloads do not depend on."""
    if run.clip is None:
        return {}
    encoders = {CLIP: run.clip.encoder, **dict(sorted(run.clip.auxiliaries.items()))}
    return {name: _only_weights(entry) for name, entry in encoders.items() if _is_fetched(entry)}


def _is_fetched(entry: Any) -> bool:
    match entry:
        case TimmAuxiliary(pretrained=pretrained):
            return pretrained
        case OpenClip() | TorchvisionAuxiliary():
            return True
    return False


def _only_weights(entry: Any) -> Any:
    unused = {"pretraining": None, "preprocess": Preprocess()}
    return entry.model_copy(update={key: value for key, value in unused.items() if hasattr(entry, key)})
