"""What subcommands read: texts, and lines of JSON; and where they may write."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError
from logitfusion.formats import text
from logitfusion.formats.jsonl import parse_rows

_STANDARD = "The standard input"


def be_quiet() -> None:
    """Leave the terminal to the results, and to what the project's own code warns of."""
    import transformers

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_ours)
    for chatty in ("transformers", "accelerate", "datasets", "httpx", "urllib3", "torch", "lm_eval", "huggingface_hub"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether people are to see it: libraries, some through the root logger, warn of what they were asked for."""
    return record.name.split(".")[0] == "logitfusion" or record.levelno >= logging.ERROR


def read_text(path: str) -> str:
    """A text file, or the standard input (``-``), without a byte order mark.

    Raises:
        UserError: it can't be read, is no file, is too large to be a text, or is not UTF-8.
    """
    if path != "-":
        return text.read_text(path)
    return text.decode(text.read_stream(sys.stdin.buffer, _STANDARD), _STANDARD)


def read_rows(path: str, content: str) -> Iterator[tuple[str, Any]]:
    """JSON, one value a line, each with its place for messages.

    Raises:
        UserError: names the line that is something else.
    """
    title = _STANDARD if path == "-" else path
    for number, row in parse_rows(enumerate(text.split_lines(content), start=1), title):
        yield f"{title}, line {number},", row


def read_field(row: Any, field: str, place: str) -> str:
    """The text that an object has under a name.

    Raises:
        UserError: there is none.
    """
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        raise UserError(f'{place} needs a text under "{field}".')
    return text.check_unicode(row[field], place)


def check_output(path: Path) -> None:
    """Refuse a place where no file can be written, before the work for it is done.

    Raises:
        UserError: a folder, a device or a pipe is there, or a file where its folder should be.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file to write.")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a device or a pipe, which a file would take the place of; name another file.")
    check_folder(path.parent)


def check_outputs(*paths: Path | None) -> None:
    """``check_output`` of those that are asked for, each another one."""
    given = [path for path in paths if path is not None]
    for path in given:
        check_output(path)
    if len({path.resolve() for path in given}) < len(given):
        raise UserError(f"{given[0]} is named for two files; name another one for each.")


def check_folder(path: Path) -> None:
    """Refuse a folder that is a file or is in one, or can't be written; one that is not there yet is fine."""
    there = next((one for one in (path, *path.parents) if one.exists()), None)
    if there is not None and not there.is_dir():
        raise UserError(f"{there} is a file, not a folder; name another place.")
    if there is not None and not os.access(there, os.W_OK):
        raise UserError(f"Nothing can be written into {there}; name another place.")
