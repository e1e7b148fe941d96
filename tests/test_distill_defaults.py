"""The options of distillation: one class, from which the public losses have their defaults and names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from logitfusion.config.meanings import read_meanings
from logitfusion.config.objective import Combine, Divergence, Nodes, Normalisation, Objective, Signal
from logitfusion.distill import Teacher, distill_loss, gld_loss, uld_loss

FIELDS = Objective.model_fields
# Under another name, because a factor of the objective is a weight where ULD and GLD are functions.
RENAMED = {"uld_weight": "uld", "gld_weight": "gld", "kl_weight": "kl"}
# By default ULD is over whole vocabularies, as published: no objective for cached teachers can be that.
UNLIKE = {(uld_loss, "k"): None}


@pytest.mark.parametrize("loss", [gld_loss, uld_loss, distill_loss])
def test_defaults_are_those_of_the_objective(loss: Callable[..., Any]) -> None:
    compared = {}
    for name, parameter in inspect.signature(loss).parameters.items():
        if RENAMED.get(name, name) in FIELDS and parameter.default is not parameter.empty:
            field = FIELDS[RENAMED.get(name, name)]
            compared[name] = parameter.default, UNLIKE.get((loss, name), field.default)
    assert compared.keys() >= {"k", "signal"}
    assert all(found == expected for found, expected in compared.values()), compared


def test_the_objective_is_a_plain_loss_by_default() -> None:
    assert Objective().dump() == {
        "uld": 0.0, "gld": 0.0, "k": 10, "nodes": "vocab", "signal": "prob", "combine": "sum", "weights": None,
        "alignment": "bytes", "kl": 0.0, "divergence": "forward", "temperature": 1.0, "hybrid": 0.0,
        "shared_weight": None, "normalisation": "labels", "on_policy": 0.0, "new_tokens": 128,
    }  # fmt: skip


def test_every_field_has_a_meaning() -> None:
    assert FIELDS.keys() == read_meanings(Objective).keys()


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("nodes", Nodes),
        ("signal", Signal),
        ("combine", Combine),
        ("divergence", Divergence),
        ("normalisation", Normalisation),
    ],
)
def test_losses_and_objective_know_the_same_names(name: str, known: Any) -> None:
    logits, labels = torch.zeros(1, 3, 12), torch.zeros(1, 3, dtype=torch.int64)

    def loss(value: str) -> None:
        distill_loss(logits, labels, [Teacher(logits, labels)], uld_weight=0.0, gld_weight=0.5, **{name: value})

    for value in get_args(known):
        loss(value)
        Objective(**{name: value}, weights=[1.0] if value == "weighted" else None)
    with pytest.raises(ValueError, match=f"{name} is one of"):
        loss("other")
    with pytest.raises(ValidationError):
        Objective(**{name: "other"})


@pytest.mark.parametrize(
    "values",
    [
        {"uld": 0.6, "gld": 0.6},
        {"uld": 0.4, "gld": 0.3, "kl": 0.4},
        {"temperature": 0.0},
        {"uld": -0.1},
        {"k": 0},
        {"k": True},
        {"combine": "weighted"},
        {"weights": [1.0]},
        {"combine": "weighted", "weights": [-1.0]},
        {"gdl": 0.1},
    ],
)
def test_what_is_no_objective_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Objective.model_validate(values)
