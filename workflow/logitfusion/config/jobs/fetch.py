"""Slices of the config for downloads: what there is to fetch, and for whom."""

from __future__ import annotations

from typing import Any

from logitfusion.config.encoders import OpenClip, Preprocess, TimmAuxiliary, TorchvisionAuxiliary
from logitfusion.config.jobs.models import has_shots
from logitfusion.config.jobs.page import used_tasks
from logitfusion.config.methods import used_models
from logitfusion.config.models import HubModel
from logitfusion.config.packages import Package
from logitfusion.config.run import RunConfig
from logitfusion.config.section import one_of
from logitfusion.config.tasks import Definition, HarnessTask

CLIP = "clip"  # the name of the CLIP among encoders
FetchedEncoder = one_of("source", open_clip=OpenClip, timm=TimmAuxiliary, torchvision=TorchvisionAuxiliary)


def used_packages(run: RunConfig) -> list[Package]:
    """The packages of models and tasks that a track uses, and of few-shot CLIP."""
    owners: list[Any] = [run.models[name] for name in used_models(run) if name in run.models]
    owners += [run.tasks[name] for name in used_tasks(run)]
    if run.clip is not None:
        owners += [run.clip.encoder, *run.clip.auxiliaries.values(), *run.clip.datasets.values()]
    return [part for owner in owners for part in getattr(owner, "packages", ())]


def hub_models(run: RunConfig) -> dict[str, HubModel]:
    """The models of the hub, used or not."""
    return {name: entry for name, entry in run.models.items() if isinstance(entry, HubModel)}


class DataJob(Definition):
    """Download the documents of a task."""

    train: bool
    """Whether it has documents to learn from."""
    validation: bool
    """Whether it has documents for choosing anything."""
    shots: bool
    """Whether examples for prompts are kept, unless a definition says that there are none."""


def fetched_tasks(run: RunConfig) -> dict[str, DataJob]:
    """The tasks of the harness, used or not, whose documents are on the hub."""
    tasks = {name: task for name, task in run.tasks.items() if isinstance(task, HarnessTask) and task.fetched}
    return {name: _data_job(run, name, task) for name, task in tasks.items()}


def _data_job(run: RunConfig, name: str, task: HarnessTask) -> DataJob:
    used = {"train": task.train > 0, "validation": task.validation > 0, "shots": has_shots(run, name)}
    return DataJob(**dict(task.part(Definition)), **used)


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
