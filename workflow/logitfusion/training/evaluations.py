"""Evaluations of a model while it is trained: when they are made, what is said and kept of them, and when to stop."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from logitfusion.config.monitoring import Monitoring
from logitfusion.errors import UserError

logger = logging.getLogger(__name__)

_PREFIX = "eval_"
_COSTS = ("runtime", "samples_per_second", "steps_per_second")  # what transformers adds to each


class Evaluations(TrainerCallback):
    """Says each evaluation in a line, makes the last one at the training's end, and keeps all of them.

    Attributes:
        rows: ``step`` and what was found there, by name.
    """

    def __init__(self, name: str, monitoring: Monitoring) -> None:
        self.name, self.monitoring = name, monitoring
        self.rows: list[dict[str, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_evaluate |= state.global_step == state.max_steps

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        found = _found(metrics)
        if self.monitoring.patience is not None and self.monitoring.best_by not in found:
            raise UserError(
                f"{self.name}: best_by is metric, and not all tasks of evaluate have one that is better when it is"
                " higher; name other tasks or metrics, or go by the loss."
            )
        parts = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        logger.info("%s: evaluation at step %d: %s", self.name, state.global_step, parts)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        evaluated = [row for row in state.log_history if f"{_PREFIX}loss" in row]
        self.rows = [{"step": row["step"]} | _found(row) for row in evaluated]
        if self.monitoring.patience is not None and state.best_global_step is not None:
            best = f"the student of step {state.best_global_step} is the best"
            if state.global_step < state.max_steps:
                best = f"stopped at step {state.global_step} of {state.max_steps}; {best}"
            logger.info("%s: %s", self.name, best)


def _found(metrics: dict[str, float]) -> dict[str, float]:
    """What an evaluation found, without what it cost."""
    named = {name.removeprefix(_PREFIX): value for name, value in metrics.items() if name.startswith(_PREFIX)}
    return {name: value for name, value in named.items() if name not in _COSTS}


def evaluation_settings(monitoring: Monitoring, name: str) -> dict[str, Any]:
    """transformers' settings for evaluations; ``name`` is the training's, for services.

    Raises:
        UserError: a service whose package is not installed.
    """
    settings: dict[str, Any] = {"report_to": _find_services(monitoring) or "none", "run_name": name}
    if monitoring.evaluate:
        # Below 1 it is a share of all steps.
        settings |= {"eval_strategy": "steps", "eval_steps": monitoring.eval_steps or 0.1}
    if monitoring.patience is not None:
        settings |= {
            "save_strategy": "best",
            "load_best_model_at_end": True,
            "metric_for_best_model": monitoring.best_by,
            "greater_is_better": monitoring.best_by == "metric",
            "restore_callback_states_from_checkpoint": True,  # how long none was better
        }
    return settings


def evaluation_callbacks(evaluations: Evaluations) -> list[TrainerCallback]:
    """What follows the evaluations of a training."""
    monitoring = evaluations.monitoring
    if not monitoring.evaluate:
        return []
    stopping = [] if monitoring.patience is None else [EarlyStoppingCallback(monitoring.patience)]
    return [evaluations, *stopping]


def _find_services(monitoring: Monitoring) -> list[str]:
    for service in monitoring.report_to:
        if importlib.util.find_spec(service) is None:
            raise UserError(
                f"report_to names {service}, which is not installed; install it (pip install {service}), or leave it"
                " out."
            )
    return list(monitoring.report_to)
