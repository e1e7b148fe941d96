"""Options of commands that speak to chat models, and the chats that they read."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitfusion.cli._inputs import read_field
from logitfusion.errors import UserError
from logitfusion.formats.json import parse_json
from logitfusion.formats.text import check_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A prompt as it was given.

    Attributes:
        place: where it was given, for messages.
        row: ``prompt``, a text, or ``messages``, those of a chat.
    """

    place: str
    row: dict[str, Any]


def add_chat(parser: argparse._ActionsContainer) -> None:
    """Options of prompts that are chats."""
    parser.add_argument("--chat", action="store_true", help="prompts are messages of a user to a chat model, or chats")
    parser.add_argument("--system", metavar="TEXT", help="of --chat: the system's message, before all others")
    parser.add_argument("--chat-template", metavar="NAME", help="of --chat: one of a tokenizer's several templates")
    add_chat_arguments(parser)


def add_chat_arguments(parser: argparse._ActionsContainer) -> None:
    """The option of what a template is given besides the messages."""
    parser.add_argument(
        "--chat-arguments", metavar="JSON", help="""of the chat template, as '{"enable_thinking": false}'"""
    )


def read_chat_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line gives to the chat template.

    Raises:
        UserError: it is no JSON object.
    """
    if arguments.chat_arguments is None:
        return {}
    found = parse_json(arguments.chat_arguments, "--chat-arguments", line=True)
    if not isinstance(found, dict):
        raise UserError("--chat-arguments needs a JSON object of names and values.")
    return found


def check_chat(arguments: argparse.Namespace) -> None:
    """Refuse options of chats without ``--chat``."""
    for option in ("system", "chat_template", "chat_arguments"):
        if getattr(arguments, option) is not None and not arguments.chat:
            raise UserError(f"--{option.replace('_', '-')} needs --chat.")
    read_chat_arguments(arguments)
    if arguments.system is not None:
        check_unicode(arguments.system, "--system")


def read_prompt(row: Any, place: str, *, chat: bool) -> Prompt:
    """An object with ``prompt``, or with ``messages`` where prompts are chats.

    Raises:
        UserError: names the place that is something else.
    """
    if not isinstance(row, dict) or "messages" not in row:
        return Prompt(place, {"prompt": read_field(row, "prompt", place)})
    return Prompt(place, {"messages": read_messages(row, place, option=None if chat else "--chat")})


def read_messages(row: dict[str, Any], place: str, *, option: str | None, instead: str = "prompt") -> list[Any]:
    """The messages of a chat, each with a role and a text.

    Args:
        option: the one that chats need, where it was not given.
        instead: what no row has beside messages.

    Raises:
        UserError: names the place that is something else.
    """
    if option is not None:
        raise UserError(f"{place} has messages; add {option}.")
    if instead in row:
        raise UserError(f"{place} has both a {instead} and messages; give one of the two.")
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise UserError(f'{place} needs a list of messages under "messages".')
    for number, message in enumerate(messages, start=1):
        for field in ("role", "content"):
            read_field(message, field, f"{place} message {number},")
    return messages


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Prompt], arguments: argparse.Namespace
) -> list[list[int]]:
    """Token ids of each chat, ending where the model should answer, or go on with an assistant's last message.

    Raises:
        UserError: no chat template, or one that refuses the arguments or (naming the place) the messages.
    """
    from logitfusion.models.chat import ChatTemplate

    template = ChatTemplate(
        tokenizer,
        name=arguments.chat_template,
        arguments=read_chat_arguments(arguments),
        otherwise="leave --chat out",
    )
    encoded = []
    for prompt in prompts:
        messages = prompt.row.get("messages") or [{"role": "user", "content": prompt.row["prompt"]}]
        if arguments.system is not None:
            if messages[0]["role"] == "system":
                raise UserError(f"{prompt.place} has a system's message of its own; leave --system out.")
            messages = [{"role": "system", "content": arguments.system}, *messages]
        try:
            encoded.append(template.encode(messages))
        except UserError as error:
            raise UserError(f"{prompt.place} can't be a chat: {error}") from error
    return encoded
