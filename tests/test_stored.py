"""Finished runs in docs/results: nothing is lost or invented on the way from a run's tables to a page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from generate.pages import TABLES, TEMPLATES, compose, describe_time, fill, show
from generate.parts import replace_part
from generate.stored import StoredRun, collect, read, write
from hypothesis import given
from hypothesis import strategies as st

from logitfusion.errors import UserError
from logitfusion.evaluate.table import COLUMNS, DTYPES
from logitfusion.tables import write_table

_COMMON = {
    "run": "mine",
    "split": "test",
    "seeds": 1,
    "n": 4,
    "confidence": 0.95,
    "config": "c0ffee",
    "commit": "4160200",
}


def make_table(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame([_COMMON | row for row in rows], columns=list(COLUMNS), dtype=object).astype(DTYPES)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A finished run with a method of several experts, three trainings of a student, and two measured jobs."""
    folder = tmp_path / "mine"
    (folder / "benchmarks/fusion/both").mkdir(parents=True)
    (folder / "evaluation").mkdir()
    student = {"track": "distill", "method": "sft", "task": "sums", "metric": "exact_match"}
    score = {"track": "fusion", "method": "both", "task": "sums", "metric": "exact_match", "seed": 0}
    table = make_table(
        score | {"value": 0.5, "ci_low": 0.25, "ci_high": 0.75},
        student | {"value": 0.25, "seeds": 2, "ci_low": 0.0, "ci_high": 0.5},
        student | {"value": 0.0, "seed": 0},
        student | {"value": 0.5, "seed": 1},
    )
    write_table(table, folder / "metrics.parquet")
    pair = [[0.5, 0.5]]
    judged = pd.DataFrame(
        {
            "method": ["both"] * 4 + ["alone"],
            "weights": [pair, pair, pair, [[0.0, 0.0]], [[]]],
            "expert": [[1], [1], [0], [-1], [-1]],
        }
    )
    write_table(judged, folder / "evaluation/sums.parquet")
    for number, seconds in enumerate((60.0, 30.0)):
        text = f"s\tmax_rss\n{seconds}\t{100 * (number + 1)}\n"
        (folder / f"benchmarks/fusion/both/{number}.tsv").write_text(text)
    return folder


def test_numbers_over_all_seeds_stand_for_those_of_each(results: Path) -> None:
    run = collect(results)
    assert run.find("distill", "sft", "sums", "exact_match")["value"] == 0.25
    assert run.find("fusion", "both", "sums", "exact_match")["value"] == 0.5  # its one seed is its only row


def test_steering_of_first_tokens_is_counted(results: Path) -> None:
    run = collect(results)
    shares = {name: run.find("fusion", "both", "sums", name)["value"] for name in ("first_token_by_0", "left_alone")}
    assert shares == {"first_token_by_0": 0.25, "left_alone": 0.25}
    assert run.find("fusion", "both", "sums", "first_token_by_1")["value"] == 0.5
    assert "alone" not in set(run.table["method"])  # nobody steers it


def test_jobs_are_added_up_by_stage(results: Path) -> None:
    (stage,) = collect(results).facts.stages
    assert (stage.name, stage.jobs, stage.seconds, stage.memory_mb) == ("fusion", 2, 90.0, 200.0)


def test_a_run_is_read_as_it_was_written(results: Path, tmp_path: Path) -> None:
    run = collect(results)
    write(run, tmp_path)
    again = read("mine", tmp_path)
    assert again.facts == run.facts
    pd.testing.assert_frame_equal(again.table, run.table)


def test_the_clock_counts_where_one_call_did_everything(results: Path) -> None:
    facts = collect(results).facts
    assert describe_time(facts) == "Its 2 jobs took 2 minutes, added up; several ran at a time."
    timed = replace(facts, seconds=600.0, cores=2)
    assert describe_time(timed) == "Its 2 jobs took 10 minutes on 2 cores."


@pytest.mark.parametrize(
    ("form", "shown"),
    [("interval", "0.50 [0.25, 0.75]"), ("plain", "0.50"), ("percent", "50 % [25, 75]"), ("points", "50.0"),
     ("count", "2"), ("n", "4")],
)  # fmt: skip
def test_numbers_are_shown_in_each_form(results: Path, form: str, shown: str) -> None:
    assert show(collect(results), "fusion/both/sums/exact_match", form) == shown


@pytest.mark.parametrize(
    "place", ["fusion/both/sums/accuracy", "fusion/both/sums/exact_match@4", "fusion/both/sums", "nonsense", "a/b/c/d"]
)
def test_a_number_that_is_not_there_is_refused(results: Path, place: str) -> None:
    with pytest.raises(UserError):
        fill(f"It is [[{place}]].", collect(results), {})


def test_a_page_without_a_template_has_every_table(results: Path) -> None:
    tables = {track: f"| {track} |\n| --- |\n" for track in TABLES}
    page = compose(collect(results), tables)
    assert all(table.strip() in page for table in tables.values())
    assert "[[" not in page


def test_the_demos_page_is_in_step_with_its_template() -> None:
    """All but the tables of the run, which are not kept apart from it, follow from what is stored."""
    run = read("demo")
    tables = dict.fromkeys(TABLES, "")
    page = (TEMPLATES.parents[1] / "results/demo.md").read_text()
    made = fill((TEMPLATES / "demo.md").read_text(), run, tables)
    missing = [line for line in made.splitlines() if line not in page.splitlines()]
    assert missing == []


def test_a_stored_run_says_which_code_and_config_made_it() -> None:
    facts = json.loads((TEMPLATES.parents[1] / "results/demo.json").read_text())
    assert facts["run"] == "demo"
    run: StoredRun = read("demo")
    assert set(run.table["config"]) == {facts["config"]}
    assert set(run.table["commit"]) == {facts["commit"]}


texts = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=20)


@given(before=texts, after=texts, old=texts, new=texts)
def test_a_part_is_replaced_and_nothing_else(before: str, after: str, old: str, new: str) -> None:
    page = f"{before}<!-- begin: x -->\n{old}<!-- end: x -->{after}"
    made = replace_part(page, "x", new)
    assert made == f"{before}<!-- begin: x -->\n{new.strip()}\n<!-- end: x -->{after}"
    assert replace_part(made, "x", new) == made


@pytest.mark.parametrize("page", ["", "<!-- begin: x -->\n", "<!-- begin: x -->\n<!-- end: x -->" * 2])
def test_a_page_without_the_one_part_is_refused(page: str) -> None:
    with pytest.raises(UserError, match="one part"):
        replace_part(page, "x", "new")
