"""Names that one section uses of another: whether they exist, and whether what they name fits."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

from logitfusion.clip.methods import METHODS, FewShotMethod, FewShotSettings, complete_settings
from logitfusion.config.clip import Clip
from logitfusion.config.encoders import BuiltClip
from logitfusion.config.errors import explain, explain_number, is_scientific, refer
from logitfusion.config.experts import MergedExpert, TrainedExpert
from logitfusion.config.fusion import SteeredMethod
from logitfusion.config.methods import (
    answered_tasks,
    evaluated_tasks,
    expand,
    fitted_methods,
    measured_tasks,
    method_base,
    method_models,
    method_prompting,
    method_tasks,
    tuning_groups,
)
from logitfusion.config.models import PrunedModel
from logitfusion.config.run import RunConfig
from logitfusion.errors import UserError


def check(run: RunConfig) -> None:
    """Check all names of a config.

    Raises:
        UserError: a name that refers to nothing, or to something that can't be used there.
    """
    for key in ("models", "tasks"):
        if (run.fusion or run.distill) and not getattr(run, key):
            raise UserError(f"The config lacks the key {key!r}, which fusion and distill need; add it.")
    _check_case(run)
    both = run.models.keys() & run.experts.keys()
    if both:
        raise UserError(f"The name {min(both)!r} is used for a model and for an expert; rename one.")
    _check_models(run)
    _check_experts(run)
    if not (run.fusion or run.distill or run.clip):
        raise UserError("The config asks for nothing: give it a section fusion, distill or clip, or several.")
    if run.fusion:
        _check_fusion(run)
    if run.distill:
        _check_distill(run)
    if run.clip:
        _check_clip(run.clip)
    _check_packages(run)


def _check_case(run: RunConfig) -> None:
    """Names are those of folders, and a file system that does not tell capitals apart has one for both."""
    named: dict[str, Iterable[str]] = {
        "models and experts": [*run.models, *run.experts],
        "tasks": run.tasks,
        "fusion.methods": run.fusion.methods if run.fusion else (),
        "distill.teachers": run.distill.teachers if run.distill else (),
        "distill.methods": run.distill.methods if run.distill else (),
    }
    if run.clip:
        named |= {f"clip.{key}": getattr(run.clip, key) for key in ("auxiliaries", "datasets", "methods")}
    for key, names in named.items():
        seen: dict[str, str] = {}
        for name in names:
            other = seen.setdefault(name.casefold(), name)
            if other != name:
                raise UserError(
                    f"Of {key}, {other!r} and {name!r} differ in capitals only, and some file systems have one folder"
                    " for both; rename one."
                )


def _check_models(run: RunConfig) -> None:
    for name, model in run.models.items():
        if not isinstance(model, PrunedModel):
            continue
        refer(model.from_, run.models, f"models.{name}.from", "model")
        if isinstance(run.models[model.from_], PrunedModel):
            raise UserError(f"Config key 'models.{name}.from' names a pruned model; prune the whole one instead.")
        for task in model.heal.tasks if model.heal else ():
            refer(task, run.tasks, f"models.{name}.heal.tasks", "task")
            if run.tasks[task].train == 0:
                raise UserError(f"Model {name!r} is healed on task {task!r}, whose train size is 0; raise it.")


def _check_experts(run: RunConfig) -> None:
    trained = {name for name, expert in run.experts.items() if isinstance(expert, TrainedExpert)}
    for name, expert in run.experts.items():
        refer(expert.base, run.models, f"experts.{name}.base", "model")
        if isinstance(expert, MergedExpert):
            for part in expert.merge:
                refer(part, trained, f"experts.{name}.merge", "trained expert")
                if run.experts[part].base != expert.base:
                    raise UserError(
                        f"Expert {name!r} merges {part!r}, which has another base; merge experts of one base."
                    )
            continue
        for task in expert.tasks:
            refer(task, run.tasks, f"experts.{name}.tasks", "task")
            if run.tasks[task].train == 0:
                raise UserError(f"Expert {name!r} is trained on task {task!r}, whose train size is 0; raise it.")


def _check_fusion(run: RunConfig) -> None:
    fusion = run.fusion
    refer(fusion.large, run.models, "fusion.large", "model")
    refer(fusion.base, run.models, "fusion.base", "model")
    for name, method in fusion.methods.items():
        _check_prompting(run, name)
        if isinstance(method, SteeredMethod) and method.base is not None:
            refer(method.base, run.models, f"fusion.methods.{name}.base", "model")
        for task in method.tasks or ():
            refer(task, run.tasks, f"fusion.methods.{name}.tasks", "task")
            if task not in measured_tasks(run):
                raise UserError(
                    f"Method {name!r} decodes {task!r}, which are texts to learn from; leave it out of tasks."
                )
        for task in method_tasks(run, name) or list(run.tasks):
            for model in method_models(run, name, task):
                refer(model, run.models.keys() | run.experts.keys(), f"fusion.methods.{name}", "model or expert")
            if isinstance(method, SteeredMethod):
                _check_bases(run, name, expand(method.experts, task))
        if isinstance(method, SteeredMethod) and method.tune is not None:
            for task in (task for group in tuning_groups(run, name) for task in group):
                if run.tasks[task].validation == 0:
                    raise UserError(f"Method {name!r} is tuned on task {task!r}, whose validation size is 0; raise it.")
    for name in fitted_methods(run):
        if fusion.split == "validation":
            raise UserError(
                f"Method {name!r} is fitted on the validation split, which is the one that is decoded; set fusion.split"
                " to test, or give the method the gate of another run."
            )
    decoded = [task for name in fusion.methods for task in method_tasks(run, name)]
    _check_split(run, "fusion", fusion.split, decoded)
    for key in ("base", "ceiling"):
        if (end := getattr(run.evaluate, key)) is not None:
            refer(end, fusion.methods, f"evaluate.{key}", "fusion method")


def _check_split(run: RunConfig, track: str, split: str, tasks: list[str]) -> None:
    """No track is scored on an empty split."""
    for task in tasks:
        if split == "validation" and run.tasks[task].validation == 0:
            raise UserError(
                f"Config key '{track}.split' is validation, and task {task!r} has none; raise its validation size."
            )


def _check_bases(run: RunConfig, method: str, experts: list[str]) -> None:
    for name in experts:
        base = method_base(run, method)
        if name in run.experts and run.experts[name].base != base:
            own = run.fusion.methods[method].base is not None
            key = f"fusion.methods.{method}.base" if own else "fusion.base"
            raise UserError(
                f"Method {method!r} steers with {name!r}, an expert of {run.experts[name].base!r} and not of"
                f" {key} ({base!r}); use experts of that base, or give the method the base of its own."
            )


def _check_prompting(run: RunConfig, method: str) -> None:
    """What a method says otherwise fits what the track says."""
    try:
        method_prompting(run, method)
    except ValidationError as error:
        raise UserError(explain(error, name=lambda key: f"Config key 'fusion.methods.{method}.{key}'")) from None


def _check_distill(run: RunConfig) -> None:
    distill, known = run.distill, run.models.keys() | run.experts.keys()
    refer(distill.student, known, "distill.student", "model or expert")
    for task in distill.tasks:
        refer(task, run.tasks, "distill.tasks", "task")
    if not any(run.tasks[task].train for task in distill.tasks):
        named = ", ".join(map(repr, distill.tasks))
        raise UserError(
            f"Students are trained on {named}, whose train size is 0; raise it, or add a task to learn from."
        )
    if not answered_tasks(run):
        raise UserError("distill.tasks are texts to learn from only; add a task that students answer.")
    _check_split(run, "distill", distill.split, answered_tasks(run))
    for name, teacher in distill.teachers.items():
        refer(teacher.model, known, f"distill.teachers.{name}.model", "model or expert")
    _check_monitoring(run)
    if distill.baseline is not None:
        refer(distill.baseline, distill.methods, "distill.baseline", "distillation method")
    for name, method in distill.methods.items():
        for teacher in method.teachers:
            refer(teacher, distill.teachers, f"distill.methods.{name}.teachers", "teacher")


def _check_monitoring(run: RunConfig) -> None:
    monitoring, key = run.distill.training, "distill.training.evaluate"
    for task in monitoring.evaluate:
        refer(task, run.tasks, key, "task")
        if run.tasks[task].validation == 0:
            raise UserError(f"Config key {key!r} names task {task!r}, whose validation size is 0; raise it.")
    if monitoring.best_by == "metric" and not evaluated_tasks(run):
        raise UserError(
            f"Config key 'distill.training.best_by' is metric, and {key} names texts to learn from only; name a task"
            " that is answered, or say loss."
        )


def _check_clip(clip: Clip) -> None:
    origins = {name for name, entry in clip.datasets.items() if entry.shift_of is None}
    if isinstance(clip.encoder, BuiltClip):
        emoji = {name for name in origins if clip.datasets[name].source == "emoji"}
        refer(clip.encoder.pairs, emoji, "clip.encoder.pairs", "emoji data set")
    for name, entry in clip.datasets.items():
        if entry.shift_of is not None:
            refer(entry.shift_of, origins, f"clip.datasets.{name}.shift_of", "data set (no shifted one)")
    for name in clip.methods:
        method, settings = fewshot_method(clip, name)
        if method.reads_auxiliary(settings) and not clip.auxiliaries:
            raise UserError(f"Method {name!r} needs an auxiliary encoder; name one in clip.auxiliaries.")
    for key in ("baselines", "oracle"):
        for name in getattr(clip, key):
            refer(name, clip.methods, f"clip.{key}", "few-shot method of this config")
    if clip.shown is not None:
        refer(clip.shown, clip.methods, "clip.shown", "few-shot method of this config")
    for name in clip.oracle:
        if not fewshot_method(clip, name)[0].by_epochs:
            raise UserError(f"Config key 'clip.oracle' names {name!r}, which is not trained by epochs; leave it out.")


def fewshot_method(clip: Clip, name: str) -> tuple[FewShotMethod, FewShotSettings]:
    """The few-shot method behind a name of the config, and all of its settings.

    Raises:
        UserError: there is no such method, it has no such setting, or a number was read as text.
    """
    where, entry = f"clip.methods.{name}", clip.methods[name]
    method = entry.method or name
    refer(method, METHODS, where, "few-shot method")
    for key, value in entry.settings.items():
        if is_scientific(value):
            raise UserError(explain_number(f"Config key '{where}.{key}'", value))
    try:
        return METHODS[method], complete_settings(method, entry.settings)
    except UserError as error:
        raise UserError(f"Config key {where!r}: {error}") from None


def _check_packages(run: RunConfig) -> None:
    """One version of a package has one set of bytes: of two digests one is a mistake."""
    digests: dict[str, str] = {}
    for part in run.packages:
        if digests.setdefault(part.package, part.sha256) != part.sha256:
            raise UserError(f"The package {part.package!r} is given with two different sha256; correct one of them.")
