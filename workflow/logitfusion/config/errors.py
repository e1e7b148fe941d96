"""One sentence for what is wrong with a config: which key, what it may be, and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

from pydantic import ValidationError

from logitfusion.errors import UserError

Place = tuple[str, ...]

LONGEST = 200  # characters of a value in a sentence
_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_KINDS = {
    "int": "integer",
    "float": "number",
    "string": "string",
    "bool": "boolean",
    "tuple": "array",
    "dict": "object",
    "model": "object",
    "none": "null",
}
_LIMITS = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "string_too_short": "must not be empty",
}


def name_key(where: str) -> str:
    """A place of a config in a sentence."""
    return f"Config key {where!r}" if where else "The config"


def explain(error: ValidationError, filled: Collection[Place] = (), name: Callable[[str], str] = name_key) -> str:
    """The most telling error of a config as a sentence.

    Unknown keys first, then the error that is deepest; what was filled in from elsewhere comes after it.

    Args:
        filled: places whose values the user did not write there.
        name: a place, its keys joined by dots, as the user knows it.
    """

    def rank(one: dict[str, Any]) -> tuple[Any, ...]:
        path = _path(one)
        elsewhere = any(path[: len(place)] == place for place in filled)
        return one["type"] != "unknown_key", elsewhere, -len(path), path

    return _sentence(min(map(dict, error.errors(include_url=False)), key=rank), name)


def explain_number(at: str, value: str, *, whole: bool = False) -> str:
    """The sentence for a number that YAML reads as text; ``whole``: where an integer is needed."""
    if whole:
        return f"{at} is the text {value!r}, not an integer: write all of its digits."
    mantissa, exponent = re.split("[eE]", value)
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    fixed = f"{mantissa}e{exponent if exponent[0] in '+-' else '+' + exponent}"
    return f"{at} is the text {value!r}, not a number, because YAML wants a decimal point: write {fixed}."


def is_scientific(value: Any) -> bool:
    """Whether a text is a number in scientific notation without a decimal point."""
    return isinstance(value, str) and _SCIENTIFIC.fullmatch(value) is not None


def refer(name: str, known: Iterable[str], key: str, kind: str) -> None:
    """Refuse a name that refers to nothing.

    Raises:
        UserError: ``name`` is not ``known``; the nearest is suggested.
    """
    known = sorted(known)
    if name not in known:
        raise UserError(
            f"Config key {key!r} names the {kind} {name!r}, which does not exist: {suggest(name, known, 'known are')}"
        )


def suggest(name: str, known: Iterable[str], words: str) -> str:
    """``did you mean ...?``, or all that is known."""
    near = difflib.get_close_matches(name, known := list(known), n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"{words} {', '.join(known)}." if known else "there is none."


def _path(error: dict[str, Any]) -> Place:
    """The keys to the error's place, without pydantic's marks for members of unions."""
    parts = tuple(str(part) for part in error["loc"] if not str(part).startswith("\0"))
    if parts[-1:] == ("[key]",):
        return parts[:-2]
    if error["type"] == "missing":
        return parts[:-1]
    return parts + tuple(filter(None, [error.get("ctx", {}).get("key") if error["type"] == "cross" else None]))


def _sentence(error: dict[str, Any], name: Callable[[str], str]) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    where = ".".join(_path(error))
    at = name(where)
    given = shorten(value)
    match kind:
        case "sentence":
            return error["msg"]
        case "unknown_key":
            hint = suggest(context["unknown"], sorted(context["known"]), "known here:")
            return f"{at} has an unknown key {context['unknown']!r}: {hint}"
        case "missing" if isinstance(error["loc"][-1], int):
            return f"{at} holds too few values: {given}."
        case "missing":
            return f"{at} lacks the key {error['loc'][-1]!r}; add it."
        case "one_of":
            return _not_one_of(name(f"{where}.{context['key']}".lstrip(".")), at, value, context)
        case "literal_error":
            return _wrong_choice(at, value, re.findall(r"'([^']*)'", context["expected"]))
        case "form":
            return f"{at} is {context['value']}, which does not have the form {context['form']} ({context['meaning']})."
        case "cross" if is_scientific(value):
            return explain_number(at, value)
        case "cross":
            return f"{at} {error['msg']}."
        case "too_short":
            return f"{at} must hold at least {context['min_length']}, and is {given}."
        case _ if kind in _LIMITS:
            return f"{at} {_LIMITS[kind].format(**context)}, and is {given}."
        case _ if kind.endswith("_type") and is_scientific(value) and kind.startswith(("int", "float")):
            return explain_number(at, value, whole=kind.startswith("int"))
        case _ if kind.endswith("_type"):
            return f"{at} must be of type {_KINDS.get(kind.removesuffix('_type'), kind)}, and is {given}."
        case _:
            return f"{at} can't be used ({error['msg']})."


def shorten(value: Any) -> str:
    """A value on one line, cut where it is long."""
    try:
        text = repr(value).replace("\n", " ")
    except ValueError:  # Python writes no integer of more than some thousand digits
        return "a number of too many digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _not_one_of(at_key: str, at: str, value: Any, context: dict[str, Any]) -> str:
    """The sentence for an entry whose own key does not say which kind of section it is."""
    key = context["key"]
    if not isinstance(value, dict):
        return f"{at} must be of type object, and is {shorten(value)}."
    if key not in value:
        return f"{at} lacks the key {key!r}; add it."
    return _wrong_choice(at_key, value[key], context["known"])


def _wrong_choice(at: str, value: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(shorten(value).strip("'"), known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    choice = f"one of {', '.join(known)}" if len(known) != 1 else f"an integer or {known[0]}"  # of a size that is found
    return f"{at} must be {choice}{hint}, and is {shorten(value)}."
