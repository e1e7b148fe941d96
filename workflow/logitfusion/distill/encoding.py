"""A prompt and its response in the tokens of one model, with the bytes of the response that each token covers.

Models whose vocabularies differ cut the same response into different tokens. Bytes are what they have in common, so a
token is known by the byte where it ends, exact even inside a character that several tokens share.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from transformers import PreTrainedTokenizerBase

from logitfusion.errors import UserError
from logitfusion.models.chat import ChatTemplate
from logitfusion.models.text import TextEncoder

TEMPLATES = ("plain", "chat")
# In place of the digest of a text that nobody named.
UNKNOWN_TEXT = bytes(8)


@dataclass(frozen=True)
class EncodedText:
    """A text as one model reads it.

    Attributes:
        ids: the tokens of prompt, response, and what closes the response.
        start: place of the response's first token, at least 1: the logits at ``start - 1`` predict it.
        ends: for each token from ``start`` on, the byte of the response (UTF-8) where it ends, not descending. What
            closes a response of n bytes (end of text, end of turn) ends at n + 1, so that it never belongs to the text.
            A response that was cut has nothing that closes it.
        digest: of prompt and response as they were given, 8 bytes, equal for all models.
    """

    ids: tuple[int, ...]
    start: int
    ends: tuple[int, ...]
    digest: bytes = UNKNOWN_TEXT

    @property
    def labels(self) -> tuple[int, ...]:
        """The response's own tokens, what closes it included."""
        return self.ids[self.start :]


def encode_text(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    response: str,
    *,
    template: str = "plain",
    arguments: Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
) -> EncodedText:
    """``encode_texts`` of one text."""
    return encode_texts(tokenizer, [(prompt, response)], template=template, arguments=arguments, max_tokens=max_tokens)[
        0
    ]


def encode_texts(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[tuple[str, str]],
    *,
    template: str = "plain",
    arguments: Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
) -> list[EncodedText]:
    """Prompts and responses, encoded separately as at decoding time, so that the boundary between them is exact.

    A response is what ``TextEncoder.completion`` makes of it: the text of a special token inside (``"<|im_end|>"``) is
    ordinary text, so that data can't end a turn. In the prompt it is the special token, as at decoding time.

    Args:
        tokenizer: a fast one.
        texts: prompts and what is learned after them; an end of text comes after it. An empty prompt becomes the
            tokenizer's first token (or its end of text).
        template: ``"plain"``: prompt and response as they are. ``"chat"``: the prompt is a user's message in the
            tokenizer's chat template, the response the assistant's, without its leading whitespace (whose bytes still
            count), closed by the one token that the template closes it with, else by end of text.
        arguments: of the chat template.
        max_tokens: at least 2; None for no limit. The prompt is cut first, from the left, down to one token; then the
            response, from the right, not between tokens that end at the same byte: that may leave none.

    Raises:
        UserError: a slow tokenizer, one without an end of text, or without a chat template where one is needed.
        ValueError: an unknown template or too small a limit.
    """
    if template not in TEMPLATES:
        raise ValueError(f"template is one of {TEMPLATES}, not {template!r}")
    if max_tokens is not None and max_tokens < 2:
        raise ValueError(f"max_tokens is at least 2, a token of the prompt and one of the response, not {max_tokens}")
    if arguments and template == "plain":
        raise UserError("Chat arguments need template: chat.")
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer of {tokenizer.name_or_path!r} is a slow one, which can't say what text its tokens cover;"
            " use a model that has a tokenizer.json."
        )
    encoder = TextEncoder(tokenizer)
    if template == "plain":
        found = [(text, _encode_plain(encoder, *text, max_tokens)) for text in texts]
    else:
        chat = ChatTemplate(tokenizer, arguments=arguments, otherwise="use a chat model or template: plain")
        found = [(text, _encode_chat(encoder, chat, *text, max_tokens)) for text in texts]
    return [replace(encoded, digest=digest_text(*text)) for text, encoded in found]


def _encode_plain(encoder: TextEncoder, prompt: str, response: str, max_tokens: int | None) -> EncodedText:
    closing, before = encoder.end, encoder.prompt(prompt) or encoder.start
    ids, ends = _encode_response(encoder, response, before, encoder.lost_space(prompt))
    return _cut(before, [*ids, closing], [*ends, len(response.encode()) + 1], max_tokens)


