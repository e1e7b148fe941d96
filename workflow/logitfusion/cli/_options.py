"""Options of a subcommand out of the fields of a section: name, default, range and meaning stand there alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from logitfusion.config.errors import explain
from logitfusion.config.keywords import read_options
from logitfusion.config.meanings import read_meanings
from logitfusion.config.section import LARGEST, LARGEST_SEED, LARGEST_WHOLE, Section
from logitfusion.errors import UserError

Options = TypeVar("Options", bound=Section)

_NUMBERS = {int: "N", float: "NUMBER"}
# Where the range of any number ends: nobody needs to be told.
_UNTOLD = (Le(LARGEST_WHOLE), Le(LARGEST_SEED), Le(LARGEST), Ge(-LARGEST))
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
    filled: bool = False,
) -> None:
    """An option for each of the named fields (all, if none is named).

    A number that the field can't have is refused while the command line is read.

    Args:
        forms: arguments of ``add_argument`` for fields whose type does not say how they are written.
        filled: whether what is not given has the field's default among the arguments, instead of being left out.
    """
    meanings = read_meanings(section)
    for name in names or section.model_fields:
        field = section.model_fields[name]
        form = (forms or {}).get(name) or _form(section, name)
        default = field.default if filled else argparse.SUPPRESS
        parser.add_argument(spell(name), help=_help(field, meanings[name]), default=default, **form)


def given_values(section: type[Section], arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of a section that the command line names."""
    return {name: value for name, value in vars(arguments).items() if name in section.model_fields}


def read_section(section: type[Options], arguments: argparse.Namespace) -> Options:
    """The section that the command line asks for.

    Raises:
        UserError: names the option that can't be used.
    """
    return read_options(section, given_values(section, arguments), spell)


def _form(section: type[Section], name: str) -> dict[str, Any]:
    """How values of a field are written."""
    kind, *others = map(_bare, _kinds(section.model_fields[name].annotation))
    if others:  # words or a number
        read = _reader(section, name, others[0])
        return {"type": read, "metavar": "|".join([*get_args(kind), *(_NUMBERS[one] for one in others)])}
    if kind is bool:
        return {"action": "store_true"}
    if kind in _NUMBERS:
        return {"type": _reader(section, name, kind), "metavar": _NUMBERS[kind]}
    if get_origin(kind) is Literal:
        return {"metavar": "|".join(get_args(kind))}
    if kind is str:
        return {"metavar": "TEXT"}
    return {"nargs": "+", "action": "extend", "metavar": "TEXT"}


def _kinds(annotation: Any) -> list[Any]:
    """The types that a value may have, besides none."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [kind for kind in kinds if kind is not NoneType]


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def form_of_numbers(section: type[Section], name: str) -> dict[str, Any]:
    """How values of a field are written that is a list of numbers."""
    return {"nargs": "+", "type": _reader(section, name, float, several=True), "metavar": "NUMBER"}


def _reader(
    section: type[Section], name: str, kind: type[int] | type[float], *, several: bool = False
) -> Callable[[str], Any]:
    """What makes a field's value, or one of ``several``, of the text of an option.

    Raises:
        UserError: the field can't have it.
    """

    def read(text: str) -> Any:
        try:
            value: Any = kind(text)
        except ValueError:
            value = text
        try:
            section(**{name: [value] if several else value})
        except ValidationError as error:
            if any(one["loc"][:1] == (name,) for one in error.errors()):  # what others need is checked with all of them
                raise UserError(explain(error, name=lambda _: spell(name))) from None
        return value

    return read


def _help(field: FieldInfo, meaning: str) -> str:
    """Meaning, range and default."""
    limits = [*field.metadata, *(limit for kind in _kinds(field.annotation) for limit in _limits(kind))]
    bounds = [bound for bound in limits if type(bound) in _BOUNDS and bound not in _UNTOLD]
    facts = [_BOUNDS[type(bound)].format(bound) for bound in bounds]
    default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
    if default not in ("None", "False", ""):
        facts.append(f"default: {default}")
    words = meaning[0].lower() + meaning[1:].removesuffix(".")
    return (f"{words} ({', '.join(facts)})" if facts else words).replace("%", "%%")


def _limits(kind: Any) -> list[Any]:
    """What a type of a union says of its range."""
    return [limit for part in getattr(kind, "__metadata__", ()) for limit in getattr(part, "metadata", ())]
