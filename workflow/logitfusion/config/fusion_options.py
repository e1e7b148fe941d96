"""How experts steer: the options of a fusion, for the config, the command line, the harness and Python alike."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Strict, model_validator
from pydantic_core import PydanticCustomError

from logitfusion.config.section import NonNegative, Positive, Section, Share

Bounds = Annotated[tuple[NonNegative, NonNegative], Strict(False)]


def _read_weights(value: Any) -> Any:
    """``"dynamic"``, one number, or a tuple of numbers."""
    numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if value != "dynamic" and not all(map(_is_finite, numbers)):
        raise PydanticCustomError("weights", 'must be "dynamic", a number or a list of numbers', {})
    return numbers if isinstance(value, (list, tuple)) else value


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class FusionOptions(Section):
    """The options of a fusion (Dynamic Logits Fusion, arXiv 2406.15480, eq. 3 to 6)."""

    weights: Annotated[Literal["dynamic"] | float | tuple[float, ...], BeforeValidator(_read_weights)] = "dynamic"
    """dynamic (solved at every token), or a fixed weight for all experts, or one for each."""
    rule: Literal["grid", "newton"] = "grid"
    """How weights are solved: on the paper's grid, or between its points by Newton's method."""
    selection: Literal["one_hot", "matched", "pooled", "judged"] = "judged"
    """How several experts share the steering; one_hot is the paper's."""
    bounds: Bounds = (0.0, 2.0)
    """The smallest and the largest weight that is searched."""
    step: Positive = 0.1
    """Distance of the grid's points."""
    trust: Share = 1.0
    """In solved weights: 1 uses them as they are; below it their sum is drawn to the anchor, 0 gives all the anchor."""
    anchor: NonNegative = 1.0
    """The sum of the weights where solved ones are not trusted."""
    familiar: float | None = None
    """Steer only after prompts that the base reads at most this many nats a token worse than the large model."""

    @model_validator(mode="after")
    def _check_bounds(self) -> FusionOptions:
        if self.bounds[0] > self.bounds[1]:
            raise PydanticCustomError("bounds", "must hold the lower weight first", {"key": "bounds"})
        return self
