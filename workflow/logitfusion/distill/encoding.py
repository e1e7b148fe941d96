"""Prompts and responses, or chats, in the tokens of one model, with the bytes of a response that each token covers.

Models whose vocabularies differ cut the same response into different tokens. Bytes are what they have in common, so a
token is known by the byte where it ends, exact even inside a character that several tokens share.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, tee
from typing import Any, get_args

from transformers import PreTrainedTokenizerBase

from logitfusion.config.prompting import Template, TextFormat
from logitfusion.distill.texts import EncodedText, StoredTexts
from logitfusion.errors import UserError
from logitfusion.models.examples import ExampleEncoder, Text, Turn

TEMPLATES = get_args(Template)


def encode_text(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    response: str,
    *,
    template: str = "plain",
    system: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
) -> EncodedText:
    """``encode_texts`` of one prompt and its response."""
    options = {"template": template, "system": system, "arguments": arguments, "max_tokens": max_tokens}
    return encode_texts(tokenizer, [(prompt, response)], **options)[0]


def encode_texts(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Text],
    *,
    template: str = "plain",
    system: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
) -> StoredTexts:
    """Prompts and responses, encoded separately as at decoding time, so that the boundary between them is exact.

    A response is what ``TextEncoder.completion`` makes of it: the text of a special token inside (``"<|im_end|>"``) is
    ordinary text, so that data can't end a turn. In the prompt it is the special token, as at decoding time.

    Args:
        tokenizer: a fast one.
        texts: read once, one after the other: prompts and what is learned after them; an end of text comes after it.
            An empty prompt becomes the tokenizer's first token (or its end of text). With ``template="chat"`` also the
            messages of chats, of which all that the assistant says is learned.
        template: ``"plain"``: prompt and response as they are. ``"chat"``: the prompt is a user's message in the
            tokenizer's chat template, the response the assistant's, without its leading whitespace (whose bytes still
            count), closed by the one token that the template closes it with, else by end of text.
        system: the system's message of chats that have none.
        arguments: of the chat template.
        max_tokens: at least 2; None for no limit. The prompt is cut first, from the left, down to one token; then what
            follows, from the right, not between tokens that end at the same byte: that may leave none.

    Returns:
        the texts in their order; what their tokens take is on the disk if it is much.

    Raises:
        UserError: a slow tokenizer, one without an end of text, or without a chat template where one is needed; a text
            that can't be written in it.
        ValueError: an unknown template or too small a limit.
    """
    if template not in TEMPLATES:
        raise ValueError(f"template is one of {TEMPLATES}, not {template!r}")
    if max_tokens is not None and (not isinstance(max_tokens, int) or max_tokens < 2):
        raise ValueError(f"max_tokens is at least 2, a token of the prompt and one of the response, not {max_tokens}")
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer of {tokenizer.name_or_path!r} is a slow one, which can't say what text its tokens cover;"
            " use a model that has a tokenizer.json."
        )
    encoder = ExampleEncoder(tokenizer, TextFormat(template=template, system=system), arguments)
    texts, same = tee(texts)
    return StoredTexts(
        replace(_cut(*_join(tokenizer, turns), max_tokens), digest=digest_text(text))
        for text, turns in zip(texts, encoder.turns(same), strict=True)
    )


def encode_answer(
    encoder: ExampleEncoder, given: Sequence[int], response: str, *, closed: bool, max_tokens: int | None = None
) -> EncodedText:
    """A response that somebody generated, in the tokens of another model or its own, as if it were of a text.

    Args:
        encoder: of the model that reads it.
        given: the tokens of the prompt.
        response: its text.
        closed: whether it came to its end.
        max_tokens: see ``encode_texts``.
    """
    turn = encoder.answer(given, response, closed=closed)
    return _cut(*_join(encoder.encoder.tokenizer, [turn]), max_tokens)


def _join(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> tuple[list[int], list[int], list[int | None]]:
    """The prompt of the first turn, all that follows, and the byte where each of these ends (None: of no response)."""
    after: list[int] = []
    ends: list[int | None] = []
    first = 0  # byte where a response begins
    for number, turn in enumerate(turns):
        given = turn.given if number else []
        tokens = [first + max(0, turn.shift + end) for end in _response_ends(tokenizer, turn)]
        after += [*given, *turn.tokens.ids, *turn.ending, *turn.closing]
        first += turn.size + 1
        ends += [*[None] * len(given), *tokens, *[None] * len(turn.ending), *[first] * len(turn.closing)]
    return turns[0].given, after, ends


def digest_text(text: Text) -> bytes:
    """By which texts are told apart, the start of a SHA-256."""
    return hashlib.sha256(spell_text(text).encode()).digest()[:8]


def name_template(template: str, system: str | None, arguments: Mapping[str, Any] | None = None) -> str:
    """How texts are written, in a cache's manifest, which tells it apart from other ways."""
    given = json.dumps(dict(arguments), sort_keys=True) if arguments else ""
    return " ".join(filter(None, [template, given, f"system {json.dumps(system)}" if system else ""]))


