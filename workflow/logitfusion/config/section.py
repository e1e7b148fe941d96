"""What all sections of a config share: frozen typed classes, whose fields are key, default, range and meaning at once.

A section is a pydantic class: the type of a field has its range, the text under it its meaning and unit. From these
come the checks, the JSON schema for editors, the reference page of keys, and the objects that the package works with.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Strict, Tag
from pydantic_core import PydanticCustomError

Item = TypeVar("Item")


class Section(BaseModel):
    """A frozen section: unknown keys, numbers that are not finite, and values of another type are errors.

    100.0 is a float wherever a count is used, so it is no integer here, and neither is ``true``.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
        validate_by_name=True,
        validate_by_alias=True,
        protected_namespaces=(),
    )

    def dump(self, **options: Any) -> dict[str, Any]:
        """The section as JSON knows it, all defaults written out."""
        return self.model_dump(mode="json", **options)

    def canonical(self) -> str:
        """One line of JSON that is the same for equal sections, whatever the order of their keys."""
        return json.dumps(self.dump(), sort_keys=True, ensure_ascii=False)


def one_of(key: str, **members: type[Section]) -> Any:
    """A section whose class is decided by the value of its own ``key``: ``source``, ``kind``."""

    def find(value: Any) -> str | None:
        given = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return given if given is None else tag(str(given))

    union: Any = None
    for name, member in members.items():
        part = Annotated[member, Tag(tag(name))]
        union = part if union is None else union | part
    if len(members) == 1:  # pydantic tags unions only
        return union
    return Annotated[union, Discriminator(find, custom_error_context={"key": key, "known": ", ".join(members)})]


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


# Lists of a file become tuples, because sections do not change.
Listed = Annotated[tuple[Item, ...], Strict(False)]
Some = Annotated[tuple[Item, ...], Strict(False), Field(min_length=1)]


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise PydanticCustomError("distinct", "names something twice", {})
    return values


Distinct = Annotated[tuple[Item, ...], Strict(False), AfterValidator(_distinct)]

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Text = Annotated[str, Field(min_length=1)]

Name = text(
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z",
    "letters, digits, - and _, at most 64, because names are parts of paths and of commands",
)
InputPath = text(r"^[^{}\x00-\x1f]+\Z", "a path without braces and line breaks")
Requirement = text(r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+]*\Z", "NAME==VERSION")
Sha256 = text(r"^[0-9a-f]{64}\Z", "SHA-256 of the downloaded package")
HubId = text(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?\Z", "owner/name on the hub")
Revision = text(r"^[A-Za-z0-9._/-]+\Z", "a commit (best) or a tag")
Prompt = text(r"^[^{}]*\{\}[^{}]*\Z", "one {} for the class, no other braces")
