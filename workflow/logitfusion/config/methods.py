"""What a fusion method means for each task: its models, its tasks, and the tasks that share one tuning."""

from __future__ import annotations

from collections.abc import Sequence

from logitfusion.config.experts import MergedExpert, TrainedExpert
from logitfusion.config.fusion import SingleMethod, SteeredMethod
from logitfusion.config.models import PrunedModel
from logitfusion.config.prompting import Prompting
from logitfusion.config.run import RunConfig
from logitfusion.config.tasks import HarnessTask


def expand(names: Sequence[str], task: str) -> list[str]:
    """Names of models with ``{task}`` replaced by the task's name."""
    return [name.replace("{task}", task) for name in names]


def method_tasks(run: RunConfig, method: str) -> list[str]:
    """The tasks that a method decodes: those it names, else all for which its ``{task}`` experts exist."""
    tasks = run.fusion.methods[method].tasks
    if tasks is not None:
        return list(tasks)
    known = run.models.keys() | run.experts.keys()
    return [task for task in measured_tasks(run) if set(method_models(run, method, task)) <= known]


def task_methods(run: RunConfig) -> dict[str, list[str]]:
    """The methods that decode each task, in the config's order; tasks that none decodes are left out."""
    decoded = {method: method_tasks(run, method) for method in run.fusion.methods}
    found = {task: [method for method, tasks in decoded.items() if task in tasks] for task in run.tasks}
    return {task: methods for task, methods in found.items() if methods}


def measured_tasks(run: RunConfig) -> list[str]:
    """The tasks that can be evaluated; the others are texts to learn from."""
    return [name for name, task in run.tasks.items() if isinstance(task, HarnessTask)]


def answered_tasks(run: RunConfig) -> list[str]:
    """The tasks that students answer, those of the track that can be evaluated."""
    measured = measured_tasks(run)
    return [task for task in run.distill.tasks if task in measured]


def evaluated_tasks(run: RunConfig) -> list[str]:
    """The tasks that students answer while they are trained."""
    measured = measured_tasks(run)
    return [task for task in run.distill.training.evaluate if task in measured]


def method_models(run: RunConfig, method: str, task: str) -> list[str]:
    """Every model that decoding a task with a method needs, the one that leads first."""
    entry = run.fusion.methods[method]
    if isinstance(entry, SingleMethod):
        return expand([entry.model], task)
    return [run.fusion.large, method_base(run, method), *expand(entry.experts, task)]


def method_base(run: RunConfig, method: str) -> str:
    """The small base of a steered method."""
    return run.fusion.methods[method].base or run.fusion.base


def method_prompting(run: RunConfig, method: str) -> Prompting:
    """How a method puts documents to its models."""
    return run.fusion.methods[method].complete(run.fusion)


def method_batch_size(run: RunConfig, method: str) -> int | str:
    """How many prompts a method computes together, or auto."""
    return run.fusion.methods[method].batch_size or run.fusion.batch_size


def method_gpus(run: RunConfig, method: str) -> int:
    """GPUs of a job of a method."""
    return run.fusion.methods[method].gpus or run.fusion.gpus


def tuned_methods(run: RunConfig) -> list[str]:
    """The methods whose trust and anchor are chosen, or whose gate is fitted, on validation data."""
    entries = run.fusion.methods.items()
    tuned = [name for name, entry in entries if isinstance(entry, SteeredMethod) and entry.tune is not None]
    return [name for name in tuned if method_tasks(run, name)]


def fitted_methods(run: RunConfig) -> list[str]:
    """Those of the tuned methods whose gate is fitted there."""
    return [name for name in tuned_methods(run) if run.fusion.methods[name].rule == "gate"]


def method_gate(run: RunConfig, method: str) -> list[str]:
    """The file of a gate that a method was given, if any."""
    gate = getattr(run.fusion.methods[method], "gate", None)
    return [gate] if isinstance(gate, str) else []


def steering_experts(run: RunConfig) -> list[str]:
    """All experts that steer a task, in the order of methods; it fixes their colours in the report.

    Those of a method's tasks are sorted: the order of tasks in a config means nothing.
    """
    entries = run.fusion.methods.items() if run.fusion else ()
    steered = {name: entry for name, entry in entries if isinstance(entry, SteeredMethod)}
    pairs = [(entry, task) for name, entry in steered.items() for task in sorted(method_tasks(run, name))]
    return list(dict.fromkeys(expert for entry, task in pairs for expert in expand(entry.experts, task)))


