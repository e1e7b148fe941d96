"""docs/reference/command_line.md out of the parsers: what ``logitfusion COMMAND --help`` prints, as tables.

``python docs/generate/command_line.py`` (``make reference``) writes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from generate.stored import DOCS
from logitfusion.cli import make_parser
from logitfusion.files import write_text

PAGE = DOCS / "reference/command_line.md"
_HEAD = """# The command line

Generated from the commands' own parsers by `make reference`; do not edit. `logitfusion COMMAND --help` prints the same.
Exit codes: 0, 1 for bad input (one sentence says what to do), 2 for a command line that is not understood, 130 for
Ctrl-C. Options are never abbreviated.
"""


def make_page() -> str:
    """The page: a section for each command, a table for each group of its options."""
    return "\n".join([_HEAD, *(_describe(parser) for parser in _commands(make_parser()))])


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of all commands that do something, in order; a command of commands stands for them."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield parser
    for action in inner:
        for child in action.choices.values():
            yield from _commands(child)


def _describe(parser: argparse.ArgumentParser) -> str:
    lines = [f"## {parser.prog}", "", _sentence(parser.description or ""), ""]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if not actions:
            continue
        if group.title not in ("options", "positional arguments"):
            lines += [f"**{group.title}**" + (f": {group.description}" if group.description else ""), ""]
        lines += ["| option | meaning |", "| --- | --- |"]
        lines += [f"| {_cell(_spell(action))} | {_cell(_meaning(action))} |" for action in actions]
        lines.append("")
    return "\n".join(lines)


def _spell(action: argparse.Action) -> str:
    """An option as it is written, with its value."""
    names = " ".join(action.option_strings[-1:])
    value = argparse.HelpFormatter("")._format_args(action, action.metavar or action.dest.upper()).strip()
    if action.choices and not action.metavar:
        value = "|".join(map(str, action.choices))
    spelled = " ".join(filter(None, [names, value if action.nargs != 0 else ""]))
    return f"`{spelled}`" + (" (needed)" if action.required and action.option_strings else "")


def _meaning(action: argparse.Action) -> str:
    return (action.help or "") % {**vars(action), "prog": "logitfusion"}


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    """A text in a table of Markdown: bars escaped, in code too, and no tags."""
    outside = text.split("`")
    outside[::2] = [piece.replace("<", "\\<").replace("*", "\\*") for piece in outside[::2]]
    return _sentence("`".join(outside)).replace("|", "\\|")


if __name__ == "__main__":
    write_text(PAGE, make_page())
