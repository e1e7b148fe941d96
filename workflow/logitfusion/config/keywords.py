"""Options by name, from keyword arguments or a command line: a section, or one sentence for what is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from logitfusion.config.section import Section
from logitfusion.errors import UserError

Options = TypeVar("Options", bound=Section)

_RANGES = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
}


def read_options(section: type[Options], given: Mapping[str, Any], spell: Callable[[str], str] = str) -> Options:
    """The section with these values.

    Args:
        spell: the name of a field as the user writes it, ``--top-p`` for ``top_p``.

    Raises:
        UserError: an option that is unknown or can't be used; one sentence that names it.
    """
    unknown = [name for name in given if name not in section.model_fields]
    if unknown:
        near = difflib.get_close_matches(unknown[0], section.model_fields, n=1)
        known = ", ".join(map(spell, section.model_fields))
        hint = f"did you mean {spell(near[0])}?" if near else f"known are {known}."
        raise UserError(f"There is no option {spell(unknown[0])}: {hint}")
    try:
        return section(**given)
    except ValidationError as error:
        raise UserError(_explain(error.errors()[0], spell)) from None


def given_options(section: type[Options], options: Options | None, given: Mapping[str, Any]) -> Options:
    """Options that a call was given as one object or by name.

    Raises:
        UserError: as ``read_options``.
        ValueError: both were given.
    """
    if options is None:
        return read_options(section, given)
    if given:
        raise ValueError(f"options already holds {', '.join(given)}: give one or the other")
    return options


def _explain(error: ErrorDetails, spell: Callable[[str], str]) -> str:
    name, value, context = spell(str(error["loc"][0])), error["input"], error.get("ctx", {})
    if error["type"] in _RANGES:
        return f"{name} must be {_RANGES[error['type']].format(**context)}, and is {value!r}."
    if error["type"] == "literal_error":
        known = re.findall("'([^']+)'", context["expected"])
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{name} is one of {', '.join(known)}, and not {value!r}{hint}."
    message = error["msg"]
    if message.startswith("must"):
        return f"{name} {message}, and is {value!r}."
    if message.startswith("has"):
        return f"{name} {message}."
    return f"{name} can't be {value!r}: {message[0].lower()}{message[1:]}."
