"""Slices of the config for packages, models, tasks and experts."""

from __future__ import annotations

from logitfusion.config.experts import Expert, TrainedExpert
from logitfusion.config.models import Model
from logitfusion.config.run import RunConfig
from logitfusion.config.tasks import HarnessTask, Splits
from logitfusion.config.training import LoRA


class TaskJob(Splits):
    """Make a task's splits."""

    shots: bool | None
    """Whether prompts may hold examples, which are kept then. Null: as the definition says."""


def model_job(run: RunConfig, name: str) -> Model:
    """All of a model's entry."""
    return run.models[name]


def task_job(run: RunConfig, name: str) -> TaskJob:
    """A task, but not how prompts and texts are made of its documents, nor what is compared."""
    task = run.tasks[name]
    return TaskJob(**dict(task.part(Splits)), shots=has_shots(run, task))


def has_shots(run: RunConfig, task: HarnessTask) -> bool | None:
    """Whether a prompt of a task may hold examples; None where its definition alone says."""
    fusion = [run.fusion, *run.fusion.methods.values()] if run.fusion else []
    if any(entry.num_fewshot for entry in (*fusion, run.distill) if entry is not None):
        return True
    return None if task.num_fewshot is None else task.num_fewshot > 0


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