def spell_text(text: Text) -> str:
    """A prompt and its response, or the messages of a chat, on one line."""
    return json.dumps([dict(part) if isinstance(part, Mapping) else part for part in text], sort_keys=True)


def _cut(before: list[int], after: list[int], ends: list[int | None], max_tokens: int | None) -> EncodedText:
    kept = len(after)
    if max_tokens is not None:
        before = before[-max(1, max_tokens - kept) :]
        kept = min(kept, max_tokens - len(before))
        # Tokens with one end share characters: some of them alone would pass for all of them.
        while 0 < kept < len(after) and ends[kept - 1] is not None and ends[kept - 1] == ends[kept]:
            kept -= 1
        while 0 < kept < len(after) and ends[kept - 1] is None:  # nothing is learned after it
            kept -= 1
    between = [len(before) + place for place, end in enumerate(ends[:kept]) if end is None]
    found = tuple(end for end in ends[:kept] if end is not None)
    return EncodedText(tuple(before + after[:kept]), len(before), found, between=tuple(between))


def _response_ends(tokenizer: PreTrainedTokenizerBase, turn: Turn) -> list[int]:
    """The byte of a response where each of its tokens ends."""
    tokens = tokenizer.convert_ids_to_tokens(turn.tokens.ids)
    spellings = [[spell(token) for token in tokens] for spell in (_byte_level, _sentencepiece)]
    ends = _exact_ends(spellings, turn.text)
    return _ends_from_offsets(turn.tokens.offsets, spellings, turn.text) if ends is None else ends


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


def spell_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[bytes | str, int]:
    """The number of each token by what it stands for: the bytes of a text, or the text of a special token.

    How a tokenizer spells its tokens is found by encoding a text. Of several tokens that stand for the same, such as a
    letter and the byte that stands in for it, the one that a text is encoded with has the name.
    """
    special = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    ordinary = sorted(tokenizer.get_vocab().items(), key=lambda entry: (not _ONE_BYTE.fullmatch(entry[0]), -entry[1]))
    spell = _find_spelling(tokenizer)
    spelled: dict[bytes | str, int] = {spell(token): number for token, number in ordinary if number not in special}
    return spelled | {text: number for number, text in special.items()}


def _find_spelling(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], bytes]:
    words = "a b the of"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode(words, add_special_tokens=False))
    for spell in (_byte_level, _sentencepiece):
        if _exact_ends([list(map(spell, tokens))], words) is not None:
            return spell
    return _wordpiece if any(token.startswith("##") for token in tokenizer.get_vocab()) else str.encode


def _wordpiece(token: str) -> bytes:
    """The white space that such a tokenizer leaves out belongs to the token that begins a word."""
    return token[2:].encode() if token.startswith("##") else f" {token}".encode()


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
