"""How experts steer: the options of a fusion, for the config, the command line, the harness and Python alike."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Strict, Tag, model_validator
from pydantic_core import PydanticCustomError

from logitfusion.config.section import NonNegative, Positive, Section, Share, Some, tag

# The only lists of these names: a rule is the function of its name in ``fusion.rules``, a selection the object of its
# name in ``fusion.selections``.
RuleName = Literal["grid", "newton"]
PoolName = Literal["pooled", "judged"]  # the selections that give all experts together one weight
SelectionName = Literal["one_hot", "matched", PoolName]


LARGEST = 1e30  # of a weight: far beyond it, fused logits overflow fp32


def _read_weights(value: Any) -> Any:
    """``"dynamic"``, one number, or a tuple of numbers."""
    numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if value != "dynamic" and not all(map(_is_finite, numbers)):
        raise PydanticCustomError("cross", 'must be "dynamic", a number or a list of numbers', {})
    return numbers if isinstance(value, (list, tuple)) else value


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _check_order(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise PydanticCustomError("cross", "must hold the lower weight first", {})
    return pair


def _find_form(value: Any) -> str:
    listed = isinstance(value, (list, tuple)) and len(value) > 0 and isinstance(value[0], (list, tuple))
    return tag("each") if listed else tag("all")


Weights = Annotated[Literal["dynamic"] | float | tuple[float, ...], BeforeValidator(_read_weights)]
Pair = Annotated[tuple[NonNegative, NonNegative], Strict(False), AfterValidator(_check_order)]
Bounds = Annotated[
    Annotated[Pair, Tag(tag("all"))] | Annotated[Some[Pair], Tag(tag("each"))], Discriminator(_find_form)
]


class FusionOptions(Section):
    """The options of a fusion (Dynamic Logits Fusion, arXiv 2406.15480, eq. 3 to 6)."""

    weights: Weights = "dynamic"
    """dynamic (solved at every token), or a fixed weight for all experts, or one for each."""
    rule: RuleName = "grid"
    """How weights are solved: on the paper's grid, or between its points by Newton's method."""
    selection: SelectionName = "judged"
    """How several experts share the steering; one_hot is the paper's."""
    bounds: Bounds = (0.0, 2.0)
    """The smallest and the largest weight that is searched, or such a pair for each expert."""
    step: Positive = 0.1
    """Distance of the grid's points."""
    trust: Share = 1.0
    """In solved weights: 1 uses them as they are; below it their sum is drawn to the anchor, 0 gives all the anchor."""
    anchor: NonNegative = 1.0
    """The sum of the weights where solved ones are not trusted."""
    familiar: float | None = None
    """Steer only after prompts that the base reads at most this many nats a token worse than the large model."""

    @model_validator(mode="after")
    def _check_pool(self) -> FusionOptions:
        if isinstance(self.bounds[0], tuple) and self.selection in get_args(PoolName):
            words = "can't be given for each expert, because a pool of experts has one weight"
            raise PydanticCustomError("cross", words, {"key": "bounds"})
        return self
