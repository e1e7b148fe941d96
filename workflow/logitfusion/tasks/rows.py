"""From a row to a prompt and its answers."""

from __future__ import annotations

import re
from typing import Any

from logitfusion.config.tasks import Target
from logitfusion.errors import UserError


def lookup(row: dict[str, Any], path: str) -> Any:
    """The value at a dotted path of a row, such as ``choices.text``.

    Raises:
        UserError: the row has no such field.
    """
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            fields = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
            raise UserError(f"A row of the task has no field {path!r} (it has {fields}); correct the definition.")
        value = value[part]
    return value


def fill(template: str, row: dict[str, Any]) -> str:
    """Put a row's fields into a template's ``{field}`` and ``{field.inner}``; doubled braces stand for one."""

    def replace(match: re.Match[str]) -> str:
        if match.group(0) in ("{{", "}}"):
            return match.group(0)[0]
        return str(lookup(row, match.group(1)))

    return re.sub(r"\{\{|\}\}|\{([\w.]+)\}", replace, template)


def find_answers(row: dict[str, Any], target: Target) -> list[str]:
    """All accepted answers of a row, the preferred one first.

    ``target`` names a ``field``; with ``map`` its value is translated, with ``index`` the field is a list of choices
    and ``index`` the field that holds its place (a number, or a letter found in the field ``labels``).
    """
    value = lookup(row, target.field)
    if target.index is not None:
        value = _choose(value, row, target)
    if target.map is not None:
        if str(value) not in target.map:
            raise UserError(
                f"A row's {target.field!r} is {value!r}, which the definition's target.map does not translate"
                f" (it has {', '.join(sorted(target.map))}); add it."
            )
        value = target.map[str(value)]
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UserError(f"A row's {target.field!r} holds no answer; remove the row or correct the definition.")
    return [str(item) for item in values]


def _choose(choices: Any, row: dict[str, Any], target: Target) -> Any:
    """The choice that the row's index field points at."""
    position = lookup(row, target.index)
    if target.labels is not None:
        labels = list(lookup(row, target.labels))
        position = labels.index(position) if position in labels else None
    try:
        number = int(position)
        if number < 0:
            raise IndexError
        return list(choices)[number]
    except (TypeError, ValueError, IndexError):
        raise UserError(
            f"A row's {target.index!r} ({lookup(row, target.index)!r}) points at none of its {target.field!r};"
            " correct the definition's target (letters need labels)."
        ) from None
