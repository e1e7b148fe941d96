"""Conversations as their data sets keep them, and as chat templates want them."""

from __future__ import annotations

from typing import Any

# What data sets call the three roles.
ROLES = {"system": "system"}
ROLES |= dict.fromkeys(("user", "human", "prompter"), "user")
ROLES |= dict.fromkeys(("assistant", "gpt", "chatgpt", "model"), "assistant")
LAYOUTS = (("role", "content"), ("from", "value"))


class UnusableError(Exception):
    """A row that is no text to learn from; the message says why, in words that rows are counted by."""


def read_turns(value: Any) -> list[dict[str, str]]:
    """The turns of a conversation: ``{"role": "system" | "user" | "assistant", "content": text}``.

    At most one system turn stands in front; user and assistant alternate, the user begins and an assistant ends, as
    chat templates ask. What follows the last answer has nothing to learn and is left out.

    Args:
        value: a list of ``{role, content}`` or ``{from, value}``.

    Raises:
        UnusableError: it is no such conversation.
    """
    if not isinstance(value, list):
        raise UnusableError("no list of turns")
    turns = [_read_turn(turn) for turn in value]
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    if not turns:
        raise UnusableError("no answer")
    spoken = turns[turns[0]["role"] == "system" :]
    if any(turn["role"] != ("user", "assistant")[number % 2] for number, turn in enumerate(spoken)):
        raise UnusableError("turns that do not alternate")
    return turns


def _read_turn(turn: Any) -> dict[str, str]:
    for role, content in LAYOUTS:
        if isinstance(turn, dict) and turn.get(role) is not None and content in turn:
            known, text = ROLES.get(str(turn[role]).lower()), turn[content]
            if known is None:
                raise UnusableError(f"a turn of the role {str(turn[role])[:30]!r}")
            return {"role": known, "content": check_text(text, "a turn without text")}
    raise UnusableError("a turn that is neither {role, content} nor {from, value}")


def check_text(value: Any, otherwise: str) -> str:
    """A text that can be learnt from.

    Raises:
        UnusableError: it is none, or blank (``otherwise`` says so), or halves of characters.
    """
    if not isinstance(value, str) or not value.strip():
        raise UnusableError(otherwise)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnusableError("characters that are not Unicode") from None
    return value


def opening(turns: list[dict[str, str]]) -> str:
    """All that stands before the first answer, which makes two conversations the same question."""
    first = next(number for number, turn in enumerate(turns) if turn["role"] == "assistant")
    return "\n".join(turn["content"] for turn in turns[:first])
