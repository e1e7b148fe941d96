"""What subcommands read: texts, and lines of JSON."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError


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


def _name(path: str) -> str:
    return "The standard input" if path == "-" else path
