"""Texts that are learned from, in the tokens of one model: what of them is given, and what is the response.

A text is a prompt and its response, or the messages of a chat, of which what the assistant says is learned. The tokens
are those of decoding: what is given before a response is the template's own text up to where the model speaks, a
response is encoded as it is generated, and closed by the token with which the template closes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from logitfusion.config.prompting import TextFormat
from logitfusion.errors import UserError
from logitfusion.models.chat import ChatTemplate, Message
from logitfusion.models.text import TextEncoder, Tokens, check_text

Text = tuple[str, str] | Sequence[Message]
PLAIN = TextFormat()


@dataclass(frozen=True)
class Turn:
    """A response in its place.

    Attributes:
        given: tokens before it that nobody learns; of a later turn, those since the response before.
        text: the response, in a chat with the white space around it that the template writes, and no other.
        shift: bytes by which ``text`` begins later than the response as it was given, or earlier (negative).
        size: bytes of the response as it was given.
        tokens: of the response, with the characters of ``text`` that each stands for (none of a slow tokenizer).
        ending: what the template writes between the response and the token that closes it, not learned.
        closing: that token, which is learned; none where a template goes on without one.
    """

    given: list[int]
    text: str
    shift: int
    size: int
    tokens: Tokens
    ending: list[int]
    closing: list[int]

    @property
    def ids(self) -> list[int]:
        """All of its tokens."""
        return [*self.given, *self.tokens.ids, *self.ending, *self.closing]

    @property
    def learned(self) -> list[bool]:
        """Which of them are learned."""
        sizes = (len(self.given), False), (len(self.tokens.ids), True), (len(self.ending), False)
        return [value for size, value in (*sizes, (len(self.closing), True)) for _ in range(size)]


def read_example(row: Mapping[str, Any]) -> Text:
    """A row of a file of training text: ``messages``, or ``prompt`` and ``completion``."""
    return row["messages"] if "messages" in row else (row["prompt"], row["completion"])


class ExampleEncoder:
    """Texts of a format as turns.

    Args:
        tokenizer: of the model that learns, or is read.
        form: whether texts are chats, and what the system says in those where it says nothing.
        arguments: of the chat template.

    Raises:
        UserError: no chat template where one is needed, or arguments without one.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        form: TextFormat = PLAIN,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.encoder, self.form = TextEncoder(tokenizer), form
        self._chat: ChatTemplate | None = None
        if form.template == "chat":
            otherwise = "use a chat model or template: plain"
            self._chat = ChatTemplate(tokenizer, arguments=arguments, otherwise=otherwise)
        elif arguments:
            raise UserError("Chat arguments need template: chat.")

    @property
    def closing(self) -> int:
        """The token that closes a response, of a chat the last one.

        Raises:
            UserError: the tokenizer has no token that ends a text, and no template has another.
        """
        token = self._chat.closing_token if self._chat is not None else None
        return self.encoder.end if token is None else token

    def turns(self, texts: Iterable[Text]) -> Iterator[list[Turn]]:
        """The turns of each text, at least one.

        Raises:
            UserError: names the text that can't be written in this format, by its number from 1 on; or the tokenizer
                has no token that ends a text, where no template does.
        """
        closing = self.closing if self._chat is None else None
        for number, text in enumerate(texts, start=1):
            try:
                turns = [self._pair(text, closing)] if closing is not None else list(self._chat_turns(text))
            except UserError as error:
                raise UserError(f"Text {number}: {error}") from error
            yield turns

    def _pair(self, text: Text, closing: int) -> Turn:
        prompt, response = _check_pair(text)
        given, tokens = self.encoder.example_tokens(prompt, response)
        return Turn(given, response, 0, len(response.encode()), tokens, [], [closing])

    def answer(self, given: Sequence[int], response: str, *, closed: bool) -> Turn:
        """A response that was generated after these tokens, which may have ended before it was ``closed``."""
        opening = self._chat.opening if self._chat is not None else ""
        bare = response.lstrip() if self._chat is not None else response
        tokens = self.encoder.completion(opening + bare, given)
        size, shift = len(response.encode()), len(response.encode()) - len((opening + bare).encode())
        return Turn(list(given), opening + bare, shift, size, tokens, [], [self.closing] if closed else [])

    def _chat_turns(self, text: Text) -> Iterator[Turn]:
        """The turns of a chat; what is said after the assistant's last message is left out."""
        encoder, chat, messages = self.encoder, self._chat, self.messages(text)
        spoken = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        if not spoken:
            raise UserError("it has no message of an assistant, which alone is learned; leave it out.")
        bare = [_strip(message) for message in messages]
        prompts = [chat.render(bare[:place], continues=False) for place in spoken]
        given, read, before = chat.encode(bare[: spoken[0]], continues=False), list[int](), prompts[0]
        for number, place in enumerate(spoken):
            answer, bytes_given = bare[place]["content"], len(messages[place]["content"].encode())
            response, between = chat.opening + answer, None
            if number + 1 < len(spoken):
                response, between = _part(prompts[number], chat.opening, answer, prompts[number + 1])
            else:
                response = _end(prompts[number], chat.opening, answer, chat.write(bare[: place + 1]))
            read += given
            tokens = encoder.completion(response, read, space=encoder.lost_space(before))
            shift = bytes_given - len(answer.encode()) - len(chat.opening)
            read += tokens.ids
            if between is None:
                yield Turn(given, response, shift, bytes_given, tokens, [], [self.closing])
            else:
                following = encoder.following(between, read)
                end = _find_end(encoder, following, chat.closing_token)
                ending, closing = following[: max(0, end - 1)], following[max(0, end - 1) : end]
                yield Turn(given, response, shift, bytes_given, tokens, ending, closing)
                read += following[:end]
                given, before = following[end:], between

    def messages(self, text: Text) -> list[Message]:
        """A text as the messages of a chat; of a prompt and its response, a user's and an assistant's."""
        if _is_pair(text):
            text = [{"role": "user", "content": text[0]}, {"role": "assistant", "content": text[1]}]
        system = self.form.system if text and text[0]["role"] != "system" else None
        return [*([{"role": "system", "content": system}] if system else []), *text]

    def write(self, text: Text) -> str:
        """The text as a model reads it from beginning to end.

        Raises:
            UserError: a chat without a template, or one that the template can't write.
        """
        if self._chat is not None:
            return self._chat.write(self.messages(text))
        return "".join(_check_pair(text))


