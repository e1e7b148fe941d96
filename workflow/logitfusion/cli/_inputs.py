"""What subcommands read: texts, and lines of JSON; and where they may write."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError


def be_quiet() -> None:
    """Leave the terminal to the results."""
    import transformers

    for chatty in ("transformers", "accelerate", "datasets", "httpx", "urllib3", "torch", "lm_eval", "huggingface_hub"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")


def read_text(path: str) -> str:
    """A text file, or the standard input (``-``), without a byte order mark.

    Raises:
        UserError: it can't be read, or is not UTF-8.
    """
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return content.decode("utf-8-sig")  # some editors begin a file with a byte order mark, which is no text
    except UnicodeDecodeError:
        raise UserError(f"{_name(path)} is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{_name(path)} can't be read ({(error.strerror or str(error)).lower()}).") from None


def read_rows(path: str, text: str) -> Iterator[tuple[str, Any]]:
    """JSON, one value a line, each with its place for messages.

    Raises:
        UserError: names the line that is something else.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{_name(path)}, line {number},"
            try:
                yield place, json.loads(line)
            except ValueError as error:
                raise UserError(f"{place} is not JSON ({getattr(error, 'msg', error)}).") from None


def read_field(row: Any, field: str, place: str) -> str:
    """The text that an object has under a name.

    Raises:
        UserError: there is none.
    """
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        raise UserError(f'{place} needs a text under "{field}".')
    return check_text(row[field], place)


def check_text(text: str, place: str) -> str:
    """The text, if all of it can be written again.

    Raises:
        UserError: a half of a surrogate pair, or bytes of the command line that are no characters.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place} has characters that are not Unicode.") from None
    return text


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


def _name(path: str) -> str:
    return "The standard input" if path == "-" else path
