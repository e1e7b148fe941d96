"""Graph-on-logits distillation: several teachers, whatever their vocabularies, into one student (arXiv 2505.13893)."""

from logitfusion.distill.losses import gld_loss, uld_loss
from logitfusion.distill.objective import CachedTeacher, DistillLoss, Teacher, distill_loss
from logitfusion.distill.predictions import Predictions, predict, predict_at

__all__ = [
    "CachedTeacher",
    "DistillLoss",
    "Predictions",
    "Teacher",
    "distill_loss",
    "gld_loss",
    "predict",
    "predict_at",
    "uld_loss",
]
