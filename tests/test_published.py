"""The papers' tables: what they say, what repeats them, and that measured numbers never stand for theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import yaml
from checkout import ROOT

from logitfusion.config.evaluate import Report
from logitfusion.config.jobs.page import page_job
from logitfusion.config.load import load_config
from logitfusion.config.run import RunConfig
from logitfusion.evaluate.table import DTYPES
from logitfusion.report.index.facts import Facts, RunFiles
from logitfusion.report.index.grids import Grid
from logitfusion.report.index.published import published_grids, repeated_grids
from logitfusion.report.index.tables import tables_section
from logitfusion.report.published import PublishedTable, read_published
from logitfusion.tasks.find import find_folders
from logitfusion.tasks.harness import load_leaves

TRACKS = ("fusion", "distill", "clip")
TABLES = {table.name: table for track in TRACKS for table in read_published(track)}
REPEATED = {name: table for name, table in TABLES.items() if any(cell.measured for cell in table.cells)}


def places(table: PublishedTable) -> set[str]:
    """``task/metric`` of all measured numbers."""
    return {place for cell in table.cells for place in cell.measured.replace("|", " ").split()}


def facts_of(track: str, published: list[str], *rows: dict[str, Any]) -> Facts:
    """A run of the smoke config that says what it repeats, with a made-up table."""
    config = load_config(ROOT / "config/smoke.yaml").model_copy(update={"report": Report(published=published)})
    run = RunConfig.model_validate(config)
    common = dict.fromkeys(DTYPES) | {"track": track, "run": "made-up", "split": "test", "n": 100}
    table = pd.DataFrame([common | row for row in rows], columns=list(DTYPES), dtype=object).astype(DTYPES)
    files = RunFiles(metrics=Path("x.parquet"), full=Path("x.html"))
    return Facts(job=page_job(run), run=run, files=files, metrics=table, records={}, curves={})


def shown(grid: Grid, row: str, column: str) -> str:
    """The text of a cell, with what is under it."""
    (cells,) = [cells for cells in grid.rows if cells[0].text == row]
    (cell,) = [cell for cell, one in zip(cells, grid.columns, strict=True) if one.title == column]
    return f"{cell.text} {cell.more}".strip()


# ---- the data


def test_the_tables_that_a_config_can_name_are_those_that_something_measures() -> None:
    (named,) = get_args(Report.model_fields["published"].annotation)[:1]
    assert set(get_args(named)) == set(REPEATED)


@pytest.mark.parametrize("name", REPEATED)
def test_a_papers_config_repeats_its_table_under_the_same_names(name: str) -> None:
    """By the file alone, so that a row that nothing measures is found without a run."""
    table, config = TABLES[name], yaml.safe_load((ROOT / f"config/paper/{name}.yaml").read_text())
    track = config[table.track]
    assert config["report"]["published"] == [name]
    assert {cell.method for cell in table.cells if cell.method} <= track["methods"].keys()
    tasks = track["datasets"] if table.track == "clip" else config["tasks"]
    assert {place.partition("/")[0] for place in places(table)} <= tasks.keys()
    assert {int(cell.shots) for cell in table.cells if cell.shots} <= set(track.get("shots", ()))


@pytest.mark.parametrize("name", ["dlf-single", "dlf-multi"])
def test_what_is_measured_is_a_metric_of_the_task(name: str) -> None:
    """As the table of metrics names it: with the filter, unless that has no name."""
    run = load_config(ROOT / f"config/paper/{name}.yaml")
    for place in places(TABLES[name]):
        task, _, metric = place.partition("/")
        definition = run.tasks[task].harness
        for leaf in load_leaves(definition, find_folders(definition, None))["tasks"].values():
            metrics = [getattr(one["metric"], "__name__", one["metric"]) for one in leaf.config.metric_list]
            filters = [one["name"] for one in leaf.config.filter_list or [{"name": "none"}]]
            assert metric in {f"{one},{kind}".removesuffix(",none") for one in metrics for kind in filters}


def test_every_number_has_a_table_and_every_table_is_told() -> None:
    for table in TABLES.values():
        assert table.cells
        assert "arXiv" in table.source
        assert table.protocol.endswith(".")
        assert len({(cell.row, cell.column) for cell in table.cells}) == len(table.cells), "a number is there twice"
        methods = {cell.row: {other.method for other in table.cells if other.row == cell.row} for cell in table.cells}
        assert all(len(names) == 1 for names in methods.values()), "a row is one method"
        assert {table.base, table.ceiling} <= {"", *table.rows}


def test_averages_are_those_of_their_rows() -> None:
    """A slip of typing would show; the two that the paper has otherwise are told, with their means."""
    table = TABLES["dlf-single"]
    for row in table.rows:
        *parts, average = (cell.value for cell in table.cells if cell.row == row)
        mean = sum(parts) / len(parts)
        told = f"{mean:.2f}" in table.protocol
        assert (abs(mean - average) < 0.011) != told, row


# ---- what is shown


def test_published_tables_have_a_cell_for_each_column_and_are_labelled() -> None:
    for track in TRACKS:
        for grid in published_grids(track):
            assert all(len(cells) == len(grid.columns) for cells in grid.rows)
            assert grid.caption.startswith("Published")
            assert "arXiv" in grid.note


def test_numbers_are_shown_as_they_are_printed() -> None:
    """No digit is added to those that were read off a plot, or that are whole seconds."""
    eleven = next(grid for grid in published_grids("clip") if grid.name == "published-amu-11")
    assert shown(eleven, "AMU", "1 shot") == "66.9"
    assert shown(eleven, "CoOp", "1 shot") == "59.80"
    seconds = next(grid for grid in published_grids("fusion") if grid.name == "published-dlf-seconds")
    assert shown(seconds, "13B", "seconds") == "60"


def test_gap_closures_are_computed_and_not_the_papers_ratio() -> None:
    """Its "96.4 %" and "86.3 %" are ratios of scores (46.09 / 47.79 and 39.42 / 45.68)."""
    single, multi, *_ = published_grids("fusion")
    assert shown(single, "dynamic fusion from 7B", "gap closure") == "0.905"
    assert shown(single, "dynamic fusion from 1.1B", "gap closure") == "0.276"
    assert shown(multi, "dynamic fusion from 4 x 7B", "gap closure") == "0.192"
    assert float(shown(multi, "dynamic fusion from 4 x 1.1B", "gap closure")) < 0
    assert shown(single, "13B base", "gap closure") == ""


def test_measured_numbers_stand_beside_the_papers_and_change_none() -> None:
    score = {
        "method": "dlf_7b",
        "task": "gsm8k",
        "metric": "exact_match,strict-match",
        "value": 0.5,
        "ci_low": 0.4,
        "ci_high": 0.6,
    }
    other = {"method": "dlf_7b", "task": "gsm8k", "metric": "exact_match,flexible-extract", "value": 0.9}
    (grid,) = repeated_grids(facts_of("fusion", ["dlf-single"], score, other), "fusion")
    assert shown(grid, "dynamic fusion from 7B", "GSM8K EM, published") == "39.34"
    assert shown(grid, "dynamic fusion from 7B", "GSM8K EM, here") == "50.00 [40.00, 60.00]"
    assert shown(grid, "dynamic fusion from 7B", "average, here") == "", "four tasks of the average are missing"
    assert shown(grid, "13B base", "GSM8K EM, here") == ""
    alone, *_ = published_grids("fusion")
    for row in TABLES["dlf-single"].rows:
        for column in TABLES["dlf-single"].columns:
            assert shown(grid, row, f"{column}, published") == shown(alone, row, column)


def test_a_mean_of_several_tasks_is_the_papers() -> None:
    seen = {
        "gsm8k/exact_match,strict-match": 0.1,
        "truthfulqa/acc": 0.2,
        "triviaqa/exact_match,remove_whitespace": 0.3,
        "cnn_dailymail/rouge2": 0.4,
    }
    rows = [
        {"method": "dlf_7b", "task": place.partition("/")[0], "metric": place.partition("/")[2], "value": value}
        for place, value in (seen | {"mmlu/acc": 0.75}).items()
    ]
    (multi,) = repeated_grids(facts_of("fusion", ["dlf-multi"], *rows), "fusion")
    assert shown(multi, "dynamic fusion from 4 x 7B", "average, here") == "50.00", "(mean of four + MMLU) / 2"
    (single,) = repeated_grids(facts_of("fusion", ["dlf-single"], *rows), "fusion")
    assert shown(single, "dynamic fusion from 7B", "average, here") == "35.00", "mean of five"


def test_shots_are_kept_apart() -> None:
    rows = [
        {"method": "amu", "task": "imagenet", "metric": "accuracy", "value": shots / 20, "shots": shots}
        for shots in (1, 2, 4, 8, 16)
    ]
    single = [row | {"value": row["value"] / 2, "seed": seed} for row in rows for seed in (0, 1, 2)]
    for found in (rows, [*single, *rows]):  # the mean over seeds, whether or not those of single ones are there too
        (grid,) = repeated_grids(facts_of("clip", ["amu-imagenet"], *found), "clip")
        assert [shown(grid, "AMU", f"{shots} shots, here") for shots in (2, 16)] == ["10.00", "80.00"]


def test_a_run_that_repeats_no_table_shows_the_papers_alone() -> None:
    row = {"method": "large", "task": "sums", "metric": "exact_match", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6}
    page = tables_section(facts_of("fusion", [], row)).body
    assert "Published numbers of the paper (other models and data)" in page
    assert "and measured here:" not in page
    assert "and measured here:" in tables_section(facts_of("fusion", ["dlf-single"], row)).body
