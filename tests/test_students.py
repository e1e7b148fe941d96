"""The distillation track's numbers by hand, and its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from judged_tasks import make_judged

from logitfusion.config.evaluate import Evaluate
from logitfusion.config.tracks import StudentsTrack
from logitfusion.evaluate.intervals import percentile_interval, resample_means, resample_seeds_and_means
from logitfusion.evaluate.scores import JudgedTask
from logitfusion.evaluate.students import ALL_TASKS, tabulate_students
from logitfusion.evaluate.table import Provenance
from logitfusion.report.students import plot_student_losses, plot_students, write_students_summary

TRACK = StudentsTrack(
    split="test", student="small", teachers={"wise": "large"}, methods=("sft", "gld"), seeds=(3, 4), baseline="sft"
)
SETTINGS = Evaluate(resamples=2000, confidence=0.95, seed=0)
PROVENANCE = Provenance(run="test", split="test", config="c", commit="d")


def judged(answers: dict[str, list[str | None]], gold: list[str], metric: str = "accuracy") -> JudgedTask:
    right = {
        method: [float(one == gold[place]) for place, one in enumerate(given)] for method, given in answers.items()
    }
    failures = {method: tuple(one is None for one in given) for method, given in answers.items()}
    given = {method: tuple(own) for method, own in answers.items()}
    return make_judged(right, metric, answer=given, format_failure=failures)


@pytest.fixture
def table() -> pd.DataFrame:
    first = judged(
        {
            "small": [None, "b", "b", "b"], "large": ["a", "a", "c", None],
            "sft.3": ["a", "b", "b", "b"], "sft.4": ["a", "a", "b", "b"],
            "gld.3": ["a", "a", "c", "b"], "gld.4": ["a", "a", "c", None],
        },
        ["a", "a", "a", "a"],
    )  # fmt: skip
    names = ("small", "large", "sft.3", "sft.4", "gld.3", "gld.4")
    second = judged({name: ["x"] * 2 for name in names}, ["x", "y"], "exact_match")
    return tabulate_students({"one": first, "two": second}, TRACK, SETTINGS, PROVENANCE)


def number(table: pd.DataFrame, method: str, task: str, metric: str) -> pd.Series:
    rows = table[(table["method"] == method) & (table["task"] == task) & (table["metric"] == metric)]
    rows = rows[rows["seed"].isna()]
    assert len(rows) == 1
    return rows.iloc[0]


def test_scores_are_means_over_seeds_and_gains_are_over_the_baseline(table: pd.DataFrame) -> None:
    assert number(table, "sft", "one", "accuracy")["value"] == pytest.approx((1 + 2) / 8)
    assert number(table, "gld", "one", "accuracy")["value"] == pytest.approx(4 / 8)
    assert number(table, "gld", "one", "gain")["value"] == pytest.approx(1 / 8)
    assert number(table, "gld", ALL_TASKS, "score")["value"] == pytest.approx((4 / 8 + 1 / 2) / 2)
    assert number(table, "gld", ALL_TASKS, "gain")["value"] == pytest.approx(1 / 16)
    assert number(table, "gld", "one", "format_failures")["value"] == pytest.approx(1 / 8)
    assert number(table, "small", "one", "accuracy")["seeds"] == 1
    assert number(table, "gld", "one", "accuracy")["seeds"] == 2
    seeds = table[(table["method"] == "sft") & (table["task"] == "one") & table["seed"].notna()]
    assert dict(zip(seeds["seed"], seeds["value"], strict=True)) == {3: 0.25, 4: 0.5}


def test_agreement_counts_what_the_teacher_answers(table: pd.DataFrame) -> None:
    found = number(table, "gld", "one", "agreement_wise")
    assert (found["value"], found["n"]) == (1.0, 3)
    assert number(table, "sft", "one", "agreement_wise")["value"] == pytest.approx((1 + 2) / 6)
    assert number(table, "small", "one", "agreement_wise")["value"] == 0.0
    assert table[(table["method"] == "large") & (table["metric"] == "agreement_wise")].empty


def test_gains_keep_their_pairs() -> None:
    """Two methods that are right on the same examples differ by nothing, whatever is drawn."""
    right = np.random.default_rng(0).random((2, 50)) < 0.5
    drawn = resample_seeds_and_means({"a": right, "b": right.copy()}, 300, np.random.default_rng(1))
    assert np.array_equal(drawn["a"], drawn["b"])
    assert drawn["a"].std() > 0


def test_one_seed_is_the_bootstrap_over_examples() -> None:
    right = np.random.default_rng(0).random(200) < 0.3
    seeds = resample_seeds_and_means({"a": right[None]}, 4000, np.random.default_rng(1))["a"]
    plain = resample_means(right[None], 4000, np.random.default_rng(2))[0]
    assert percentile_interval(seeds, 0.9) == pytest.approx(percentile_interval(plain, 0.9), abs=0.015)


def test_seeds_that_differ_widen_the_interval() -> None:
    right = np.zeros((2, 400), bool)
    right[1, :200] = True
    drawn = resample_seeds_and_means({"a": right}, 2000, np.random.default_rng(1))["a"]
    low, high = percentile_interval(drawn, 0.95)
    assert low == 0.0
    assert high > 0.4


def test_tracks_share_one_table(table: pd.DataFrame, tmp_path: Path) -> None:
    joined = pd.concat([table, table.assign(track="fusion", seed=0)], ignore_index=True)
    joined.to_parquet(tmp_path / "t.parquet")
    assert joined["seed"].dtype == "Int64"
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 2 * len(table)


def test_pictures_name_all_methods(table: pd.DataFrame, tmp_path: Path) -> None:
    curve = pd.DataFrame(
        {"step": [1, 2], "loss": [2.0, 1.0], "sft": [2.0, 1.0], "uld": [0.0, 0.0], "gld": [0.5, 0.4]}
        | {"kl": 0.0, "hybrid": 0.0}
    )
    plot_students(table, TRACK, tmp_path / "students.svg")
    plot_student_losses({f"{m}.{s}": curve for m in ("sft", "gld") for s in (3, 4)}, TRACK, tmp_path / "losses.svg")
    write_students_summary(table, TRACK, tmp_path / "s.html", tmp_path / "s.md")
    for file in ("students.svg", "losses.svg", "s.html", "s.md"):
        text = (tmp_path / file).read_text()
        assert all(name in text for name in ("sft", "gld"))
    assert "ULD" not in (tmp_path / "losses.svg").read_text()  # nothing to show of it
    assert "2 training seed(s): 3, 4" in (tmp_path / "s.md").read_text()


def test_a_task_that_compares_likelihoods_has_no_share_without_the_asked_form() -> None:
    names = ("small", "large", "sft.3", "sft.4", "gld.3", "gld.4")
    values = {"loglikelihoods": {name: [-1.0, -2.0] for name in names}, "answer": dict.fromkeys(names, "a")}
    task = make_judged({name: [1.0, 0.0] for name in names}, "acc", **values)
    table = tabulate_students({"one": task}, TRACK, SETTINGS, PROVENANCE)
    assert "format_failures" not in set(table["metric"])
