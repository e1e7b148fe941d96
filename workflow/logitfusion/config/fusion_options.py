"""How experts steer: the options of a fusion, for the config, the command line, the harness and Python alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Strict, Tag, model_validator
from pydantic_core import PydanticCustomError

from logitfusion.config.gate import Gate
from logitfusion.config.section import LARGEST, InputPath, NonNegative, Positive, Real, Section, Share, Some, tag

# The only lists of these names: a rule is the function of its name in ``fusion.rules``, a selection the object of its
# name in ``fusion.selections``.
SearchName = Literal["grid", "newton"]  # the rules that search
RuleName = Literal[SearchName, "gate"]
PoolName = Literal["pooled", "judged"]  # the selections that give all experts together one weight
SelectionName = Literal["one_hot", "matched", PoolName]


MOST_CANDIDATES = 10_000  # of a search at every token; the paper's grid has 21


def _read_weights(value: Any) -> Any:
    """``"dynamic"``, one number, or a tuple of numbers."""
    numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if value != "dynamic" and not all(map(_is_finite, numbers)):
        raise PydanticCustomError("cross", 'must be "dynamic", a number or a list of numbers', {})
    return numbers if isinstance(value, (list, tuple)) else value


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def _check_order(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise PydanticCustomError("cross", "must hold the lower weight first", {})
    return pair


def _find_form(value: Any) -> str:
    listed = isinstance(value, (list, tuple)) and len(value) > 0 and isinstance(value[0], (list, tuple))
    return tag("each") if listed else tag("all")


def _find_gate(value: Any) -> str:
    return tag("values" if isinstance(value, (dict, Gate)) else "file")


Weights = Annotated[Literal["dynamic"] | Real | tuple[Real, ...], BeforeValidator(_read_weights)]
Pair = Annotated[tuple[NonNegative, NonNegative], Strict(False), AfterValidator(_check_order)]
Bounds = Annotated[
    Annotated[Pair, Tag(tag("all"))] | Annotated[Some[Pair], Tag(tag("each"))], Discriminator(_find_form)
]
GateOption = Annotated[
    Annotated[InputPath, Tag(tag("file"))] | Annotated[Gate, Tag(tag("values"))],
    Discriminator(_find_gate),
    BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value),
]


class FusionOptions(Section):
    """The options of a fusion (Dynamic Logits Fusion, arXiv 2406.15480, eq. 3 to 6)."""

    weights: Weights = "dynamic"
    """dynamic (solved at every token), or a fixed weight for all experts, or one for each."""
    rule: RuleName = "grid"
    """How weights are solved: on the paper's grid, between its points by Newton's method, or by a learned gate."""
    gate: GateOption | None = None
    """The file of a fitted gate, for rule gate."""
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
    familiar: Real | None = None
    """Steer only after prompts that an expert reads at most this many nats a token worse than the large model."""

    @model_validator(mode="after")
    def _check_gate(self) -> FusionOptions:
        if self.rule != "gate":
            if self.gate is not None:
                raise PydanticCustomError("cross", "is for rule gate alone", {"key": "gate"})
            return self
        for name in ("selection", "bounds", "step"):
            if getattr(self, name) != type(self).model_fields[name].default:
                words = "is about a search, and rule gate searches nothing; remove it"
                raise PydanticCustomError("cross", words, {"key": name})
        return self

    @model_validator(mode="after")
    def _check_pool(self) -> FusionOptions:
        if isinstance(self.bounds[0], tuple) and self.selection in get_args(PoolName):
            words = "can't be given for each expert, because a pool of experts has one weight"
            raise PydanticCustomError("cross", words, {"key": "bounds"})
        return self

    @model_validator(mode="after")
    def _check_search(self) -> FusionOptions:
        for low, high in self.bounds if isinstance(self.bounds[0], tuple) else (self.bounds,):
            if self.step > high - low > 0:
                words = "is more than the bounds {low} and {high} are apart, and only the lower would be tried"
                raise PydanticCustomError("cross", words, {"key": "step", "low": low, "high": high})
            if (high - low) / self.step >= MOST_CANDIDATES:
                words = "makes more than {most} weights of {low} to {high}, and every one is tried at every token"
                facts = {"key": "step", "most": MOST_CANDIDATES, "low": low, "high": high}
                raise PydanticCustomError("cross", words, facts)
        return self