def _encode_chat(
    encoder: TextEncoder, chat: ChatTemplate, prompt: str, response: str, max_tokens: int | None
) -> EncodedText:
    text, messages = response.lstrip(), [{"role": "user", "content": prompt}]
    before = chat.encode(messages)
    ids, ends = _encode_response(encoder, text, before, encoder.lost_space(chat.render(messages)))
    size = len(response.encode())
    stripped = size - len(text.encode())
    closing = chat.closing_token
    ends = [*(stripped + end for end in ends), size + 1]
    return _cut(before, [*ids, encoder.end if closing is None else closing], ends, max_tokens)


def digest_text(prompt: str, response: str) -> bytes:
    """By which texts are told apart, the start of a SHA-256."""
    return hashlib.sha256(json.dumps([prompt, response]).encode()).digest()[:8]


def _cut(before: list[int], response: list[int], ends: list[int], max_tokens: int | None) -> EncodedText:
    kept = len(response)
    if max_tokens is not None:
        before = before[-max(1, max_tokens - kept) :]
        kept = min(kept, max_tokens - len(before))
        # Tokens with one end share characters: some of them alone would pass for all of them.
        while 0 < kept < len(response) and ends[kept - 1] == ends[kept]:
            kept -= 1
    return EncodedText(tuple(before + response[:kept]), len(before), tuple(ends[:kept]))


def _encode_response(encoder: TextEncoder, text: str, before: list[int], space: str) -> tuple[list[int], list[int]]:
    """The tokens of a text and the byte where each ends."""
    ids, offsets = encoder.completion(text, before, space=space)
    tokens = encoder.tokenizer.convert_ids_to_tokens(ids)
    spellings = [[spell(token) for token in tokens] for spell in (_byte_level, _sentencepiece)]
    ends = _exact_ends(spellings, text)
    return ids, _ends_from_offsets(offsets, spellings, text) if ends is None else ends


# How byte-level BPE (GPT-2) writes bytes as characters: those that print in Latin-1 as themselves, the others from
# U+0100 on, in their order.
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(0x100) if byte not in _PRINTED]
_BYTES = {chr(byte): bytes([byte]) for byte in _PRINTED}
_BYTES |= {chr(0x100 + number): bytes([byte]) for number, byte in enumerate(_OTHERS)}

_ONE_BYTE = re.compile("<0x[0-9A-F]{2}>")


def _byte_level(token: str) -> bytes:
    return b"".join(_BYTES.get(character) or character.encode() for character in token)


def _sentencepiece(token: str) -> bytes:
    return bytes.fromhex(token[3:5]) if _ONE_BYTE.fullmatch(token) else token.replace("\u2581", " ").encode()


def _exact_ends(spellings: Sequence[Sequence[bytes]], text: str) -> list[int] | None:
    """Where tokens end by their own bytes; None if these are not the text's."""
    data = text.encode()
    for spelled in spellings:
        joined = b"".join(spelled)
        # Some tokenizers put a space before every text, which none of its bytes is.
        if joined in (data, b" " + data):
            added = len(joined) - len(data)
            return [end - added for end in accumulate(map(len, spelled))]
    return None


def _ends_from_offsets(
    offsets: Sequence[tuple[int, int]], spellings: Sequence[Sequence[bytes]], text: str
) -> list[int]:
    """Where tokens end by the characters that the tokenizer maps them to.

    For tokenizers that change the text (lower case, NFKC, unknown words). Tokens that came from the same characters
    all end after the last one, unless their bytes are more exact.
    """
    ends: list[int] = []
    reached = size = 0
    for first, last, end in _runs(offsets, text):
        piece = text[reached:end]
        inside = _exact_ends([spelled[first:last] for spelled in spellings], piece)
        ends += [size + byte for byte in inside or [len(piece.encode())] * (last - first)]
        reached, size = end, size + len(piece.encode())
    return ends


def _runs(offsets: Sequence[tuple[int, int]], text: str) -> Iterator[tuple[int, int, int]]:
    """Tokens ``first`` to ``last - 1`` that share characters, and the character where they end: runs tile the text.

    Characters that no token names (a mark composed with its letter, a deleted one) go to the token before them, except
    whitespace, which goes to the token after it: tokenizers that leave it out do so at the start of words.
    """
    first = reached = 0
    for last, (_, end) in enumerate(offsets, 1):
        reached = max(reached, end)
        if last == len(offsets):
            reached = len(text)
        elif offsets[last][0] < reached:
            continue
        else:
            while reached < offsets[last][0] and not text[reached].isspace():
                reached += 1
        yield first, last, reached
        first = last
