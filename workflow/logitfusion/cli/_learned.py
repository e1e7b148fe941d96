"""Texts to learn from, of files: prompts and responses, or chats, a line of JSON each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitfusion.cli._chat import read_messages
from logitfusion.cli._inputs import name_source, read_field, read_rows, read_text
from logitfusion.errors import UserError

if TYPE_CHECKING:
    from logitfusion.models.examples import Text

FORM = (
    'JSON objects with "prompt" and "response" (or "completion"), or the "messages" of a chat (- : stdin), one a line'
)


def read_learned(path: str, *, chats: bool) -> list[Text]:
    """The texts of a file, at least one.

    Args:
        chats: whether texts are written in a chat template.

    Raises:
        UserError: names the line that is something else.
    """
    texts = [_read_row(row, place, chats=chats) for place, row in read_rows(path, read_text(path))]
    if not texts:
        raise UserError(f"{name_source(path)} holds no texts.")
    return texts


def _read_row(row: Any, place: str, *, chats: bool) -> Text:
    """A prompt and its response, or the messages of a chat."""
    if isinstance(row, dict) and "messages" in row:
        return read_messages(row, place, option=None if chats else "--template chat", instead="response")
    named = [name for name in ("response", "completion") if isinstance(row, dict) and name in row]
    if len(named) == 2:
        raise UserError(f'{place} has both a "response" and a "completion", which are the same; leave one out.')
    return read_field(row, "prompt", place), read_field(row, *(named or ["response"]), place)
