"""Print the few-shot methods with their settings, defaults, meanings and ranges; torch is not needed for it."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import Any

from logitfusion.clip.methods import METHODS, FewShotMethod, FewShotSettings
from logitfusion.clip.methods.base import in_words
from logitfusion.errors import UserError


def run(arguments: argparse.Namespace) -> None:
    for name in arguments.method or METHODS:
        if name not in METHODS:
            raise UserError(f"There is no few-shot method {name!r}; known are {', '.join(METHODS)}.")
        for line in describe_method(METHODS[name]):
            print(line)
    print("\nsettings of all methods")
    for key, schema in FewShotSettings.describe().items():
        print(_setting(key, schema))


def describe_method(method: FewShotMethod) -> Iterator[str]:
    """Its name, purpose and needs, then its settings; of a variant of another method those that differ."""
    needs = " It needs an auxiliary encoder." if method.needs_auxiliary else ""
    needs += " It uses an auxiliary encoder where there is one." if method.uses_auxiliary else ""
    yield f"\n{method.name}\n{_wrap(method.__doc__.partition(chr(10) * 2)[0] + needs, 2)}"
    parent = type(method).__mro__[1]
    variant = parent in {type(other) for other in METHODS.values()}
    known = (parent.Settings if variant else FewShotSettings).describe()
    for key, schema in method.Settings.describe().items():
        if schema != known.get(key):
            yield _setting(key, schema)
    if variant:
        yield f"    the other settings are those of {parent.name}"
    if method.grid:
        yield _wrap(f"cross_validation chooses among {len(method.grid)} values of {', '.join(method.grid[0])}", 4)


def _setting(key: str, schema: dict[str, Any]) -> str:
    return _wrap(f"{key} = {schema['default']}  {schema['description']} ({in_words(schema)})", 4)


def _wrap(text: str, indent: int) -> str:
    first, rest = " " * indent, " " * (indent + 4 if indent > 2 else indent)
    return textwrap.fill(text.replace("``", ""), 110, initial_indent=first, subsequent_indent=rest)
