"""Texts to learn from: data sets and files, filtered and mixed, of which nothing is measured."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import AfterValidator, BeforeValidator, model_validator
from pydantic_core import PydanticCustomError

from logitfusion.config.section import (
    Count,
    HubId,
    InputPath,
    PositiveShare,
    Revision,
    Section,
    Seed,
    Some,
    Text,
    Whole,
    either,
    text,
)

Value = str | int | float | bool | None
Splits = text(r"^\w[\w.-]*( *\+ *\w[\w.-]*)*\Z", "a split of the data set, or several: train+validation")


def _listed(value: Any) -> Any:
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values or not all(one is None or isinstance(one, (str, int, float)) for one in values):
        raise PydanticCustomError("cross", "must be a value of the column, or a list of such values")
    return tuple(values)


# One value, or one of several.
Values = Annotated[tuple[Value, ...], BeforeValidator(_listed, json_schema_input_type=Value | list[Value])]


def _regex_replace(value: str, pattern: str, repl: str, count: int = 0) -> str:
    return re.sub(pattern, repl, value, count=count)


# As lm-evaluation-harness has them, but that they can do nothing else than make a text.
TEMPLATES = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
TEMPLATES.filters["regex_replace"] = _regex_replace


def _check_template(value: str) -> str:
    try:
        TEMPLATES.from_string(value)
    except TemplateSyntaxError as error:
        words = "is a template that Jinja can't read ({message})"
        raise PydanticCustomError("cross", words, {"message": (error.message or "").rstrip(".")}) from None
    return value


# A column of a data set; with {{ or {% a Jinja template of columns, as in a task of lm-evaluation-harness.
Template = Annotated[Text, AfterValidator(_check_template)]


class HubSplit(Section):
    """A split of a data set of the hub."""

    dataset: HubId
    """owner/name on the hub."""
    subset: str | None = None
    """The data set's configuration, if it has several."""
    split: Splits
    """Of the data set; a plus joins several: train+validation."""
    revision: Revision = "main"
    """A commit (best), a tag or a branch; the commit that a branch was is recorded, and stays the run's."""


class HubRows(HubSplit):
    """What is read of a data set of the hub, for a config's texts or for a task of lm-evaluation-harness."""

    options: dict[str, Any] = {}
    """Further arguments of datasets.load_dataset."""


class Reading(Section):
    """How rows become texts, and which of them do."""

    messages: Text | None = None
    """The column that holds a conversation: a list of turns, {role, content} or {from, value}."""
    prompt: Template | None = None
    """In place of messages: a column, or a Jinja template of columns ({{question}}), as in lm-evaluation-harness."""
    completion: Template | None = None
    """What is learnt after the prompt: a column, or a template."""
    delimiter: str = " "
    """Between prompt and completion."""
    where: dict[Text, Values] = {}
    """Column -> its value in rows that are kept, or a list of such values."""
    min_chars: Whole = 0
    """Shorter texts, of all turns together, are left out."""
    max_chars: Count | None = None
    """Longer ones are left out."""

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        pair = (self.prompt is not None, self.completion is not None)
        if pair != (self.messages is None,) * 2:
            words = "must name its column of messages, or its prompt and completion"
            raise PydanticCustomError("cross", words)
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise PydanticCustomError("cross", "has a min_chars above its max_chars, which no text can have")
        return self


class Texts(Reading):
    """What data sets and files have in common as parts of a mixture."""

    share: PositiveShare | None = None
    """Of the mixture's texts. Without shares all rows are equally likely."""


class HubTexts(HubSplit, Texts):
    """Texts of a data set of the hub."""

    @property
    def hub_rows(self) -> HubRows:
        """The rows alone."""
        return HubRows(**dict(self.part(HubSplit)))


class FileTexts(Texts):
    """Texts of a file of this machine."""

    path: InputPath
    """A file with one JSON object a line."""


class TextTask(Section):
    """Texts that experts and students learn from; what they have learnt is measured on other tasks."""

    texts: Some[either("dataset", having=HubTexts, lacking=FileTexts)]
    """Data sets of the hub, and files; of several a mixture is made."""
    train: Count
    """Texts that are trained on."""
    validation: Whole = 0
    """Texts for choosing anything; no prompt of them is trained on."""
    seed: Seed = 0
    """Of the draw from the rows."""
    distinct: bool = True
    """One text a prompt (compared without case and spacing), the first; else all."""

    @model_validator(mode="after")
    def _has_whole_shares(self) -> Self:
        shares = [part.share for part in self.texts if part.share is not None]
        if shares and len(shares) < len(self.texts):
            raise PydanticCustomError("cross", "has texts with a share and texts without; give each a share, or none")
        if shares and abs(sum(shares) - 1) > 1e-6:
            words = "has shares that sum to {sum}; they must sum to 1"
            raise PydanticCustomError("cross", words, {"sum": f"{sum(shares):g}"})
        return self
