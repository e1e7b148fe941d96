"""What all sections of a config share: frozen typed classes, whose fields are key, default, range and meaning at once.

A section is a pydantic class: the type of a field has its range, the text under it its meaning and unit
(``config.meanings``). From these come the checks, the JSON schema for editors, the reference page of keys, and the
objects that the package works with.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    TypeAdapter,
    model_validator,
)
from pydantic_core import PydanticCustomError, ValidationError

from logitfusion.config.errors import explain, is_scientific
from logitfusion.errors import UserError

Item = TypeVar("Item")
Part = TypeVar("Part", bound="Section")


class Section(BaseModel):
    """A frozen section: unknown keys, numbers that are not finite, and values of another type are errors.

    100.0 is a float wherever a count is used, so it is no integer here, and neither is ``true``.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        serialize_by_alias=True,
        validate_by_name=True,
        validate_by_alias=True,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _know_keys(cls, value: Any) -> Any:
        """Refuse unknown keys; the error carries those that are known."""
        known = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = [key for key in value if key not in known] if isinstance(value, dict) else []
        if unknown and cls.model_config["extra"] == "forbid":
            raise PydanticCustomError("unknown_key", "unknown key", {"unknown": str(unknown[0]), "known": known})
        return value

    def dump(self, **options: Any) -> dict[str, Any]:
        """The section as JSON knows it, all defaults written out."""
        return self.model_dump(mode="json", **options)

    def part(self, base: type[Part]) -> Part:
        """Only the fields of a class that this one extends."""
        return base.model_construct(**{name: getattr(self, name) for name in base.model_fields})


def one_of(key: str, **members: Any) -> Any:
    """A section whose class is decided by the value of its own ``key``: ``source``, ``kind``."""

    def find(value: Any) -> str | None:
        given = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return given if given is None else tag(str(given))

    context = {"key": key, "known": list(members)}
    return _union(find, members, custom_error_type="one_of", custom_error_message=key, custom_error_context=context)


def either(key: str, *, having: Any, lacking: Any) -> Any:
    """One section for entries that have a ``key``, another for those that lack it."""

    def find(value: Any) -> str:
        has = key in value if isinstance(value, dict) else hasattr(value, key)
        return tag("having" if has else "lacking")

    return _union(find, {"having": having, "lacking": lacking})


def _union(find: Callable[[Any], str | None], members: dict[str, Any], **words: Any) -> Any:
    tagged = [Annotated[member, Tag(tag(name))] for name, member in members.items()]
    return Annotated[functools.reduce(operator.or_, tagged), Discriminator(find, **words)]


def tag(name: str) -> str:
    """The name of a member of a union, marked so that it is never taken for a key of the config."""
    return f"\0{name}"


def text(pattern: str, meaning: str) -> Any:
    """A text of the form ``pattern`` (Python's own regular expressions, which pydantic's engine lacks parts of)."""
    form = re.compile(pattern)

    def check(value: str) -> str:
        if not form.search(value):
            raise PydanticCustomError("form", "is {value}", {"value": repr(value), "form": pattern, "meaning": meaning})
        return value

    return Annotated[str, AfterValidator(check), Field(json_schema_extra={"pattern": pattern.replace("\\Z", "$")})]


def canonical(value: Section | dict[str, Any]) -> str:
    """One line of JSON that is the same for equal values, whatever the order of their keys."""
    plain = value.dump() if isinstance(value, Section) else value
    return json.dumps(plain, sort_keys=True, ensure_ascii=False)


def parse(kind: Any, text: str) -> Any:
    """The section that ``canonical`` wrote, of a class or of a union of classes.

    Raises:
        UserError: the text is not JSON, or not that of such a section.
    """
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise UserError(explain(error)) from None


# Lists of a file become tuples, because sections do not change.
Listed = Annotated[tuple[Item, ...], Strict(False)]
Some = Annotated[tuple[Item, ...], Strict(False), Field(min_length=1)]


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise PydanticCustomError("cross", "names something twice")
    return values


Distinct = Annotated[tuple[Item, ...], Strict(False), AfterValidator(_distinct)]


def _find_size(value: Any) -> str:
    return tag("found") if isinstance(value, str) and not is_scientific(value) else tag("given")


# Ends of ranges that nobody needs to be told: no run has more of anything, and float32 has no room beyond.
LARGEST_WHOLE = 10**9
LARGEST_SEED = 2**32 - 1  # NumPy's, and so that of transformers
LARGEST = 1e30
SMALLEST = 1e-30  # of numbers that are not 0


def _not_tiny(value: float) -> float:
    """Zero is written without a sign: -0.0 is equal to it, and would be another text in the config of a job."""
    if 0 < abs(value) < SMALLEST:
        words = "is too near 0, where float32 has no more digits; the smallest number is {smallest}"
        raise PydanticCustomError("cross", words, {"smallest": SMALLEST})
    return value or 0.0


def number(**limits: float) -> Any:
    """A float of a range whose two ends are given as to ``Field``: gt or ge, and lt or le."""
    return Annotated[float, Field(**limits), AfterValidator(_not_tiny)]


Count = Annotated[int, Field(ge=1, le=LARGEST_WHOLE)]
Whole = Annotated[int, Field(ge=0, le=LARGEST_WHOLE)]
Measured = Annotated[int, Field(ge=0, le=2**63 - 1)]  # what nobody asks for, as bytes of a file
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Batch = Annotated[int, Field(ge=1, le=65536)]
BatchSize = Annotated[
    Annotated[Literal["auto"], Tag(tag("found"))] | Annotated[Batch, Tag(tag("given"))], Discriminator(_find_size)
]
Gpus = Annotated[int, Field(ge=1, le=1024)]
Shards = Annotated[int, Field(ge=1, le=1000)]
Shots = Annotated[int, Field(ge=0, le=1000)]
Views = Annotated[int, Field(ge=1, le=1000)]
Tokens = Annotated[int, Field(ge=8, le=2**24)]
Real = number(ge=-LARGEST, le=LARGEST)
Positive = number(gt=0, le=LARGEST)
NonNegative = number(ge=0, le=LARGEST)
Share = number(ge=0, le=1)
PositiveShare = number(gt=0, le=1)
Text = Annotated[str, Field(min_length=1)]

Name = text(
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z",
    "letters, digits, - and _, at most 64, because names are parts of paths and of commands",
)
FOLDER = r"^(?!\.{1,2}\Z)[^/\x00]+\Z"  # the name of one in another
InputPath = text(r"^[^{}\x00-\x1f]+\Z", "a path without braces and line breaks")
Requirement = text(r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+]*\Z", "NAME==VERSION")
Sha256 = text(r"^[0-9a-f]{64}\Z", "SHA-256 of the downloaded package")
HubId = text(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?\Z", "owner/name on the hub")
Revision = text(r"^[A-Za-z0-9._/-]+\Z", "a commit (best), a tag or a branch")
Prompt = text(r"^[^{}]*\{\}[^{}]*\Z", "one {} for the class, no other braces")
