"""What is measured of a student while it is trained, who is told of it, and when the training ends early."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from logitfusion.config.section import Count, Distinct, Section

Service = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class Monitoring(Section):
    """Evaluations of a student while it is trained."""

    evaluate: Distinct[str] = ()
    """Tasks whose validation texts are read meanwhile, for the loss on them; those of lm-evaluation-harness are
    answered too, for their metrics."""
    eval_steps: Count | None = None
    """Steps between evaluations; null: a tenth of all."""
    patience: Count | None = None
    """Evaluations in a row without a better one that end the training; the best student is kept. Null: the last one
    is kept."""
    best_by: Literal["loss", "metric"] = "loss"
    """What the best student is known by: its loss on all texts of evaluate, or the mean metric of their tasks."""
    report_to: Distinct[Service] = ()
    """Services that are told of losses and evaluations; the package of each must be installed."""

    @model_validator(mode="after")
    def _check_evaluate(self) -> Self:
        for name in ("eval_steps", "patience"):
            if getattr(self, name) is not None and not self.evaluate:
                raise PydanticCustomError("cross", "needs something to evaluate; name it in evaluate", {"key": name})
        if self.best_by != "loss" and self.patience is None:
            raise PydanticCustomError(
                "cross", "is of the best student, which is kept where patience is given; give it", {"key": "best_by"}
            )
        return self
