"""The config: validated against the schema, defaults filled in, names checked, one sentence for what is wrong."""

from __future__ import annotations

import copy
import difflib
import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError, validators

from logitfusion.clip.methods import METHODS, complete_settings
from logitfusion.errors import UserError
from logitfusion.fetch.pypi import package_parts
from logitfusion.tasks.definition import load_definition

SCHEMA = Path(__file__).parents[2] / "schemas" / "config.schema.yaml"


def resolve_config(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of a config with every default in its place and every task's definition written out.

    Raises:
        UserError: an unknown key, a value of the wrong type or range, or a name that refers to nothing.
    """
    resolved = _plain(config)
    for task in _mappings(resolved.get("tasks")):
        if isinstance(task.get("definition"), str):
            task["definition"] = load_definition(task["definition"])
    filled = _fill_shifts(resolved)
    errors = list(_FillingValidator(_schema()).iter_errors(resolved))
    if errors:
        raise UserError(_explain(_most_telling(errors, filled)))
    _fill_seeds(resolved)
    _check_names(resolved)
    _check_packages(resolved)
    return resolved


def load_config(path: str | Path) -> dict[str, Any]:
    """Read and resolve a config file.

    Raises:
        UserError: the file is missing, is not YAML, or says something wrong.
    """
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no config file {path}.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a config file.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} must hold a mapping of keys to values.")
    try:
        return resolve_config(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def expand_method(method: dict[str, Any], task: str) -> dict[str, Any]:
    """A fusion method with ``{task}`` replaced by the task's name."""
    expanded = copy.deepcopy(method)
    if "model" in expanded:
        expanded["model"] = expanded["model"].replace("{task}", task)
    else:
        expanded["experts"] = [name.replace("{task}", task) for name in expanded["experts"]]
    return expanded


def method_tasks(config: dict[str, Any], method: str) -> list[str]:
    """The tasks that a method decodes: those it names, else all for which its ``{task}`` experts exist."""
    entry = config["fusion"]["methods"][method]
    if entry["tasks"] is not None:
        return list(entry["tasks"])
    known = config["models"].keys() | config["experts"].keys()
    return [task for task in config["tasks"] if set(method_models(config, method, task)) <= known]


def method_models(config: dict[str, Any], method: str, task: str) -> list[str]:
    """Every model that decoding a task with a method needs, the one that leads first."""
    entry = expand_method(config["fusion"]["methods"][method], task)
    if "model" in entry:
        return [entry["model"]]
    return [config["fusion"]["large"], config["fusion"]["base"], *entry["experts"]]


def tuning_groups(config: dict[str, Any], method: str) -> list[list[str]]:
    """The tasks of a tuned method that share one choice.

    Experts of a task (``{task}``) are tuned for it; experts that serve all tasks are tuned once, on the tasks that they
    were trained on, because the others stand for those that nobody has validation data of.
    """
    entry, tasks = config["fusion"]["methods"][method], method_tasks(config, method)
    if any("{task}" in name for name in entry["experts"]):
        return [[task] for task in tasks]
    trained = {task for name in entry["experts"] for task in _trained_on(config, name)}
    return [[task for task in tasks if task in trained] or tasks]


def _trained_on(config: dict[str, Any], name: str) -> list[str]:
    expert = config["experts"].get(name, {})
    parts = [task for part in expert.get("merge", []) for task in _trained_on(config, part)]
    return [*expert.get("tasks", []), *parts]


# ---- validation ---------------------------------------------------------------------------------------------------


@functools.cache
def _schema() -> dict[str, Any]:
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    """A deep copy made of dicts and lists alone (Snakemake hands over ordered mappings)."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield from (inner for inner in value.values() if isinstance(inner, dict))


def _filling(validate_properties: Any) -> Any:
    """jsonschema's ``properties`` check, filling in defaults first (its documentation's own recipe)."""

    def fill_and_validate(validator: Any, properties: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, dict):
            for key, subschema in properties.items():
                if "default" in subschema:
                    instance.setdefault(key, copy.deepcopy(subschema["default"]))
        yield from validate_properties(validator, properties, instance, schema)

    return fill_and_validate


def _is_integer(_: Any, value: Any) -> bool:
    """100.0 is a float wherever a count is used, so it is no integer to us."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_: Any, value: Any) -> bool:
    """Infinity and NaN are valid YAML and never a setting."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_FillingValidator = validators.extend(
    Draft202012Validator,
    {"properties": _filling(Draft202012Validator.VALIDATORS["properties"])},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number}),
)


def _most_telling(errors: list[ValidationError], filled: set[tuple[str, ...]]) -> ValidationError:
    """Unknown keys first, then the error that lies deepest; what was filled in from elsewhere comes after it."""

    def rank(error: ValidationError) -> tuple[Any, ...]:
        path = tuple(map(str, error.absolute_path))
        return error.validator != "additionalProperties", path[:3] in filled, -len(path), path

    return min(errors, key=rank)


_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _not_a_number(at: str, text: str) -> str:
    mantissa, exponent = re.split("[eE]", text)
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    fixed = f"{mantissa}e{exponent if exponent[0] in '+-' else '+' + exponent}"
    return f"{at} is the text {text!r}, not a number, because YAML wants a decimal point: write {fixed}."


def _explain(error: ValidationError) -> str:
    where = ".".join(str(part) for part in error.absolute_path)
    at = f"Config key {where!r}" if where else "The config"
    value = error.instance
    match error.validator:
        case "additionalProperties":
            known = sorted(error.schema.get("properties", {}))
            unknown = next(key for key in value if key not in known)
            near = difflib.get_close_matches(unknown, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."
            return f"{at} has an unknown key {unknown!r}: {hint}"
        case "required":
            missing = next(key for key in error.validator_value if key not in value)
            return f"{at} lacks the key {missing!r}; add it."
        case "type" if isinstance(value, str) and _SCIENTIFIC.fullmatch(value):
            return _not_a_number(at, value)
        case "type":
            kinds = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
            return f"{at} must be of type {' or '.join(kinds)}, and is {value!r}."
        case "enum":
            known = [str(item) for item in error.validator_value]
            near = difflib.get_close_matches(str(value), known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            return f"{at} must be one of {', '.join(known)}{hint}, and is {value!r}."
        case "pattern":
            meant = error.schema.get("description")
            hint = f" ({meant.rstrip('.')})" if meant else ""
            return f"{at} is {value!r}, which does not have the form {error.validator_value}{hint}."
        case _:
            return f"{at} can't be used: {error.message}."


def _fill_shifts(config: dict[str, Any]) -> set[tuple[str, ...]]:
    """Let a shifted data set be as its origin where it says nothing; the places of those that were filled."""
    clip = config.get("clip")
    datasets = clip.get("datasets") if isinstance(clip, dict) else None
    filled = set()
    for name, entry in datasets.items() if isinstance(datasets, dict) else ():
        shift = entry.get("shift_of") if isinstance(entry, dict) else None
        origin = datasets.get(shift) if isinstance(shift, str) else None
        if isinstance(origin, dict) and entry.get("source", origin.get("source")) == origin.get("source"):
            filled.add(("clip", "datasets", name))
            for key in origin.keys() - entry.keys() - {"sha256"}:
                entry[key] = copy.deepcopy(origin[key])
    return filled


def _fill_seeds(config: dict[str, Any]) -> None:
    """A seed that was left out is the top-level one."""
    owners = [*_mappings(config["experts"]), *(config[track] for track in ("fusion", "clip") if track in config)]
    owners += [model["heal"] for model in _mappings(config["models"]) if "heal" in model]
    for owner in owners:
        if "seed" in owner and owner["seed"] is None:
            owner["seed"] = config["seed"]


def _check_names(config: dict[str, Any]) -> None:
    models, experts, tasks = config["models"], config["experts"], config["tasks"]
    for key in ("models", "tasks"):
        if {"fusion", "distill"} & config.keys() and not config[key]:
            raise UserError(f"The config lacks the key {key!r}, which fusion and distill need; add it.")
    both = models.keys() & experts.keys()
    if both:
        raise UserError(f"The name {min(both)!r} is used for a model and for an expert; rename one.")
    for name, model in models.items():
        if model["source"] == "pruned":
            _refer(model["from"], models, f"models.{name}.from", "model")
            if models[model["from"]]["source"] == "pruned":
                raise UserError(f"Config key 'models.{name}.from' names a pruned model; prune the whole one instead.")
            for task in model.get("heal", {}).get("tasks", []):
                _refer(task, tasks, f"models.{name}.heal.tasks", "task")
                if tasks[task]["train"] == 0:
                    raise UserError(f"Model {name!r} is healed on task {task!r}, whose train size is 0; raise it.")
    for name, expert in experts.items():
        _refer(expert["base"], models, f"experts.{name}.base", "model")
        for task in expert.get("tasks", []):
            _refer(task, tasks, f"experts.{name}.tasks", "task")
            if tasks[task]["train"] == 0:
                raise UserError(f"Expert {name!r} is trained on task {task!r}, whose train size is 0; raise it.")
        for part in expert.get("merge", []):
            trained = {key for key, value in experts.items() if "merge" not in value}
            _refer(part, trained, f"experts.{name}.merge", "trained expert")
            if experts[part]["base"] != expert["base"]:
                raise UserError(f"Expert {name!r} merges {part!r}, which has another base; merge experts of one base.")
    if not {"fusion", "distill", "clip"} & config.keys():
        raise UserError("The config asks for nothing: give it a section fusion, distill or clip, or several.")
    if "fusion" in config:
        _check_fusion(config)
    if "distill" in config:
        _check_distill(config)
    if "clip" in config:
        _check_clip(config["clip"])


def _check_fusion(config: dict[str, Any]) -> None:
    models, experts, tasks = config["models"], config["experts"], config["tasks"]
    fusion = config["fusion"]
    _refer(fusion["large"], models, "fusion.large", "model")
    _refer(fusion["base"], models, "fusion.base", "model")
    for name, method in fusion["methods"].items():
        for task in method["tasks"] or []:
            _refer(task, tasks, f"fusion.methods.{name}.tasks", "task")
        if "bounds" in method and method["bounds"][0] > method["bounds"][1]:
            raise UserError(f"Config key 'fusion.methods.{name}.bounds' must hold the lower weight first.")
        chosen = method_tasks(config, name)
        for task in chosen or list(tasks):
            for model in method_models(config, name, task):
                _refer(model, models.keys() | experts.keys(), f"fusion.methods.{name}", "model or expert")
            for part in expand_method(method, task).get("experts", []):
                if part in experts and experts[part]["base"] != fusion["base"]:
                    raise UserError(
                        f"Method {name!r} steers with {part!r}, an expert of {experts[part]['base']!r} and not of"
                        f" fusion.base ({fusion['base']!r}); use experts of that base."
                    )
        if method.get("tune") is not None:
            if method["weights"] != "dynamic":
                raise UserError(
                    f"Method {name!r} has fixed weights, so there is nothing to tune; remove tune or weights."
                )
            for task in (task for group in tuning_groups(config, name) for task in group):
                if tasks[task]["validation"] == 0:
                    raise UserError(f"Method {name!r} is tuned on task {task!r}, whose validation size is 0; raise it.")
        if isinstance(method.get("weights"), list) and len(method["weights"]) != len(method["experts"]):
            raise UserError(
                f"Method {name!r} has {len(method['experts'])} experts and {len(method['weights'])} weights."
            )
    for key in ("base", "ceiling"):
        _refer(config["evaluate"][key], fusion["methods"], f"evaluate.{key}", "fusion method")


def _check_distill(config: dict[str, Any]) -> None:
    distill, tasks = config["distill"], config["tasks"]
    known = config["models"].keys() | config["experts"].keys()
    _refer(distill["student"], known, "distill.student", "model or expert")
    for task in distill["tasks"]:
        _refer(task, tasks, "distill.tasks", "task")
        if tasks[task]["train"] == 0:
            raise UserError(f"Students are trained on task {task!r}, whose train size is 0; raise it.")
    for name, teacher in distill["teachers"].items():
        _refer(teacher["model"], known, f"distill.teachers.{name}.model", "model or expert")
    _refer(distill["baseline"], distill["methods"], "distill.baseline", "distillation method")
    for name, method in distill["methods"].items():
        where = f"distill.methods.{name}"
        for teacher in method["teachers"]:
            _refer(teacher, distill["teachers"], f"{where}.teachers", "teacher")
        if method["uld"] + method["gld"] > 1:
            raise UserError(f"In {where} uld and gld come to more than 1, which leaves less than nothing for SFT.")
        if (method["uld"] + method["gld"] > 0) != bool(method["teachers"]):
            raise UserError(f"{where} needs both teachers and a factor uld or gld above 0, or neither (plain SFT).")
        if method["teachers"] and method["k"] > distill["cache"]["k"]:
            raise UserError(
                f"{where}.k is {method['k']}, and the cache keeps {distill['cache']['k']}; raise distill.cache.k."
            )
        if (method["combine"] == "weighted") != (method["weights"] is not None):
            raise UserError(f"{where} needs both combine: weighted and a list of weights, or neither.")
        if method["weights"] is not None and len(method["weights"]) != len(method["teachers"]):
            raise UserError(f"{where} has {len(method['teachers'])} teachers and {len(method['weights'])} weights.")


def _check_clip(clip: dict[str, Any]) -> None:
    datasets, methods, encoder = clip["datasets"], clip["methods"], clip["encoder"]
    origins = {name for name, entry in datasets.items() if entry["shift_of"] is None}
    if encoder["source"] == "built":
        sets = {name for name in origins if datasets[name]["source"] == "emoji"}
        _refer(encoder["pairs"], sets, "clip.encoder.pairs", "emoji data set")
    if "clip" in clip["auxiliaries"]:
        raise UserError("The name 'clip' is CLIP's own; rename that auxiliary.")
    for name, entry in datasets.items():
        if entry["shift_of"] is not None:
            _refer(entry["shift_of"], origins, f"clip.datasets.{name}.shift_of", "data set (no shifted one)")
        if "==" in entry.get("package", "") and entry["sha256"] is None:
            raise UserError(f"Config key 'clip.datasets.{name}' lacks the key 'sha256' of its package; add it.")
    for name in methods:
        method, _ = fewshot_method(clip, name)
        if METHODS[method].needs_auxiliary and not clip["auxiliaries"]:
            raise UserError(f"Method {name!r} needs an auxiliary encoder; name one in clip.auxiliaries.")
    for key in ("baselines", "oracle"):
        for name in clip[key]:
            _refer(name, methods, f"clip.{key}", "few-shot method of this config")
    _refer(clip["shown"], methods, "clip.shown", "few-shot method of this config")
    for name in clip["oracle"]:
        if not METHODS[fewshot_method(clip, name)[0]].by_epochs:
            raise UserError(f"Config key 'clip.oracle' names {name!r}, which is not trained by epochs; leave it out.")


def fewshot_method(clip: dict[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """The few-shot method behind a name of the config, and all of its settings.

    Raises:
        UserError: there is no such method, it has no such setting, or a number was read as text.
    """
    where = f"clip.methods.{name}"
    given = {key: value for key, value in clip["methods"][name].items() if key != "method"}
    method = clip["methods"][name]["method"] or name
    _refer(method, METHODS, where, "few-shot method")
    for key, value in given.items():
        if isinstance(value, str) and _SCIENTIFIC.fullmatch(value):
            raise UserError(_not_a_number(f"Config key '{where}.{key}'", value))
    try:
        return method, complete_settings(method, given).dump()
    except UserError as error:
        raise UserError(f"Config key {where!r}: {error}") from None


def clip_packages(clip: dict[str, Any]) -> list[dict[str, Any]]:
    """Every entry of the section that comes out of a package: towers, auxiliaries, data sets."""
    owners = [*_mappings(clip["encoder"]), *_mappings(clip["auxiliaries"]), *_mappings(clip["datasets"])]
    return [entry for entry in owners if "==" in entry.get("package", "")]


def _check_packages(config: dict[str, Any]) -> None:
    """One version of a package has one set of bytes: of two digests one is a mistake."""
    digests: dict[str, str] = {}
    owners = [*config["models"].values(), *(task["definition"]["source"] for task in config["tasks"].values())]
    owners += clip_packages(config["clip"]) if "clip" in config else []
    for entry in (part for owner in owners for part in package_parts(owner)):
        if digests.setdefault(entry["package"], entry["sha256"]) != entry["sha256"]:
            raise UserError(
                f"The package {entry['package']!r} is given with two different sha256; correct one of them."
            )


def _refer(name: str, known: Any, key: str, kind: str) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}."
    raise UserError(f"Config key {key!r} names the {kind} {name!r}, which does not exist: {hint}")
