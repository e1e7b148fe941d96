"""Intervals and the tidy table, held against scipy and against hand-made numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from judged_tasks import make_judged, score_of
from scipy import stats

from logitfusion.config.evaluate import Evaluate
from logitfusion.config.tracks import FusionTrack
from logitfusion.evaluate.fusion import SEEN, tabulate_fusion
from logitfusion.evaluate.intervals import gap_closure, percentile_interval, resample_means, score_ratio
from logitfusion.evaluate.scores import METRIC, JudgedTask, read_judged
from logitfusion.evaluate.table import DTYPES, Provenance, TableWriter

SETTINGS = Evaluate(base="large", ceiling="ceiling", resamples=4000, confidence=0.95, seed=0)
PROVENANCE = Provenance(run="test", split="test", seed=0, config="c", commit="d")
TRACK = FusionTrack(split="test", seen=("a", "b"))


def judged(metric: str = "accuracy", *, higher: bool = True, **right: list[float]) -> JudgedTask:
    """A judged task: method -> what each document scored."""
    weights = {method: [[0.5], [1.5]] if method == "proxy" else [[], []] for method in right}
    return make_judged(right, metric, higher=higher, weights=weights)


def number(table: pd.DataFrame, method: str, task: str, metric: str) -> pd.Series:
    rows = table[(table["method"] == method) & (table["task"] == task) & (table["metric"] == metric)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_interval_is_scipys_percentile_bootstrap() -> None:
    correct = np.random.default_rng(1).random((1, 150)) < 0.7
    samples = resample_means(correct, 20000, np.random.default_rng(2))
    ours = percentile_interval(samples[0], 0.95)
    theirs = stats.bootstrap((correct[0],), np.mean, n_resamples=20000, method="percentile", rng=3).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.008)


def test_methods_are_resampled_together() -> None:
    correct = np.random.default_rng(1).random(100) < 0.5
    samples = resample_means(np.stack([correct, ~correct, correct]), 500, np.random.default_rng(0))
    assert samples[0] == pytest.approx(1 - samples[1])
    assert samples[0] == pytest.approx(samples[2])


def test_ratio_and_closure_by_hand() -> None:
    assert gap_closure(np.array(0.6), np.array(0.4), np.array(0.8)) == pytest.approx(0.5)
    assert score_ratio(np.array(0.6), np.array(0.8)) == pytest.approx(0.75)
    assert np.isnan(gap_closure(np.array(0.6), np.array(0.8), np.array(0.8)))
    assert np.isnan(score_ratio(np.array(0.0), np.array(0.0)))


def test_table_holds_the_definitions() -> None:
    first = judged(large=[1, 0, 0, 0], proxy=[1, 1, 0, 0], ceiling=[1, 1, 1, 0])
    second = judged("exact_match", large=[0, 0], proxy=[1, 1], ceiling=[1, 1])
    table = tabulate_fusion({"a": first, "b": second}, TRACK, SETTINGS, PROVENANCE)
    assert number(table, "proxy", "a", "accuracy")["value"] == 0.5
    assert number(table, "proxy", "a", "accuracy")["stderr"] == pytest.approx(np.sqrt(1 / 3) / 2)
    assert number(table, "proxy", "a", "gap_closure")["value"] == pytest.approx(0.5)
    assert number(table, "proxy", "a", "score_ratio")["value"] == pytest.approx(2 / 3)
    assert number(table, "proxy", "a", "mean_weight")["value"] == pytest.approx(1.0)
    assert number(table, "proxy", "a", "tokens_per_second")["value"] == pytest.approx(8 / 2)
    assert number(table, "proxy", SEEN, "score")["value"] == pytest.approx(0.75)
    assert number(table, "proxy", SEEN, "gap_closure")["value"] == pytest.approx((0.75 - 0.125) / (0.875 - 0.125))
    assert number(table, "proxy", SEEN, "score")["n"] == 6
    assert (table["seed"] == 0).all()
    compared = table[table["better"].notna()]
    assert set(zip(compared["task"], compared["metric"], strict=True)) == {
        ("a", "accuracy"), ("b", "exact_match"), (SEEN, "score"),
    }  # fmt: skip
    assert (compared["better"] == "higher").all()


def test_average_leaves_out_methods_that_skip_a_task() -> None:
    first, second = judged(large=[1, 0], ceiling=[1, 1], proxy=[0, 0]), judged(large=[1, 0], ceiling=[1, 1])
    table = tabulate_fusion({"a": first, "b": second}, TRACK, SETTINGS, PROVENANCE)
    assert set(table[table["task"] == SEEN]["method"]) == {"large", "ceiling"}
    averages = table[(table["task"] == SEEN) & (table["metric"] == "score")]
    assert averages["method"].tolist() == ["ceiling", "large"]  # in the order of each task


def test_where_lower_is_better_the_best_is_the_lowest() -> None:
    """A closed gap is one that was closed downwards; averages with accuracies would mean nothing."""
    losses = {"large": [4.0, 6.0], "proxy": [3.0, 5.0], "ceiling": [2.0, 2.0]}
    first = judged("perplexity", higher=False, **losses)
    table = tabulate_fusion({"a": first, "b": judged(large=[1, 0])}, TRACK, SETTINGS, PROVENANCE)
    assert number(table, "proxy", "a", "gap_closure")["value"] == pytest.approx((4 - 5) / (2 - 5))
    assert number(table, "proxy", "a", "behind_best")["value"] == 0
    assert number(table, "large", "a", "behind_best")["value"] == pytest.approx(1)
    assert number(table, "proxy", "a", "gain")["value"] == pytest.approx(-1)
    assert number(table, "large", "a", "perplexity")["better"] == "lower"
    assert "score_ratio" not in set(table["metric"])
    assert SEEN not in set(table["task"])


def test_a_metric_that_is_no_mean_has_the_harness_numbers_and_no_interval() -> None:
    task = judged("f1", large=[1, 0, 1], proxy=[1, 1, 0])
    for method, value in (("large", 0.25), ("proxy", 0.5)):
        task.scores[method] = [replace(task.scores[method][0], value=value, stderr=0.125)]
    table = tabulate_fusion({"a": task}, TRACK, SETTINGS, PROVENANCE)
    found = number(table, "proxy", "a", "f1")
    assert (found["value"], found["stderr"]) == (0.5, 0.125)
    assert table[table["metric"].isin(["f1", "gain"])][["ci_low", "ci_high"]].isna().all(axis=None)
    assert number(table, "proxy", "a", "gain")["value"] == pytest.approx(0.25)


def test_all_metrics_of_a_group_and_of_its_subtasks_are_told() -> None:
    """Intervals of the group resample all documents, those of a subtask its own; numbers repeat between subtasks."""
    values = {"large": [1.0, 0.0, 1.0, 1.0], "proxy": [0.0, 0.0, 1.0, 1.0]}
    task = make_judged(values, "acc")
    parts = {"first": slice(0, 1), "second": slice(1, 4)}
    task.examples["subtask"] = [name for _ in values for name in ("first", "second", "second", "second")]
    task.examples["id"] = [number for _ in values for number in (0, 0, 1, 2)]
    task.examples[f"{METRIC}acc_norm"] = 1.0 - task.examples[f"{METRIC}acc"]
    for method, own in values.items():
        task.scores[method].append(score_of("acc_norm", [1 - value for value in own], higher=None))
        task.scores[method] += [score_of("acc", own[part], subtask=name) for name, part in parts.items()]
    table = tabulate_fusion({"a": task}, TRACK, SETTINGS, PROVENANCE)
    rows = table[(table["method"] == "large") & table["metric"].str.startswith("acc")]
    found = {(row["metric"], row["subtask"]): row for row in rows.fillna({"subtask": ""}).to_dict("records")}
    assert {key: row["value"] for key, row in found.items()} == {
        ("acc", ""): 0.75, ("acc_norm", ""): 0.25, ("acc", "first"): 1.0, ("acc", "second"): pytest.approx(2 / 3),
    }  # fmt: skip
    assert [row["better"] for row in found.values()].count("higher") == 1
    assert found["acc", ""]["ci_low"] == pytest.approx(1 - found["acc_norm", ""]["ci_high"])
    assert (found["acc", "first"]["ci_low"], found["acc", "first"]["ci_high"], found["acc", "first"]["n"]) == (1, 1, 1)


def test_judged_tasks_are_read_as_they_were_written(tmp_path: Path) -> None:
    task = judged(large=[1, 0], proxy=[0.5, 0])
    task.write(tmp_path / "a.parquet", tmp_path / "a.json")
    again = read_judged(tmp_path / "a.parquet", tmp_path / "a.json")
    assert (again.metric, again.scores) == (task.metric, task.scores)
    assert again.examples[f"{METRIC}accuracy"].tolist() == [1, 0, 0.5, 0]
    assert again.examples["correct"].isna().all(), "half a point is neither right nor wrong"
    assert judged(large=[1, 0]).examples["correct"].tolist() == [True, False]


def test_every_column_has_its_type_whatever_it_holds() -> None:
    writer = TableWriter("clip", SETTINGS, PROVENANCE)
    assert writer.table().dtypes.astype(str).to_dict() == DTYPES
    writer.add("accuracy", 0.5, method="m", task="t", n=4)
    writer.add("accuracy", 1, method="m", task="t", n=4, shots=2, seed=7)
    table = writer.table()
    assert table.dtypes.astype(str).to_dict() == DTYPES
    assert table["seed"].tolist() == [0, 7]  # a row's own seed comes before that of the track
    assert table["shots"].isna().tolist() == [True, False]
    assert table["ci_low"].isna().all()
    with pytest.raises(TypeError, match="metod"):
        writer.add("accuracy", 0.5, metod="m", task="t", n=4)


def test_only_texts_can_lack_the_asked_form() -> None:
    """A group may have both: its share is of the texts, and a task that compares likelihoods has none."""
    named = {"large": [1.0, 0.0, 1.0]}
    mixed = make_judged(
        named, loglikelihoods={"large": ([], [-1.0], [])}, format_failure={"large": (True, False, False)}
    )
    chosen = make_judged(named, loglikelihoods={"large": [-1.0, -2.0]})
    table = tabulate_fusion({"a": mixed, "b": chosen}, TRACK, SETTINGS, PROVENANCE)
    failures = table[table["metric"] == "format_failures"]
    assert [(row.task, row.value, row.n) for row in failures.itertuples()] == [("a", 0.5, 2)]
