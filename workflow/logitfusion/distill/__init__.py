"""Graph-on-logits distillation: several teachers, whatever their vocabularies, into one student (arXiv 2505.13893)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from logitfusion.distill.losses import gld_loss, uld_loss
from logitfusion.distill.objective import CachedTeacher, DistillLoss, Teacher, distill_loss
from logitfusion.distill.predictions import Predictions, predict, predict_at

if TYPE_CHECKING:
    from logitfusion.distill.arguments import DistillationConfig
    from logitfusion.distill.trainer import DistillationTrainer

__all__ = [
    "CachedTeacher",
    "DistillLoss",
    "DistillationConfig",
    "DistillationTrainer",
    "Predictions",
    "Teacher",
    "distill_loss",
    "gld_loss",
    "predict",
    "predict_at",
    "uld_loss",
]

_PLACES = {"DistillationConfig": "arguments", "DistillationTrainer": "trainer"}


def __getattr__(name: str) -> Any:
    """What trains on first use: the losses need no Trainer of transformers."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
