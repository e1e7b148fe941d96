"""What runs again when the config changes: every value of the demo, by Snakemake's own plan, against the table."""

from __future__ import annotations

import copy
import functools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT, copy_checkout, plans, rules_with, snakemake
from reruns import ROWS, Together, value_at

from logitfusion.config.load import resolve_config
from logitfusion.config.names import fewshot_method

pytestmark = pytest.mark.workflow
# Mappings whose keys are data, not keys of the config: one value each.
FREE = ("generation_kwargs", "classes")


@functools.cache
def demo() -> dict[str, Any]:
    """The demo's config as its file has it."""
    return yaml.safe_load((ROOT / "config/config.yaml").read_text())


@functools.cache
def resolved() -> dict[str, Any]:
    """The same with every default, the numbers among the settings of few-shot methods included."""
    run = resolve_config(demo())
    config = run.dump()
    for name, method in config["clip"]["methods"].items():
        settings = fewshot_method(run.clip, name)[1].dump()
        method |= {key: value for key, value in settings.items() if isinstance(value, (int, float))}
    return config


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all values: of what is neither a mapping with something in it nor a list of mappings."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [(f"{path}.{key}".lstrip("."), item) for key, item in inner]
    mapping = isinstance(value, dict) and path.rpartition(".")[2] not in FREE
    if inner and (mapping or isinstance(inner[0][1], dict)):
        for deeper, item in inner:
            yield from leaves(item, deeper)
    else:
        yield path


def fits(pattern: str, path: str) -> bool:
    words = {"**": ".+", "*": "[^.]+"}
    return re.fullmatch(r"\.".join(words.get(part, f"(?:{part})") for part in pattern.split(".")), path) is not None


def find(path: str) -> str | None:
    """The first row that fits, by its pattern."""
    return next((pattern for pattern in ROWS if fits(pattern, path)), None)


def chosen() -> list[str]:
    """Every value that the demo's file states; of all others, every key of each row once, and every entry once."""
    stated, seen, paths = set(leaves(yaml.safe_load((ROOT / "config/config.yaml").read_text()))), set(), []
    for path in leaves(resolved()):
        kinds = {(find(path), path.rpartition(".")[2]), tuple(path.split(".")[:3])}
        if path in stated or not kinds <= seen:
            paths.append(path)
        seen |= kinds
    return paths


def another(value: Any, path: str) -> Any:
    """A valid value beside the one that is there."""
    if path.endswith(".sha256"):
        return "0" * 64
    if path.endswith(".package"):
        return f"{value}1"
    if isinstance(value, str):
        return f"other{value}"
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.5
    raise AssertionError(f"The row {find(path)!r} of tests/reruns.py needs a value `to` for {path}.")


def put(config: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    place: Any = config
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value


def changed(path: str) -> dict[str, Any]:
    """The demo with another value at a path, as its user would write it."""
    row, config = ROWS[find(path)], copy.deepcopy(demo())
    to = row.to(resolved(), path) if callable(row.to) else row.to
    if to is None:
        to = another(value_at(resolved(), path), path)
    values = to.values if isinstance(to, Together) else {path: to}
    for place, value in values.items():
        put(config, place, value)
    assert any(value != value_at(resolved(), place) for place, value in values.items()), f"{path} would stay as it is"
    return config


def turned(value: Any) -> Any:
    """The same with the keys of all mappings the other way round."""
    return {key: turned(inner) for key, inner in reversed(value.items())} if isinstance(value, dict) else value


def rules(plan: list[dict[str, Any]] | str) -> set[str]:
    assert not isinstance(plan, str), plan
    return {job["rule"] for job in plan} - {"all"}


Plan = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def planned(folder: Path) -> dict[str, Plan]:
    """What runs of the finished demo when one value has changed, by its path; and some other cases, by their names."""
    configs = {path: changed(path) for path in chosen()}
    configs |= {"turned": in_order(turned(demo())), **{f"one more {name}": added(*new) for name, new in NEW.items()}}
    first, *others = plans(folder, [demo(), *configs.values(), demo()])
    return dict(zip(["first", *configs, "reverted"], [first, *others], strict=True))


STUDY = {"comparison": "study", "frozen": "config/frozen.json"}
TASKS, STUDENTS = len(demo()["tasks"]), len(demo()["distill"]["methods"]) + 3  # two teachers, the student
# What is added to the demo: path, entry, and how often which rules run for it alone.
NEW: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "method": ("fusion.methods.half", {"experts": ["{task}"], "weights": 0.5}, {"decode": 3}),
    "tuned method": ("fusion.methods.pooled", {"experts": ["sums"], "tune": {}}, {"tune": 1, "decode": TASKS}),
    "expert that nobody uses": ("experts.quick", {"base": "small", "tasks": ["sums"], "steps": 10}, {}),
    "student": ("distill.methods.alone", {"teachers": ["gemma"], "uld": 0.4}, {"student": 1, "answer": 1}),
    "exploratory protocol": ("protocol", STUDY | {"exploratory": True}, {}),
    "protocol": ("protocol", STUDY, {"decode": TASKS, "answer": STUDENTS}),
    "few-shot method": ("clip.methods.strong", {"method": "amu", "alpha": 2.0}, {"clip_fit": 1}),
}


def added(path: str, entry: dict[str, Any], *_: Any) -> dict[str, Any]:
    config = copy.deepcopy(demo())
    put(config, path, entry)
    return config


