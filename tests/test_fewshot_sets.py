"""The study of the few-shot default: what it says of made-up pictures whose answers are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from logitfusion.clip import Support
from logitfusion.clip.methods import DEFAULT_METHOD
from logitfusion.evaluate.intervals import wilson_interval
from pictures.scores import METHODS, PARTS, below_best, score_set
from pictures.sets import PictureSet, read_entries
from pictures.tables import as_markdown


def make_pictures(classes: int = 3, shots: int = 2, tested: int = 20) -> PictureSet:
    """Of which CLIP and the auxiliary know half each."""
    generator = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(classes, 16, generator=generator), dim=-1)

    def see(labels: torch.Tensor) -> torch.Tensor:
        return normalize(directions[labels] + 0.3 * torch.randn(len(labels), 16, generator=generator), dim=-1)

    labels, test = (torch.arange(classes).repeat_interleave(count) for count in (shots, tested))
    supports = {
        (shots, seed): Support(see(labels)[:, None], see(labels)[:, None], labels, directions.T, 10.0)
        for seed in range(2)
    }
    return PictureSet("made up", False, supports, see(test), see(test), test)


def test_a_method_is_not_below_itself_and_the_best_is_that_with_the_most_right() -> None:
    right = {"one": np.array([[1, 1, 0, 0]]), "other": np.array([[1, 1, 1, 0]])}
    assert below_best(right["other"], right, ("one", "other")) == {
        "best": "other",
        "difference": 0.0,
        "low": 0.0,
        "high": 0.0,
    }
    found = below_best(right["one"], right, ("one", "other"))
    assert found["best"] == "other"
    assert found["difference"] == -0.25
    assert found["low"] < -0.25 < found["high"] <= 0


def test_the_interval_of_a_difference_is_about_that_of_a_share() -> None:
    """Against a method that is always right, the difference is minus the share of wrong answers."""
    right = (np.arange(400) % 5 > 0)[None]
    found = below_best(right, {"sure": np.ones((1, 400))}, ("sure",))
    low, high = wilson_interval(80, 400)
    assert found["difference"] == pytest.approx(-0.2)
    assert (-found["high"], -found["low"]) == pytest.approx((low, high), abs=0.01)


def test_a_row_and_its_table() -> None:
    pictures = make_pictures()
    row = score_set(pictures, 2, 2, 1)
    assert row["n"] == 60
    assert row["support"] == [6, 6]
    assert set(row["accuracy"]) == set(METHODS)
    best = max(PARTS, key=lambda name: row["accuracy"][name])
    assert row["default"]["best"] == best
    assert row["default"]["difference"] == pytest.approx(row["accuracy"][DEFAULT_METHOD] - row["accuracy"][best])
    settings = {"seeds": 2, "compared": 1, "views": 1, "clip": "made up"}
    machine = {"device": "none", "torch": "none", "commit": "none"}
    table = as_markdown({"rows": [row], "settings": settings, "machine": machine})
    assert "made up (3 classes, held back)" in table
    head, made_up = (
        next(line for line in table.splitlines() if line.startswith(start)) for start in ("| set", "| made")
    )
    assert head.count("|") == made_up.count("|")


def test_a_pair_has_the_pictures_of_its_classes_alone() -> None:
    pair = make_pictures().pair("third or first", [2, 0])
    assert pair.labels.unique().tolist() == [0, 1]
    assert len(pair.labels) == 40
    full = make_pictures()
    support, whole = pair.supports[2, 0], full.supports[2, 0]
    assert support.labels.tolist() == [1, 1, 0, 0]
    assert torch.equal(support.classifier, whole.classifier[:, [2, 0]])
    assert torch.equal(support.clip, whole.clip[whole.labels != 1])


def test_every_set_is_pinned_and_says_whether_the_method_was_chosen_on_it() -> None:
    for entry in read_entries().values():
        assert isinstance(entry["chosen_on"], bool)
        assert entry["source"] == "digits" or len(entry["sha256"]) == 64
        if "classes" in entry:
            assert {one for pair in entry.get("pairs", []) for one in pair} <= set(entry["classes"])
