"""What the ways to steer are decoded with on validation documents."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from logitfusion.fusion.prompts import PromptMemory
from logitfusion.fusion.ways import FOLDS, Way
from logitfusion.stages import _validation
from logitfusion.stages._validation import Validation

GAPS = {"a": [0.1, 0.9, 0.3, 0.5, 0.2, 0.4], "b": [1.0, 0.0, 2.0, 0.7, 0.6]}


def make(share: float | None) -> Validation:
    fusions = SimpleNamespace(memory=PromptMemory())
    return Validation({"a": None, "b": None}, fusions, SimpleNamespace(tune=SimpleNamespace(steered_share=share)), GAPS)


@pytest.mark.parametrize("share", [None, 0.8])
def test_strange_prompts_are_left_alone_there_too(monkeypatch: pytest.MonkeyPatch, share: float | None) -> None:
    """From a likelihood gap on that was chosen without the documents that are decoded."""
    asked: list[tuple[str, int, dict[str, Any]]] = []
    monkeypatch.setattr(Validation, "_decode", lambda self, *call: asked.append(call) or [])
    monkeypatch.setattr(_validation, "_measure", lambda task, said, way: torch.zeros(5))
    ways = [Way("fixed", {}, [{"weights": float(fold)} for fold in range(FOLDS)], {})]
    assert [way.metrics.keys() for way in make(share).measure(["a", "b"], ways)] == [GAPS.keys()]
    assert len(asked) == 2 * FOLDS
    for _, fold, options in asked:
        others = [gap for gaps in GAPS.values() for place, gap in enumerate(gaps) if place % FOLDS != fold]
        familiar = {} if share is None else {"familiar": pytest.approx(np.quantile(others, share))}
        assert options == {"weights": float(fold)} | familiar


def test_what_is_chosen_in_the_end_has_seen_every_prompt() -> None:
    every = [gap for gaps in GAPS.values() for gap in gaps]
    assert make(0.8).find_familiar(["a", "b"]) == {"familiar": pytest.approx(np.quantile(every, 0.8))}
    assert make(None).find_familiar(["a"]) == {}