def fixed_rival(run: RunConfig) -> str | None:
    """The method that solved weights must beat: the best fixed weight on validation, else one that is fixed.

    Of several the first by name: the order of methods changes no number.
    """
    steered = {name: entry for name, entry in run.fusion.methods.items() if isinstance(entry, SteeredMethod)}
    chosen = [name for name, entry in steered.items() if entry.tune is not None and set(entry.tune.trusts) == {0.0}]
    fixed = [name for name, entry in steered.items() if entry.weights != "dynamic"]
    return min(chosen or fixed, default=None)


def solved_methods(run: RunConfig) -> dict[str, SteeredMethod]:
    """The methods whose weights are solved at every token, and neither tuned nor learnt."""
    steered = {name: entry for name, entry in run.fusion.methods.items() if isinstance(entry, SteeredMethod)}
    return {
        name: entry
        for name, entry in steered.items()
        if entry.weights == "dynamic" and entry.tune is None and entry.rule != "gate"
    }


def paper_rules(run: RunConfig) -> tuple[str | None, str | None]:
    """The methods that are the paper's rule, with one expert and with several.

    Of several the first by name, solved on the paper's grid if any is: the order of methods changes no number.
    """
    solved = sorted(solved_methods(run).items(), key=lambda pair: (pair[1].rule != "grid", pair[0]))
    one = [name for name, entry in solved if len(entry.experts) == 1]
    several = [name for name, entry in solved if len(entry.experts) > 1 and entry.selection == "one_hot"]
    return next(iter(one), None), next(iter(several), None)


def tuning_groups(run: RunConfig, method: str) -> list[list[str]]:
    """The tasks of a tuned method that share one choice.

    Experts of a task (``{task}``) are tuned for it; experts that serve all tasks are tuned once, on the tasks that they
    were trained on, because the others represent those that nobody has validation data of.
    """
    experts, tasks = run.fusion.methods[method].experts, method_tasks(run, method)
    if any("{task}" in name for name in experts):
        return [[task] for task in tasks]
    trained = {task for name in experts for task in _trained_on(run, name)}
    return [[task for task in tasks if task in trained] or tasks]


def seen_tasks(run: RunConfig) -> list[str]:
    """The tasks that an expert was trained on, in the config's order."""
    trained = {task for name in run.experts for task in _trained_on(run, name)}
    return [task for task in run.tasks if task in trained]


def used_models(run: RunConfig) -> list[str]:
    """The models and experts that a track needs, and what those are made from; nothing else is built.

    Returns:
        Names in the config's order, models first.
    """
    wanted: set[str] = set()
    if run.fusion:
        pairs = ((name, task) for name in run.fusion.methods for task in method_tasks(run, name))
        wanted.update(*(method_models(run, name, task) for name, task in pairs))
    if run.distill:
        wanted |= {run.distill.student, *(teacher.model for teacher in run.distill.teachers.values())}
    experts = {name: expert for name, expert in run.experts.items() if name in wanted}
    wanted.update(*(expert.merge for expert in experts.values() if isinstance(expert, MergedExpert)))
    wanted |= {expert.base for expert in experts.values()}  # those that are merged have the same base
    wanted |= {model.from_ for name, model in run.models.items() if name in wanted and isinstance(model, PrunedModel)}
    return [name for name in (*run.models, *run.experts) if name in wanted]


def steered_tasks(run: RunConfig) -> list[str]:
    """The tasks that a steered method decodes: those of which there are weights to look at."""
    steered = [name for name, entry in run.fusion.methods.items() if isinstance(entry, SteeredMethod)]
    decoded = {task for name in steered for task in method_tasks(run, name)}
    return [task for task in run.tasks if task in decoded]


def trained_models(run: RunConfig) -> list[str]:
    """The models and experts that are used and have a loss curve, healed ones first."""
    used = used_models(run)
    healed = [name for name in used if isinstance(run.models.get(name), PrunedModel) and run.models[name].heal]
    return healed + [name for name in used if isinstance(run.experts.get(name), TrainedExpert)]


def _trained_on(run: RunConfig, name: str) -> list[str]:
    expert = run.experts.get(name)
    if isinstance(expert, MergedExpert):
        return [task for part in expert.merge for task in _trained_on(run, part)]
    return [] if expert is None else list(expert.tasks)