def in_order(config: dict[str, Any]) -> dict[str, Any]:
    """With methods, teachers and data sets in the demo's order, which is that of the plots."""
    for track in ("fusion", "distill", "clip"):
        config[track] |= {
            key: demo()[track][key] for key in ("methods", "teachers", "datasets") if key in demo()[track]
        }
    return config


def test_every_value_of_the_demo_has_a_row_in_the_table() -> None:
    missing = [path for path in leaves(resolved()) if find(path) is None]
    assert not missing, (
        f"{missing[0]} is in no row of tests/reruns.py: add one with its path (or a pattern), the rules that depend on"
        f" it and, if it is no number, another value. All that lack one: {', '.join(missing)}"
    )


def test_every_row_of_the_table_is_used() -> None:
    assert ROWS.keys() - {find(path) for path in leaves(resolved())} == set()


@pytest.mark.parametrize("path", chosen())
def test_a_changed_value_reruns_what_the_table_says(planned: dict[str, Plan], path: str) -> None:
    assert rules(planned[path]) == ROWS[find(path)].rules


def test_the_command_line_plans_the_same(planned: dict[str, Plan], folder: Path) -> None:
    path = "experts.sst2.steps"
    (folder / "config/changed.yaml").write_text(yaml.safe_dump(changed(path), sort_keys=False))
    done = snakemake(folder, "--configfile", "config/changed.yaml", "--dry-run", "--quiet", "rules")
    counted = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    rules_of_jobs = [job["rule"] for job in planned[path]]
    assert counted == {rule: str(rules_of_jobs.count(rule)) for rule in rules_of_jobs} | {
        "total": str(len(rules_of_jobs))
    }


# Section -> the rule that makes its entries, and the wildcard that names them.
ENTRIES = {
    "models": ("model", "model"),
    "tasks": ("task", "task"),
    "experts": ("expert", "expert"),
    "distill.teachers": ("teacher_cache", "teacher"),
    "distill.methods": ("student", "objective"),
    "clip.datasets": ("clip_data", "dataset"),
    "clip.methods": ("clip_fit", "head"),
}


@pytest.mark.parametrize("section", ENTRIES)
def test_a_changed_entry_reruns_itself_and_no_other_entry(planned: dict[str, Plan], section: str) -> None:
    """But a shifted data set is as its origin where it says nothing; models that are made of others follow them."""
    rule, wildcard = ENTRIES[section]
    paths = [path for path in chosen() if path.startswith(f"{section}.") and rule in ROWS[find(path)].rules]
    paths = [
        path for path in paths if not callable(ROWS[find(path)].to) and not isinstance(ROWS[find(path)].to, Together)
    ]
    assert paths
    for path in paths:
        name = path.removeprefix(f"{section}.").split(".")[0]
        alike = {other for other, entry in value_at(demo(), section).items() if entry.get("shift_of") == name}
        changed = {job["wildcards"][wildcard] for job in planned[path] if job["rule"] == rule and not job["follows"]}
        assert changed <= {name} | alike, path


@pytest.mark.parametrize("name", NEW)
def test_what_is_new_runs_alone(planned: dict[str, Plan], name: str) -> None:
    path, _, counts = NEW[name]
    jobs = [job["rule"] for job in planned[f"one more {name}"]]
    makers = {rule for rule, _ in ENTRIES.values()} | {
        "tune",
        "decode",
        "answer",
        "clip_support",
        "clip_test",
        "clip_encoder",
    }
    assert {rule: jobs.count(rule) for rule in makers if rule in jobs} == counts, path


def test_a_reverted_config_reruns_nothing(planned: dict[str, Plan]) -> None:
    assert planned["reverted"] == []


def test_the_order_of_keys_reruns_nothing(planned: dict[str, Plan]) -> None:
    assert planned["turned"] == []


# Words of the rules themselves: what is plotted, which split is encoded, the one shard of answers.
WORDS = {
    "plot": "methods summary traces losses tuning students students_summary student_losses fewshot fewshot_answers",
    "clip_features": "support test",
    "decode": "0",
    "index": "results/demo/benchmarks results/demo/runs",
    "fetch": "results/demo/revisions",
}
# What the page shows where it is there: nothing is made anew for it.
SHOWN = re.compile(r"results/packages/[^/]+|/.+/requirements\.lock")


def test_the_slice_is_the_only_road_from_the_config_into_a_stage(planned: dict[str, Plan]) -> None:
    """All else on a stage's command line is a file of the job, its name, or a word of the rule's own."""
    jobs = [job for job in planned["first"] if job["rule"] != "all"]
    for job in jobs:
        stage, arguments = re.fullmatch(r".*? python -m logitfusion\.stages\.(\w+) (.*)", job["command"]).groups()
        assert ("HF_HUB_OFFLINE=1" in job["command"]) == (job["rule"] not in rules_with("online=True")), job
        *words, option, slice_, redirect, _, errors = shlex.split(arguments)
        assert (option, redirect, errors) == ("--config", ">", "2>&1"), job
        assert slice_ == json.dumps(json.loads(slice_), sort_keys=True, ensure_ascii=False)
        known = {"results/features", *job["input"], *job["output"], *job["wildcards"].values()}
        known |= {f"{path}.checkpoints" for path in job["output"]} | set(WORDS.get(stage, "").split())
        known |= {word for word in words if re.match(r"--[a-z]", word)}
        known |= {word for word in words if stage == "index" and SHOWN.fullmatch(word)}
        assert set(words) <= known, (set(words) - known, job["command"])
    assert {job["rule"] for job in jobs} >= {*ROWS["run"].rules, "package"}
