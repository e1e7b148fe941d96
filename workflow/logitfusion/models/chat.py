"""Chats in the words of a tokenizer's own template: one place for decoding, teachers and the harness."""

from __future__ import annotations

import difflib
import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from logitfusion.errors import UserError
from logitfusion.formats.text import check_unicode
from logitfusion.models.text import check_text, name_tokenizer
from logitfusion.models.time_limit import limit_time

Message = Mapping[str, Any]
logger = logging.getLogger(__name__)
# A template is somebody else's program, and takes milliseconds for a few thousand characters.
SECONDS = 5.0  # of computing
LARGEST = 2**26  # characters of a chat
_CLOCK = "strftime_now"  # transformers' function for templates

# What else a template is given by its reader; these are not ours to set.
_OURS = {"messages", "conversation", "add_generation_prompt", "continue_final_message"}
_OPTIONS = {
    name
    for name, parameter in inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters.items()
    if parameter.kind is not inspect.Parameter.VAR_KEYWORD
}
_TURNS = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
_DATA = {"tools", "documents"}  # of both


class TemplateRefusedError(UserError):
    """A template can't write these messages: it has no system role, say, or wants users and assistants in turns."""


class ChatTemplate:
    """A tokenizer's chat template and its arguments.

    Args:
        tokenizer: of a chat model.
        name: of one of several templates; by default the one named ``default`` (with tools, ``tool_use``).
        arguments: what the template is given besides the messages (``enable_thinking``, say).
        otherwise: what a message advises where there is no template.

    Raises:
        UserError: no template, none of this name, or an argument that the template doesn't mention.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        otherwise: str = "use a chat model",
    ) -> None:
        self.tokenizer, self.arguments = tokenizer, dict(arguments or {})
        self._owner = name_tokenizer(tokenizer)
        self.text = self._choose(name, otherwise)
        ours = sorted(self.arguments.keys() & (_OURS | _OPTIONS - _DATA))
        if ours:
            raise UserError(f"The chat argument {ours[0]} can't be set; it is no argument of a template.")
        for argument in self.arguments:
            self._check_mentioned(argument, "argument")
        if _CLOCK in self.text:
            logger.warning(
                "The chat template of the %s may write today's date, so that prompts of another day are others; most do"
                " so in a system's message of their own, which yours replaces.",
                self._owner,
            )

    def render(self, messages: Sequence[Message], *, continues: bool | None = None) -> str:
        """The text of a chat, ending where the model should speak.

        Args:
            messages: each with ``role`` and ``content``; further fields must be known to the template, or null.
            continues: whether the model goes on with the last message; by default it does with an assistant's.

        Raises:
            TemplateRefusedError: the template can't write these messages.
            UserError: a field that the template doesn't mention.
        """
        given = {field for message in messages for field, value in message.items() if value is not None}
        for field in given - {"role", "content"}:
            self._check_mentioned(field, "field")
        if continues is None:
            continues = bool(messages) and messages[-1]["role"] == "assistant"
        options = {"add_generation_prompt": not continues, "continue_final_message": continues}
        text = self._apply(messages, **options)
        if self._drops_system(messages, text, **options):
            raise TemplateRefusedError(f"The chat template of the {self._owner} has no place for a system message.")
        return text

    def _drops_system(self, messages: Sequence[Message], text: str, **options: bool) -> bool:
        """Whether the text is the same without what the system says, as templates write it that know no such role."""
        rest = [message for message in messages if message["role"] != "system" or not message["content"]]
        if not rest or len(rest) == len(messages):
            return False
        try:
            return self._apply(rest, **options) == text
        except TemplateRefusedError:  # a system has to speak
            return False

    def _apply(self, messages: Sequence[Message], **options: bool) -> str:
        try:
            with limit_time(SECONDS):
                text = self.tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    chat_template=self.text,
                    tokenize=False,
                    **self.arguments,
                    **options,
                )
        except Exception as error:  # a template is a program, which may fail in any way
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise TemplateRefusedError(
                f"The chat template of the {self._owner} refuses the messages ({reason})."
            ) from error
        if len(text) > LARGEST:
            raise TemplateRefusedError(
                f"The chat template of the {self._owner} writes more than {LARGEST:,} characters."
            )
        return check_unicode(text, f"What the chat template of the {self._owner} writes")

    def write(self, messages: Sequence[Message]) -> str:
        """The text of a whole chat, after which nobody is to speak.

        Raises:
            TemplateRefusedError: the template can't write these messages.
        """
        return self._apply(messages)

    def encode(self, messages: Sequence[Message], *, continues: bool | None = None) -> list[int]:
        """The token ids of a chat, ending where the model should speak: the template writes all special tokens."""
        text = check_text(self.render(messages, continues=continues))
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def begins(self, ids: Sequence[int]) -> bool:
        """Whether the template begins a chat with these tokens."""
        return self.encode(_TURNS[:1])[: len(ids)] == list(ids)

    @cached_property
    def opening(self) -> str:
        """The white space that the template puts before an assistant's message where that is to speak, if any."""
        prompt, whole = self._apply(_TURNS[:1], add_generation_prompt=True), self._apply(_TURNS)
        before = whole[len(prompt) :].partition(_TURNS[1]["content"])[0]
        return before if whole.startswith(prompt) and before.isspace() else ""

    @cached_property
    def closing_token(self) -> int | None:
        """The token that the template puts after an assistant's message, else end of text."""
        # Two chats end alike in what follows the message, even where a template writes it otherwise than it is given.
        chats = (reversed(self._apply([_TURNS[0], {**_TURNS[1], "content": said}])) for said in ("answer", "yes"))
        same = takewhile(lambda pair: pair[0] == pair[1], zip(*chats, strict=False))
        after = "".join(character for character, _ in same)[::-1]
        ids = self.tokenizer.encode(after.strip(), add_special_tokens=False)
        return ids[0] if ids and ids[0] in self.tokenizer.added_tokens_decoder else self.tokenizer.eos_token_id

    def _choose(self, name: str | None, otherwise: str) -> str:
        """The template's own text."""
        found = self.tokenizer.chat_template
        if not found:
            raise UserError(f"The {self._owner} has no chat template; {otherwise}.")
        texts = [found] if isinstance(found, str) else found.values() if isinstance(found, dict) else [found]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"The {self._owner} has a chat template that is no text; {otherwise}.")
        if isinstance(found, str):
            if name not in (None, "default"):
                raise UserError(f"The {self._owner} has one chat template and none named {name!r}.")
            return found
        wanted = name or ("tool_use" if self.arguments.get("tools") and "tool_use" in found else "default")
        if wanted not in found:
            raise UserError(
                f"The {self._owner} has no chat template named {wanted!r}; it has {', '.join(sorted(map(str, found)))}."
            )
        return found[wanted]

    def _check_mentioned(self, name: str, kind: str) -> None:
        words = set(re.findall(r"[^\W\d]\w*", self.text))
        if name in words:
            return
        close = difflib.get_close_matches(name, words, n=1)
        hint = f"did you mean {close[0]}?" if close else "leave it out."
        raise UserError(f"The chat template of the {self._owner} has no {kind} {name!r}: {hint}")
