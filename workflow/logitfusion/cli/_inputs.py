"""What subcommands read: texts, and lines of JSON."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
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


def name_source(path: str) -> str:
    """What a message calls a text file, or the standard input."""
    return _STANDARD if path == "-" else path


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
    title = name_source(path)
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
