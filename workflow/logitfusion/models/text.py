"""How texts become token ids: one encoder for decoding, scoring, tuning, training, teachers and the harness.

What a tokenizer does is found by trying it, not by its class: what it puts before and after a text, and whether it
changes the beginning of one (a space before it, or its own spaces lost), which must not happen where one text continues
another.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from logitfusion.errors import UserError
from logitfusion.formats.text import check_unicode

# What a text may follow to be encoded as a continuation: signs that few vocabularies join with what comes after them.
_ANCHORS = (":", ".", ",", "|", "\n", "a", "e", "0")


def name_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A tokenizer in a message."""
    name = tokenizer.name_or_path
    return f"tokenizer of {name!r}" if name else f"tokenizer ({type(tokenizer).__name__})"


def check_text(text: str) -> str:
    """The text, if a tokenizer can read it.

    Raises:
        UserError: it is something else, or has a half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise UserError(f"A text is needed where {str(text)[:40]!r} is given, which is of type {type(text).__name__}.")
    return check_unicode(text, f"The text {text[:40]!r}")


def token_ids(name: str, given: Iterable[int]) -> list[int]:
    """Numbers of tokens as they were given, of Python's, numpy's or torch's integers.

    Raises:
        UserError: something else; ``name`` is the text's.
    """
    try:
        return list(map(operator.index, None if isinstance(given, bytes) else given))
    except TypeError:
        raise UserError(f"{name} is a text or a list of token numbers, not {str(given)[:40]!r}.") from None


class Tokens(NamedTuple):
    """Token ids, and the characters of the text that each stands for (empty if the tokenizer is a slow one)."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class TextEncoder:
    """The ids of prompts, of completions that continue them, and of pairs whose continuation is scored.

    Args:
        tokenizer: fast or slow; what it puts around texts must not change afterwards.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._restarts: dict[int, bool] = {}

    @cached_property
    def prefix(self) -> list[int]:
        """What the tokenizer puts before every text: mostly begin-of-text, or nothing."""
        for probe in ("a", "0", ".", "the", "\n"):
            plain, whole = self._ids(probe), self.tokenizer.encode(probe)
            for place in range(len(whole) - len(plain) + 1):
                if plain and whole[place : place + len(plain)] == plain:
                    return whole[:place]
        return []

    @property
    def start(self) -> list[int]:
        """What a text is conditioned on that follows nothing: begin-of-text, else end-of-text.

        Raises:
            UserError: the tokenizer has neither.
        """
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return [token]
        if self.prefix:
            return self.prefix
        raise UserError(
            "An empty text needs a begin-of-text or end-of-text token, and the"
            f" {name_tokenizer(self.tokenizer)} has neither; set its bos_token."
        )

    @property
    def end(self) -> int:
        """The token that closes a completion.

        Raises:
            UserError: the tokenizer has none.
        """
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"The {name_tokenizer(self.tokenizer)} has no end-of-text token to close a response with; set its"
                " eos_token."
            )
        return self.tokenizer.eos_token_id

    def prompt(self, text: str) -> list[int]:
        """A text that is read from its beginning and may be continued.

        It has what the tokenizer puts before a text once, whether or not it is in the text (as in rendered chats), and
        nothing of what the tokenizer puts after one. The texts of special tokens are these tokens.
        """
        ids = self._ids(text)
        return ids if ids[: len(self.prefix)] == self.prefix else [*self.prefix, *ids]

    def completion(self, text: str, after: Sequence[int], *, space: str = "") -> Tokens:
        """A text that is learned, or read by a teacher, after the ids of its prompt.

        It is encoded alone, as it is generated, but without a space that the tokenizer puts before texts. The texts of
        special tokens are ordinary text, so that data can't end a turn; only a tokenizer whose algorithm itself finds
        that text in the vocabulary, as word-level and unigram ones may, still makes the special token of it.

        Args:
            space: white space that the prompt has lost (``lost_space``); it is in front of the completion then.
        """
        ids, offsets = self._continue(space + text, after, special=False)
        return Tokens(ids, _shift(offsets, len(space)))

    def following(self, text: str, after: Sequence[int]) -> list[int]:
        """The ids of a text that goes on after others, as a chat does; the texts of special tokens are these tokens."""
        return self._continue(text, after, special=True).ids

    def lost_space(self, prompt: str) -> str:
        """White space at the end of a prompt that the tokenizer leaves out, as those do that strip texts."""
        bare = prompt.rstrip()
        lost = self._loses_space and self._ids(bare) == self._ids(prompt)
        return prompt[len(bare) :] if lost else ""

    def example(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        """A prompt (at least one id) and its completion, without an end."""
        before, tokens = self.example_tokens(prompt, completion)
        return before, tokens.ids

    def example_tokens(self, prompt: str, completion: str) -> tuple[list[int], Tokens]:
        """``example``, with the characters of the completion that its tokens stand for."""
        before = self.prompt(prompt) or self.start
        return before, self.completion(completion, before, space=self.lost_space(prompt))

    def pair(self, context: str, continuation: str, name: str = "The pair") -> tuple[list[int], list[int]]:
        """A context (at least one id) and a continuation (at least one id) whose likelihood is asked for.

        As in lm-evaluation-harness, both are encoded together, and white space between them belongs to the
        continuation. Where a token spans the border, the continuation is encoded alone: no text is lost, and nothing
        is free.

        Args:
            name: of the pair in messages.

        Raises:
            UserError: the continuation is empty, or the tokenizer leaves nothing of it.
        """
        if not continuation:
            raise UserError(f"{name} has an empty continuation, which no likelihood can be given of; leave it out.")
        bare = context.rstrip()
        text = context[len(bare) :] + continuation
        before = self.prompt(bare) if context else []
        if not before:  # nothing to condition on, as in an unconditional likelihood
            before, after = self.start, self._ids(text)
            after = after[len(before) :] if after[: len(before)] == before else after
        else:
            whole = self.prompt(bare + text)
            after = whole[len(before) :]
            if not after or whole[: len(before)] != before or self._hides_border(bare, text, whole, len(after)):
                after = self._continue(text, before, special=True).ids
        if not after:
            raise UserError(
                f"{name} has the continuation {continuation!r}, of which the {name_tokenizer(self.tokenizer)} leaves"
                " no token; leave it out."
            )
        return before, after

    def _ids(self, text: str) -> list[int]:
        """A text alone, nothing around it; the texts of special tokens are these tokens."""
        return self.tokenizer.encode(check_text(text), add_special_tokens=False)

    def _encode(self, text: str, *, special: bool = True) -> Tokens:
        """A text alone, nothing around it. ``special``: the texts of special tokens are these tokens."""
        options = {} if special else {"split_special_tokens": True}
        fast = self.tokenizer.is_fast
        with _unchanged(self.tokenizer):
            encoded = self.tokenizer(check_text(text), add_special_tokens=False, return_offsets_mapping=fast, **options)
        return Tokens(list(encoded["input_ids"]), list(encoded["offset_mapping"]) if fast else [])

    def _continue(self, text: str, after: Sequence[int], *, special: bool) -> Tokens:
        if self._changes_beginnings and not self._begins(after):
            found = self._anchor(text, special=special)
            if found is not None:
                return found
        return self._encode(text, special=special)

    def _anchor(self, text: str, *, special: bool = True) -> Tokens | None:
        """A text as it is encoded after another one; None if no token ends at the border."""
        for anchor, expected in self._anchors:
            ids, offsets = self._encode(anchor + text, special=special)
            size = len(expected)
            if ids[:size] == expected:
                return Tokens(ids[size:], _shift(offsets[size:], len(anchor)))
        return None

    @cached_property
    def _anchors(self) -> list[tuple[str, list[int]]]:
        found = [(anchor, self._ids(anchor)) for anchor in _ANCHORS]
        # An unknown sign would be one token with an unknown one after it.
        return [(anchor, ids) for anchor, ids in found if ids and self.tokenizer.unk_token_id not in ids]

    @cached_property
    def _changes_beginnings(self) -> bool:
        """Whether the beginning of a text is encoded otherwise than the same characters inside of one.

        Some tokenizers put a space before a text, some leave out the space that it begins with. A piece of a word that
        is marked as such inside (``##a``) is neither.
        """
        for probe in ("a", " a"):
            anchored = self._anchor(probe)
            if anchored is not None:
                alone, inside = map(self._spell, (self._ids(probe), anchored.ids))
                longer, shorter = (alone, inside) if probe == "a" else (inside, alone)
                if longer != shorter and longer.endswith(shorter):
                    return True
        return False

    @cached_property
    def _loses_space(self) -> bool:
        return any(self._ids(f"a{space}") == self._ids("a") for space in " \n")

    def _spell(self, ids: list[int]) -> str:
        return "".join(self.tokenizer.convert_ids_to_tokens(ids))

    def _begins(self, after: Sequence[int]) -> bool:
        """Whether a text that follows these ids is encoded as if it followed none."""
        nothing = ([], self.prefix, [self.tokenizer.bos_token_id], [self.tokenizer.eos_token_id])
        return list(after) in nothing or self._restarts_after(after[-1])

    def _restarts_after(self, token: int) -> bool:
        """Whether the tokenizer reads what follows this token as a new text, as some do after any special one.

        The unknown token stands for signs of a text, and these are followed as others are.
        """
        if token not in self._restarts:
            added = self.tokenizer.added_tokens_decoder.get(token)
            known = added is not None and token != self.tokenizer.unk_token_id
            self._restarts[token] = known and self._ids(f"{added}a") == [
                token,
                *self._ids("a"),
            ]
        return self._restarts[token]

    def _hides_border(self, context: str, text: str, whole: list[int], count: int) -> bool:
        """Whether the token before the last ``count`` ones is of both texts though its id is the context's own.

        Only an unknown token is the same for whatever it stands for.
        """
        if whole[-count - 1] != self.tokenizer.unk_token_id or not self.tokenizer.is_fast:
            return False
        return self._encode(context + text).offsets[-count - 1][1] > len(context)


@contextmanager
def _unchanged(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Leave a fast tokenizer as it was: transformers keeps the last call's ``split_special_tokens`` in its backend."""
    if not tokenizer.is_fast:
        yield
        return
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    try:
        yield
    finally:
        backend.encode_special_tokens = before


def _shift(offsets: list[tuple[int, int]], by: int) -> list[tuple[int, int]]:
    return [(max(0, first - by), max(0, end - by)) for first, end in offsets]
