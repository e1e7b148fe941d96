"""Options of a subcommand out of the fields of a section: name, default, range and meaning stand there alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from logitfusion.config.keywords import read_options
from logitfusion.config.section import Section

Options = TypeVar("Options", bound=Section)

_NUMBERS = {int: "N", float: "NUMBER"}
_LARGEST = Le(2**63 - 1)  # what a whole number may be at all: nobody needs to be told
_BOUNDS = {Ge: "at least {0.ge}", Gt: "above {0.gt}", Le: "at most {0.le}", Lt: "below {0.lt}"}


def add_command(subparsers: argparse._SubParsersAction, name: str, words: str) -> argparse.ArgumentParser:
    """A subcommand that does what ``words`` say."""
    return subparsers.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.", allow_abbrev=False)


def spell(name: str) -> str:
    """A field's name on the command line."""
    return f"--{name.replace('_', '-')}"


def add_options(
    parser: argparse._ActionsContainer,
    section: type[Section],
    *names: str,
    forms: Mapping[str, dict[str, Any]] | None = None,
) -> None:
    """An option for each of the named fields (all, if none is named).

    Args:
        forms: arguments of ``add_argument`` for fields whose type does not say how they are written.
    """
    for name in names or section.model_fields:
        field = section.model_fields[name]
        form = (forms or {}).get(name) or _form(field.annotation)
        parser.add_argument(spell(name), help=_help(field), default=argparse.SUPPRESS, **form)


def given_values(section: type[Section], arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of a section that the command line names."""
    return {name: value for name, value in vars(arguments).items() if name in section.model_fields}


def read_section(section: type[Options], arguments: argparse.Namespace) -> Options:
    """The section that the command line asks for.

    Raises:
        UserError: names the option that can't be used.
    """
    return read_options(section, given_values(section, arguments), spell)


def _form(annotation: Any) -> dict[str, Any]:
    """How values of a type are written."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kind, *others = (_bare(kind) for kind in kinds if kind is not NoneType)
    if others:  # words or a number
        return {"type": _number_or_word, "metavar": "|".join([*get_args(kind), *(_NUMBERS[one] for one in others)])}
    if kind is bool:
        return {"action": "store_true"}
    if kind in _NUMBERS:
        return {"type": kind, "metavar": _NUMBERS[kind]}
    if get_origin(kind) is Literal:
        return {"metavar": "|".join(get_args(kind))}
    if kind is str:
        return {"metavar": "TEXT"}
    return {"nargs": "+", "action": "extend", "metavar": "TEXT"}


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _number_or_word(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _help(field: FieldInfo) -> str:
    """Meaning, range and default."""
    bounds = [bound for bound in field.metadata if type(bound) in _BOUNDS and bound != _LARGEST]
    facts = [_BOUNDS[type(bound)].format(bound) for bound in bounds]
    default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
    if default not in ("None", "False", ""):
        facts.append(f"default: {default}")
    words = field.description[0].lower() + field.description[1:].removesuffix(".")
    return (f"{words} ({', '.join(facts)})" if facts else words).replace("%", "%%")
