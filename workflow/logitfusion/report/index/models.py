"""Models by their real names, and what each of them is in this run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from logitfusion.config.experts import MergedExpert
from logitfusion.config.methods import used_models
from logitfusion.config.models import HubModel, PathModel, PrunedModel, RandomModel
from logitfusion.config.run import RunConfig
from logitfusion.report.index.facts import Facts
from logitfusion.report.index.words import listed


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """A model for people.

    Attributes:
        name: in the config.
        real: what it is called elsewhere, or what it was made from.
        parameters: their number, None where it is not known.
        roles: what it is in the tracks.
    """

    name: str
    real: str
    parameters: int | None
    roles: list[str]


def list_models(facts: Facts) -> list[ModelRow]:
    """Language models and experts, then the CLIP and its auxiliaries."""
    run = facts.run
    rows = [
        ModelRow(
            name=name,
            real=real_name(run, name),
            parameters=facts.records.get(name, {}).get("parameters"),
            roles=_roles(run, name),
        )
        for name in used_models(run)
    ]
    rows.sort(key=lambda row: min(map(_rank, row.roles), default=len(_ROLES)))
    if facts.job.clip is not None:
        rows.append(ModelRow(name="CLIP", real=facts.job.clip.encoder, parameters=None, roles=["few-shot: CLIP"]))
        for name, entry in run.clip.auxiliaries.items():
            source = getattr(entry, "package", None) or getattr(entry, "path", None) or entry.source
            words = f"{entry.model} ({source}{f'; {entry.pretraining}' if entry.pretraining else ''})"
            rows.append(ModelRow(name=name, real=words, parameters=None, roles=["few-shot: auxiliary encoder"]))
    return rows


def real_name(run: RunConfig, name: str) -> str:
    """A hub id, a folder, a package's file, or what a model was made from."""
    if name in run.experts:
        entry = run.experts[name]
        if isinstance(entry, MergedExpert):
            return f"{listed(list(entry.merge))} added (task arithmetic)"
        how = "LoRA" if entry.method == "lora" else "fine-tuned"
        return f"{entry.base}, {how} on {listed(list(entry.tasks))}, {entry.length}"
    match run.models[name]:
        case HubModel(id=known, revision=revision):
            return f"{known} (hub, {revision[:12]})"
        case PathModel(path=path):
            return path
        case RandomModel(hidden_size=width, layers=layers):
            return f"random weights, {layers} layers of width {width}"
        case PrunedModel() as entry:
            healed = f", healed {entry.heal.length} on {listed(list(entry.heal.tasks))}" if entry.heal else ""
            return f"{len(entry.layers)} layers of {entry.from_}{healed}"
        case entry:
            file = PurePosixPath(entry.packages[0].file).name.partition(".gguf")[0]
            first, *others = [part.package.replace("==", " ") for part in entry.packages]
            return f"{file} (PyPI {first}{f' and {len(others)} more packages' if others else ''})"


def _roles(run: RunConfig, name: str) -> list[str]:
    roles = []
    if run.fusion:
        named = {run.fusion.large: "large, steered", run.fusion.base: "small base"}
        roles += [f"fusion: {named[name]}"] if name in named else []
        if name in run.experts:
            ceiling = run.fusion.methods.get(run.evaluate.ceiling)
            roles.append("fusion: ceiling" if getattr(ceiling, "model", None) == name else "fusion: expert")
    if run.distill:
        roles += ["distillation: student"] if name == run.distill.student else []
        teachers = run.distill.teachers.items()
        roles += [f"distillation: teacher {teacher}" for teacher, entry in teachers if entry.model == name]
    return roles


# Who leads comes first; a config's own order is lost on its way here.
_ROLES = ("large", "small base", "student", "teacher", "expert", "ceiling")


def _rank(role: str) -> int:
    return next(place for place, words in enumerate(_ROLES) if words in role)


def describe_sources(facts: Facts) -> list[str]:
    """The models that come from elsewhere, and the CLIP: all others are made from them."""
    run = facts.run
    made = {*run.experts, *(name for name, entry in run.models.items() if isinstance(entry, PrunedModel))}
    found = []
    for row in list_models(facts):
        if row.name not in made:
            size = f", {say_size(row.parameters)}" if row.parameters else ""
            found.append(f"{row.name} = {row.real.partition(' (')[0]}{size}")
    return found


def say_size(parameters: int | None) -> str:
    """``135 M``."""
    if parameters is None:
        return ""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.{1 if parameters < 10 * size else 0}f} {unit}"
    return str(parameters)
