"""Slices of the config for packages, models, tasks and experts."""

from __future__ import annotations

from logitfusion.config.experts import Expert, TrainedExpert
from logitfusion.config.methods import method_prompting, method_tasks
from logitfusion.config.models import Model
from logitfusion.config.run import RunConfig
from logitfusion.config.section import Listed
from logitfusion.config.tasks import Splits
from logitfusion.config.training import LoRA


class TaskJob(Splits):
    """Make a task's splits."""

    shots: bool
    """Whether examples for prompts are kept, unless a definition says that there are none."""
    library: Listed[str] = ()
    """SHA-256 of its definition and code in our library: none of the user's."""


def model_job(run: RunConfig, name: str) -> Model:
    """All of a model's entry."""
    return run.models[name]


def task_job(run: RunConfig, name: str) -> TaskJob:
    """A task, but not how prompts and texts are made of its documents, nor what is compared."""
    task = run.tasks[name]
    return TaskJob(**dict(task.part(Splits)), shots=has_shots(run, name), library=task.library)


def has_shots(run: RunConfig, name: str) -> bool:
    """Whether a task's documents come with examples for prompts: unless its entry says 0 and no method asks for some.

    Else it does not depend on what methods ask for: one with examples can be added, and no expert is trained anew.
    """
    tracks = [method_prompting(run, method) for method in decoding_methods(run, name)]
    tracks += [run.distill] if run.distill and name in run.distill.tasks else []
    return run.tasks[name].num_fewshot != 0 or any(track.num_fewshot for track in tracks)


def decoding_methods(run: RunConfig, task: str) -> list[str]:
    """The fusion methods that decode a task."""
    return [method for method in (run.fusion.methods if run.fusion else ()) if task in method_tasks(run, method)]


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