def _is_pair(text: Text) -> bool:
    return isinstance(text, tuple) and len(text) == 2 and isinstance(text[0], str)


def _check_pair(text: Text) -> tuple[str, str]:
    if not _is_pair(text):
        raise UserError("it is a chat, and chats are read in a template; set template: chat.")
    return text


def _strip(message: Message) -> Message:
    """A message of the assistant without the white space that it begins with, which no template has there."""
    if message["role"] != "assistant":
        return message
    return {**message, "content": check_text(message["content"]).lstrip()}


def _part(before: str, opening: str, answer: str, after: str) -> tuple[str, str]:
    """An answer as a template writes it where more follows, and what comes between it and the next one.

    Raises:
        UserError: it writes something else, so that what is learned would not be what is read later.
    """
    for written in (opening + answer, opening + answer.rstrip()):
        if after.startswith(before + written):
            return written, after[len(before) + len(written) :]
    raise UserError(
        f"the chat template writes the answer {answer[:40]!r} otherwise once another message follows (it may leave"
        " thoughts out), so it can't be learned together with a later one; give each answer as a text of its own."
    )


def _end(before: str, opening: str, answer: str, whole: str) -> str:
    """The last answer, without the white space at its end that a template leaves out there as everywhere."""
    written, bare = before + opening + answer, opening + answer.rstrip()
    return bare if whole.startswith(before + bare) and not whole.startswith(written) else opening + answer


def _find_end(encoder: TextEncoder, following: list[int], closing: int | None) -> int:
    """How many tokens after a response it takes to close it, white space included; 0 where the template does not."""
    end = following.index(closing) + 1 if closing in following else 0
    return 0 if encoder.tokenizer.decode(following[: max(0, end - 1)]).strip() else end
