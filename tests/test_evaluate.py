"""Intervals and the tidy table, held against scipy and against hand-made numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from logitfusion.config.evaluate import Evaluate
from logitfusion.config.tasks import Answer
from logitfusion.config.tracks import FusionTrack
from logitfusion.errors import UserError
from logitfusion.evaluate.fusion import SEEN, tabulate_fusion
from logitfusion.evaluate.intervals import gap_closure, percentile_interval, resample_means, score_ratio
from logitfusion.evaluate.judged import judge_generations
from logitfusion.evaluate.table import DTYPES, Provenance, TableWriter

SETTINGS = Evaluate(base="large", ceiling="ceiling", resamples=4000, confidence=0.95, seed=0)
PROVENANCE = Provenance(run="test", split="test", seed=0, config="c", commit="d")
TRACK = FusionTrack(split="test", seen=("a", "b"))


def judged(**right: list[int]) -> pd.DataFrame:
    """A judged table: method -> 1 for each right example."""
    rows = [
        {"method": method, "id": number, "correct": bool(value), "format_failure": False, "tokens": ["a", "b"],
         "weights": [[0.5], [1.5]] if method == "proxy" else [[], []], "seconds": 0.5}
        for method, values in right.items() for number, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


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
    second = judged(large=[0, 0], proxy=[1, 1], ceiling=[1, 1])
    metrics = {"a": "accuracy", "b": "exact_match"}
    table = tabulate_fusion({"a": first, "b": second}, metrics, TRACK, SETTINGS, PROVENANCE)
    assert number(table, "proxy", "a", "accuracy")["value"] == 0.5
    assert number(table, "proxy", "a", "gap_closure")["value"] == pytest.approx(0.5)
    assert number(table, "proxy", "a", "score_ratio")["value"] == pytest.approx(2 / 3)
    assert number(table, "proxy", "a", "mean_weight")["value"] == pytest.approx(1.0)
    assert number(table, "proxy", "a", "tokens_per_second")["value"] == pytest.approx(8 / 2)
    assert number(table, "proxy", SEEN, "score")["value"] == pytest.approx(0.75)
    assert number(table, "proxy", SEEN, "gap_closure")["value"] == pytest.approx((0.75 - 0.125) / (0.875 - 0.125))
    assert number(table, "proxy", SEEN, "score")["n"] == 6
    assert (table["seed"] == 0).all()


def test_average_leaves_out_methods_that_skip_a_task() -> None:
    first, second = judged(large=[1, 0], ceiling=[1, 1], proxy=[0, 0]), judged(large=[1, 0], ceiling=[1, 1])
    metrics = {"a": "accuracy", "b": "accuracy"}
    table = tabulate_fusion({"a": first, "b": second}, metrics, TRACK, SETTINGS, PROVENANCE)
    assert set(table[table["task"] == SEEN]["method"]) == {"large", "ceiling"}
    assert table[(table["task"] == SEEN) & (table["metric"] == "score")]["method"].tolist() == [
        "ceiling",
        "large",
    ]  # in the order of each task


def test_shards_that_do_not_hold_each_example_once_are_refused() -> None:
    examples = [{"id": 0, "prompt": "p", "answers": ["1"]}, {"id": 1, "prompt": "q", "answers": ["2"]}]
    row = {"text": " 1", "tokens": ["1"], "weights": [[]], "expert": [-1], "seconds": 0.1}
    form = Answer(kind="number")
    whole = judge_generations(examples, {"m": [row | {"id": 1}, row | {"id": 0}]}, form)
    assert whole.set_index("id")["correct"].to_dict() == {0: True, 1: False}
    for ids in ([0], [0, 0], [0, 1, 1], [0, 2]):
        with pytest.raises(UserError, match="'m'"):
            judge_generations(examples, {"m": [row | {"id": number} for number in ids]}, form)


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
