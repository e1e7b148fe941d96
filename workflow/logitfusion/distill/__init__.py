"""Graph-on-logits distillation: several teachers, whatever their vocabularies, into one student (arXiv 2505.13893)."""

from logitfusion.distill.losses import gld_loss, uld_loss
from logitfusion.distill.objective import DistillLoss, Teacher, distill_loss

__all__ = ["DistillLoss", "Teacher", "distill_loss", "gld_loss", "uld_loss"]
