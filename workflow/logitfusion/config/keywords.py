"""Options by name, from keyword arguments or a command line: a section, or one sentence for what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from logitfusion.config.errors import explain, suggest
from logitfusion.config.section import Section
from logitfusion.errors import UserError

Options = TypeVar("Options", bound=Section)


def read_options(section: type[Options], given: Mapping[str, Any], spell: Callable[[str], str] = str) -> Options:
    """The section with these values.

    Args:
        spell: the name of a field as the user writes it, ``--top-p`` for ``top_p``.

    Raises:
        UserError: an option that is unknown or can't be used; one sentence that names it.
    """
    unknown = [name for name in given if name not in section.model_fields]
    if unknown:
        name, known = spell(unknown[0]), [spell(field) for field in section.model_fields]
        raise UserError(f"There is no option {name}: {suggest(name, known, 'known are')}")
    try:
        return section(**given)
    except ValidationError as error:
        raise UserError(explain(error, name=lambda where: _name(where, spell))) from None


def _name(where: str, spell: Callable[[str], str]) -> str:
    """The option that a place is of; what is wrong of several together has none."""
    return spell(where.partition(".")[0]) if where else "The call"


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
