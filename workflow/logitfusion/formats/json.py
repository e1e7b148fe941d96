"""JSON: no key twice in an object, no half surrogates, a bounded depth; and no numbers that JSON does not have."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError
from logitfusion.formats.text import LARGEST, check_unicode, read_text

DEEPEST = 100  # values inside of each other; what walks through a value calls itself for each
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class _TwiceError(ValueError):
    """An object has a key twice."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key[:80]!r} is there twice in one object")


def read_json(path: str | Path, *, largest: int = LARGEST, title: str | None = None) -> Any:
    """The value that a file holds.

    Raises:
        UserError: as ``read_text`` and ``parse_json``.
    """
    title = title or str(path)
    return parse_json(read_text(path, largest=largest, title=title), title)


def parse_json(text: str, where: str, *, line: bool = False) -> Any:
    """The value of a text; ``NaN`` and ``Infinity``, which configs of models hold, are numbers.

    Args:
        where: what a message calls the text.
        line: whether it is a line, so that a message gives only a column.

    Raises:
        UserError: it is no JSON, has a key twice in an object, or values that are nested too deeply.
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        column = f"column {error.colno}: {error.msg}"
        reason = column if line else f"line {error.lineno}, {column}"
        raise UserError(f"{where} is not JSON ({reason}); correct it, or have it made again.") from None
    except _TwiceError as error:
        raise UserError(f"{where} can't be read: {error}; leave one of them out.") from None
    except RecursionError:
        raise UserError(_too_deep(where)) from None
    except ValueError:  # Python reads no integer of more than some thousand digits
        raise UserError(f"{where} has a number of too many digits; correct it.") from None
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(value, where)
    if _HALF.search(text):
        _check_texts(value, where)
    return value


def format_json(value: Any, **layout: Any) -> str:
    """A value as JSON that every program reads, without escapes.

    A number that is not finite is the text ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``, as in the JSON of protocol
    buffers: it is not lost, and ``float`` reads it in most languages.

    Args:
        layout: ``indent``, ``sort_keys``, ``separators`` and ``default`` of ``json.dumps``.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **layout)
    except ValueError:
        plain = json.loads(json.dumps(value, **layout))
        return json.dumps(_spell_numbers(plain), ensure_ascii=False, allow_nan=False, **layout)


def _spell_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _spell_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_spell_numbers(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise _TwiceError(next(key for key, _ in pairs if key in seen or seen.add(key)))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)  # made once: json.loads makes one for each line


def _inner(value: Any) -> list[Any]:
    """The values directly in a value, keys included."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []


def _check_depth(value: Any, where: str) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inner(outer) if isinstance(inner, (dict, list))]
        if not level:
            return
    raise UserError(_too_deep(where))


def _too_deep(where: str) -> str:
    return f"{where} has values that are nested more than {DEEPEST} levels deep; is it another file?"


def _check_texts(value: Any, where: str) -> None:
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            check_unicode(one, where)
        pending += _inner(one)
