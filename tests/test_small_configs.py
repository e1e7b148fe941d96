"""Small configs: none has to name what it does not use, and no job is planned whose output nobody reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import copy_checkout, plans
from flips import refuses_every_flip

from logitfusion.config.command_line import check_files
from logitfusion.config.load import load_config, resolve_config, write_once
from logitfusion.config.methods import used_models
from logitfusion.errors import UserError

pytestmark = pytest.mark.workflow

MODELS = "{large: {source: random}, small: {source: random, seed: 1}}"
SUMS = "{sums: {harness: sums, train: 8, test: 4}}"
FOLDER = "{source: folder, path: config/smoke_images/bright}"

# Name -> a config of few lines, as a newcomer writes it.
CONFIGS = {
    "steered": f"""
        models: {MODELS}
        tasks: {SUMS}
        experts: {{sums: {{base: small, tasks: [sums], steps: 1}}}}
        fusion: {{large: large, base: small, methods: {{steered: {{experts: [sums]}}}}}}
    """,
    "models-alone": f"""
        models: {MODELS}
        tasks: {{sums: {{harness: sums, test: 4}}}}
        fusion: {{large: large, base: small, methods: {{one: {{model: large}}, other: {{model: small}}}}}}
    """,
    "expert-of-path": """
        models: {large: {source: random}, small: {source: random}, mine: {source: path, path: my/model}}
        tasks: {sums: {harness: sums, test: 4}}
        fusion: {large: large, base: small, methods: {large: {model: large}, mine: {experts: [mine]}}}
    """,
    "much-unused": """
        models: {large: {source: random}, small: {source: random}, spare: {source: random},
                 cut: {source: pruned, from: spare, layers: [0], heal: {tasks: [sums]}}}
        tasks: {sums: {harness: sums, train: 8, test: 4}, idle: {harness: sums, train: 8, test: 4}}
        experts: {sums: {base: small, tasks: [sums]}, idle: {base: small, tasks: [idle]},
                  both: {base: small, merge: [sums, idle]}}
        fusion: {large: large, base: small, methods: {mine: {experts: [sums], tasks: [sums]}}}
    """,
    "fine-tuned": f"""
        models: {{small: {{source: random}}}}
        tasks: {SUMS}
        distill: {{student: small, tasks: [sums], methods: {{plain: {{}}}}}}
    """,
    "one-teacher": f"""
        models: {MODELS}
        tasks: {SUMS}
        distill:
          student: small
          tasks: [sums]
          teachers: {{big: {{model: large}}}}
          methods: {{gld: {{teachers: [big], uld: 0.3, gld: 0.1}}}}
    """,
    "clip-alone": f"""
        clip: {{encoder: {{source: random}}, datasets: {{mine: {FOLDER}}}, methods: {{zero_shot: {{}}}}}}
    """,
    "clip-rivals": f"""
        clip:
          encoder: {{source: random}}
          datasets: {{mine: {FOLDER}}}
          shots: [1]
          seeds: [0]
          methods: {{tip_adapter: {{}}, zero_shot: {{}}}}
    """,
    "clip-amu": f"""
        clip:
          encoder: {{source: random}}
          auxiliaries: {{second: {{source: timm, model: test_efficientnet}}}}
          datasets: {{mine: {FOLDER}}}
          methods: {{amu_classes: {{}}}}
    """,
    "unused-models-beside-clip": f"""
        models: {MODELS}
        tasks: {SUMS}
        clip: {{encoder: {{source: random}}, datasets: {{mine: {FOLDER}}}, methods: {{zero_shot: {{}}}}}}
    """,
}
FUSION = {"decode": 1, "evaluate": 1, "plot_methods": 1}
STUDENTS = {"student": 1, "evaluate_students": 1, "plot_students": 1, "plot_student_losses": 1}
CLIP = {f"clip_{name}": 1 for name in ("encoder", "data", "support", "test", "fit", "predict")}
CLIP |= {"plot_clip": 1, "plot_clip_answers": 1}
# All that is planned, but for the table of numbers and the target.
JOBS = {
    "steered": FUSION | {"model": 2, "task": 1, "expert": 1, "plot_losses": 1, "plot_traces": 1},
    "models-alone": FUSION | {"model": 2, "task": 1},
    "expert-of-path": FUSION | {"model": 3, "task": 1, "plot_traces": 1},
    "much-unused": FUSION | {"model": 2, "task": 1, "expert": 1, "plot_losses": 1, "plot_traces": 1},
    "fine-tuned": STUDENTS | {"model": 1, "task": 1, "answer": 2},
    "one-teacher": STUDENTS | {"model": 2, "task": 1, "teacher_cache": 1, "answer": 3},
    "clip-alone": CLIP,
    "clip-rivals": CLIP | {"clip_fit": 2},
    "clip-amu": CLIP | {"fetch_encoder": 1},
    "unused-models-beside-clip": CLIP,
}


def read(name: str) -> dict[str, Any]:
    return {"run": name, **yaml.safe_load(CONFIGS[name])}


def test_a_small_config_plans_what_it_needs_and_nothing_else(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path)
    found = dict(zip(CONFIGS, plans(folder, [read(name) for name in CONFIGS]), strict=True))
    jobs = {name: Counter(job["rule"] for job in plan) for name, plan in found.items()}
    always = {"fetch": 1, "metrics": 1, "index": 1, "all": 1}
    assert jobs == {name: expected | always for name, expected in JOBS.items()}


def test_methods_are_compared_with_those_that_exist() -> None:
    run = {name: resolve_config(read(name)) for name in CONFIGS}
    ends = {name: (one.evaluate.base, one.evaluate.ceiling) for name, one in run.items() if one.fusion}
    assert ends == {
        "steered": (None, None), "models-alone": ("one", None), "expert-of-path": ("large", None),
        "much-unused": (None, None),
    }  # fmt: skip
    assert {name: one.distill.baseline for name, one in run.items() if one.distill} == {
        "fine-tuned": "plain", "one-teacher": None,
    }  # fmt: skip
    assert {name: one.clip.shown for name, one in run.items() if one.clip} == {
        "clip-alone": "zero_shot", "clip-rivals": "tip_adapter", "clip-amu": "amu_classes",
        "unused-models-beside-clip": "zero_shot",
    }  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_the_copy_that_jobs_read_is_the_same_config(name: str, tmp_path: Path) -> None:
    run = resolve_config(read(name))
    assert load_config(write_once(tmp_path, run)) == run


def test_a_copy_that_has_changed_is_refused(tmp_path: Path) -> None:
    run = resolve_config(read("steered"))
    path = write_once(tmp_path, run)
    check_files([path], run.run)
    refuses_every_flip(path, lambda: check_files([path], run.run), step=1001)
    path.write_text(path.read_text() + " ")
    with pytest.raises(UserError, match="damaged"):
        write_once(tmp_path, run)


def test_none_is_respected_where_a_method_has_the_usual_name() -> None:
    config = read("steered")
    config["fusion"]["methods"] = {"large": {"model": "large"}, "ceiling": {"model": "large"}}
    assert resolve_config(config).evaluate.ceiling == "ceiling"
    run = resolve_config(config | {"evaluate": {"ceiling": None}})
    assert (run.evaluate.base, run.evaluate.ceiling) == ("large", None)


def test_a_split_that_is_empty_is_not_scored() -> None:
    for name, track in (("steered", "fusion"), ("fine-tuned", "distill")):
        config = read(name)
        config[track]["split"] = "validation"
        with pytest.raises(UserError, match=f"{track}.split.*'sums' has none"):
            resolve_config(config)


def test_a_merged_expert_needs_its_parts() -> None:
    config = read("much-unused")
    config["fusion"]["methods"]["mine"]["experts"] = ["both"]
    assert used_models(resolve_config(config)) == ["large", "small", "sums", "idle", "both"]
