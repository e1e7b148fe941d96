"""Slices of the config for packages, models, tasks and experts."""

from __future__ import annotations

from logitfusion.config.experts import Expert, TrainedExpert
from logitfusion.config.models import Model
from logitfusion.config.run import RunConfig
from logitfusion.config.section import Count, Section, Whole
from logitfusion.config.tasks import Examples
from logitfusion.config.training import LoRA


class TaskJob(Section):
    """Make a task's splits."""

    definition: Examples
    train: Whole
    validation: Whole
    test: Count


def model_job(run: RunConfig, name: str) -> Model:
    """All of a model's entry."""
    return run.models[name]


def task_job(run: RunConfig, name: str) -> TaskJob:
    """A task, but not how texts are generated from its examples, nor what the share of right ones is called."""
    task = run.tasks[name]
    sizes = {"train": task.train, "validation": task.validation, "test": task.test}
    return TaskJob(definition=task.definition.part(Examples), **sizes)


def expert_job(run: RunConfig, name: str) -> Expert:
    """An expert, without the settings of LoRA where it is trained in full."""
    expert = run.experts[name]
    if isinstance(expert, TrainedExpert) and expert.method == "full":
        expert = expert.model_copy(update={"lora": LoRA()})
    return expert


def expert_processes(run: RunConfig, name: str) -> int:
    """Processes that train an expert, a GPU each; none of one that is merged."""
    expert = run.experts[name]
    return expert.processes if isinstance(expert, TrainedExpert) else 0


def healing_processes(run: RunConfig, name: str) -> int:
    """Processes that heal a model, a GPU each; none of one that is not healed."""
    heal = getattr(run.models[name], "heal", None)
    return heal.processes if heal is not None else 0
