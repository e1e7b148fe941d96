"""The study: its configs are whole, and its page says what is stored."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from checkout import ROOT
from generate import readme, study, study_page, study_picture
from generate.study_page import TABLES, fill, show

from logitfusion.config.experts import TrainedExpert
from logitfusion.config.fusion import SteeredMethod
from logitfusion.config.load import load_config, resolve_config
from logitfusion.config.methods import method_tasks, seen_tasks
from logitfusion.config.models import PathModel
from logitfusion.errors import UserError

CONFIGS = ROOT / "config/study"
TASKS = ("sst2", "sums", "seen tasks", "unseen tasks")
FACTS = {
    "commands": ["make study"],
    "runs": [
        {
            "run": "study0", "date": "2026-11-27", "commit": "4160200", "config": "c0ffee", "jobs": 2,
            "stages": [{"name": "fusion", "seconds": 90.0, "jobs": 2, "memory_mb": 1.0}],
            "machine": {"cpus": 16, "memory_gb": 128.0, "system": "Linux x86_64", "gpus": ["a card"]},
            "versions": {"python": "3.12", "torch": "2.14"},
        }
    ],
}  # fmt: skip


def compared(methods: dict[str, list[str]], tasks: tuple[str, ...], shots: int | None = None) -> pd.DataFrame:
    """A table of ``logitfusion compare``; a method's place decides its score, its rival's the difference."""
    rows = []
    for place, (method, rivals) in enumerate(methods.items()):
        for task in tasks:
            score = {
                "task": task,
                "n": 300,
                "shots": shots,
                "method": method,
                "score": place / 10,
                "gap_closure": float("nan"),
            }
            ends = {
                "score_low": place / 10 - 0.05,
                "score_high": place / 10 + 0.05,
                "closure_low": 0,
                "closure_high": 1,
            }
            for rival in rivals or [None]:
                less = {"rival": rival, "difference": 0.25, "low": 0.125, "high": 0.375, "verdict": "higher"}
                rows.append(score | ends | (less if rival else dict.fromkeys(less)))
    return pd.DataFrame(rows)


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    rivals = ["fixed", "large"]
    steered = {"large": [], "fixed": [], "multi_one_hot": [], "multi_judged": [], "gate": rivals, "multi_gate": rivals}
    students = {"ceiling": [], "sft": [], "kl": ["sft"], "gld_vocab": ["sft"], "kl_gld_vocab": ["sft", "kl"]}
    few_shot = pd.concat([compared({"stacking": []}, ("emoji",), shots) for shots in (1, 2, 16)])
    return {"fusion": compared(steered, TASKS), "distill": compared(students, ("sums", "all tasks")), "clip": few_shot}


def test_the_seed_of_a_run_is_that_of_its_experts() -> None:
    written = yaml.safe_load((CONFIGS / "fusion.yaml").read_text())
    run = resolve_config(written | {"run": "study1", "seed": 1})
    trained = [expert.seed for expert in run.experts.values() if isinstance(expert, TrainedExpert)]
    assert set(trained) == {1}
    assert all(isinstance(model, PathModel) for model in run.models.values()), "the others are trained once"


def test_stored_runs_are_those_that_the_configs_make() -> None:
    named = {path.stem: load_config(path).run for path in CONFIGS.glob("*.yaml")}
    assert named.pop("base") == "study_base"
    assert named.pop("fusion") == "study0"
    assert named == {name: f"study_{name}" for name in ("distill", "converged", "fewshot")}
    assert set(named.values()) <= {run for runs in study.RUNS.values() for run in runs}


@pytest.mark.parametrize("track", ["fusion", "distill"])
def test_what_all_runs_share_is_made_by_the_base(track: str) -> None:
    base, run = (load_config(CONFIGS / f"{name}.yaml") for name in ("base", track))
    made = {f"results/{base.run}/models/{name}" for name in base.models}
    made |= {f"results/{base.run}/experts/{name}" for name in base.experts}
    paths = {model.path for model in run.models.values() if isinstance(model, PathModel)}
    assert paths
    assert paths <= made
    shared = run.tasks.keys() & base.tasks.keys()
    assert shared == {name for name, task in run.tasks.items() if task.train}, "what is learnt there is learnt here"
    assert all(run.tasks[name] == base.tasks[name] for name in shared), "else one trains on what another tests"


def test_every_seen_task_has_its_expert_and_its_ceiling_and_two_have_none() -> None:
    run = load_config(CONFIGS / "fusion.yaml")
    seen = seen_tasks(run)
    assert len(seen) >= 5
    assert set(run.tasks) - set(seen) == {"sciq", "last_words"}
    for method in ("expert", "gate", "ceiling"):
        assert method_tasks(run, method) == seen
    several = [entry for name, entry in run.fusion.methods.items() if name.startswith("multi")]
    assert all(isinstance(entry, SteeredMethod) and list(entry.experts) == seen for entry in several)
    assert method_tasks(run, "multi_gate") == list(run.tasks)


@pytest.mark.parametrize("track", ["fusion", "distill"])
def test_validation_splits_can_be_looked_at(track: str) -> None:
    run = load_config(CONFIGS / f"{track}.yaml", CONFIGS / f"validation/{track}.yaml")
    assert getattr(run, track).split == "validation"


def test_a_page_has_the_stored_numbers(tables: dict[str, pd.DataFrame]) -> None:
    page = fill(study_page.TEMPLATE.read_text(), FACTS, tables)
    assert "[[" not in page
    assert "| study0 | 2026-11-27 | 4160200 | c0ffee | 16 CPUs, a card | 2 | 2 |" in page
    assert "python 3.12, torch 2.14" in page
    assert "+0.25 [+0.12, +0.38], higher" in page
    assert "| kl_gld_vocab | kl | +0.25 [+0.12, +0.38], higher |" in page
    assert "| method | emoji@1 | emoji@16 |" in page


def test_the_readme_says_what_is_stored() -> None:
    assert f"-->\n{readme.tell_study(study.read().compared)}\n<!--" in readme.PATH.read_text(encoding="utf-8")


def test_what_was_not_run_is_said(tables: dict[str, pd.DataFrame]) -> None:
    page = fill(study_page.TEMPLATE.read_text(), FACTS, {"clip": tables["clip"]})
    assert page.count(study_page.ABSENT) == sum(track != "clip" for track, _ in TABLES.values())
    assert show({}, "fusion/gate/seen tasks") == "(not run)"


@pytest.mark.parametrize("what", ["fusion/nobody/sums", "fusion/gate/nothing", "fusion/gate/sums/dynamic"])
def test_a_number_that_is_not_there_is_refused(what: str, tables: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(UserError, match=re.escape(what)):
        show(tables, what)


def test_the_picture_has_a_panel_for_each_task(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    study_picture.draw(tables, tmp_path / "study.svg")
    picture = (tmp_path / "study.svg").read_text()
    assert all(task in picture for task in TASKS)


def test_a_study_that_was_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make study"):
        study.collect(tmp_path, tmp_path)
