"""How servers are asked for the log-probabilities of a text's own tokens, and how they answer.

Texts are sent as token ids, so that the server cuts nothing anew. Written from the sources of vLLM and SGLang. The
server of llama.cpp has no log-probabilities of what it is given (in 2026), so it can't be a teacher.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, NamedTuple, NotRequired, Protocol

from pydantic import BaseModel, Field
from transformers import PreTrainedTokenizerBase
from typing_extensions import TypedDict

from logitfusion.config.endpoint import Protocol as Name
from logitfusion.distill.texts import EncodedText


class MalformedError(ValueError):
    """An answer that is not what the protocol says; the message is the end of a sentence."""


class Position(NamedTuple):
    """What a server says of one token of a text.

    Attributes:
        token: the token itself, as the server names it.
        log_prob: its natural log-probability.
        top: the likeliest tokens and their log-probabilities, in any order.
        spelling: the token as the server decodes it, where it tells.
    """

    token: int
    log_prob: float
    top: dict[int, float]
    spelling: str | None = None


class Asking(Protocol):
    """One way to ask.

    Attributes:
        native: whether its address is none of OpenAI's interface.
        path: under the server's address.
        spare: tokens that a text must be shorter than the server's context.
        remedy: what to do where fewer log-probabilities come than were asked for.
    """

    native: ClassVar[bool]
    path: ClassVar[str]
    spare: ClassVar[int]
    remedy: ClassVar[str]

    def request(self, text: EncodedText, k: int, model: str) -> dict[str, Any]:
        """The body of the request for ``k`` log-probabilities of each of a text's positions."""

    def read(self, content: bytes, text: EncodedText) -> list[Position]:
        """The positions of ``text.places``.

        Raises:
            MalformedError: something is missing.
            ValidationError: the answer has another form.
        """


_MISSING = "lacks the log-probability of a token that was sent"


class _Logprob(TypedDict):  # no class of its own: there are millions
    logprob: float
    decoded_token: NotRequired[str | None]


class _VllmChoice(BaseModel):
    prompt_logprobs: list[dict[int, _Logprob] | None] | None = None
    prompt_token_ids: list[int] | None = None


class _VllmAnswer(BaseModel):
    choices: list[_VllmChoice] = Field(min_length=1)


class Vllm:
    """``/v1/completions`` with ``prompt_logprobs``: of every token its own entry, by id, and the k likeliest.

    A token is generated too, as at least one must be. ``raw_logprobs``, which is the server's default, are of the model
    itself; the sampling parameters are neutral in case they are processed ones.
    """

    native, path, spare = False, "/completions", 1
    remedy = "start it with --max-logprobs of k at least, or lower --k"

    def request(self, text: EncodedText, k: int, model: str) -> dict[str, Any]:
        asked = {"prompt_logprobs": k, "return_token_ids": True}
        return {"model": model, "prompt": list(text.ids), "max_tokens": 1, **_NEUTRAL, **asked}

    def read(self, content: bytes, text: EncodedText) -> list[Position]:
        choice = _VllmAnswer.model_validate_json(content).choices[0]
        if choice.prompt_logprobs is None:
            raise MalformedError("has no prompt_logprobs, which vLLM gives; choose another --protocol")
        if choice.prompt_token_ids not in (None, list(text.ids)):
            raise MalformedError("is of other tokens than were sent")
        entries = choice.prompt_logprobs
        if len(entries) > len(text.ids):
            raise MalformedError("is of other tokens than were sent")
        if any(
            entry and token not in entry for entry, token in zip(entries, text.ids, strict=False)
        ):  # the prompt's too
            raise MalformedError(_MISSING)
        found = zip(_at_places(entries, text, len(text.ids)), text.places, strict=True)
        return [self._position(entry, text.ids[place]) for entry, place in found]

    @staticmethod
    def _position(entry: dict[int, _Logprob] | None, token: int) -> Position:
        own = (entry or {}).get(token)
        if entry is None or own is None:
            raise MalformedError(_MISSING)
        top = {number: one["logprob"] for number, one in entry.items()}
        return Position(token, own["logprob"], top, own.get("decoded_token"))


# Log-probability, id, text.
_Named = tuple[float | None, int, str | None]


class _SglangMeta(BaseModel):
    input_token_logprobs: list[_Named]
    input_top_logprobs: list[list[_Named] | None]


class _SglangAnswer(BaseModel):
    meta_info: _SglangMeta


class Sglang:
    """SGLang's own ``/generate``, because its completions name tokens by texts, which several tokens may have.

    Positions before the response are not sent back: the list begins with the token before it, which has no entry.
    """

    native, path, spare = True, "/generate", 1
    remedy = "lower --k"

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def request(self, text: EncodedText, k: int, model: str) -> dict[str, Any]:
        asked = {"return_logprob": True, "logprob_start_len": text.start - 1, "top_logprobs_num": k}
        sampling = {"max_new_tokens": 1, **_NEUTRAL}
        return {"input_ids": list(text.ids), "sampling_params": sampling, "return_text_in_logprobs": True, **asked}

    def read(self, content: bytes, text: EncodedText) -> list[Position]:
        meta = _SglangAnswer.model_validate_json(content).meta_info
        length, skipped = len(text.ids) - text.start + 1, text.start - 1
        own = _at_places(meta.input_token_logprobs, text, length, skipped)
        top = _at_places(meta.input_top_logprobs, text, length, skipped)
        sent = [text.ids[place] for place in text.places]
        return [self._position(*parts) for parts in zip(own, top, sent, strict=True)]

    def _position(self, own: _Named, top: list[_Named] | None, sent: int) -> Position:
        value, token, spelling = own
        if value is None or top is None or any(one is None for one, _, _ in top):
            raise MalformedError(_MISSING)
        if token == 0 and sent >= self.vocabulary - 1:  # it writes 0 for them, taking them for parts of images
            token, spelling = sent, None
        return Position(token, value, {number: one for one, number, _ in top if one is not None}, spelling)


class _EchoLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None
    token_ids: list[int] | None = None


class _EchoChoice(BaseModel):
    logprobs: _EchoLogprobs | None = None


class _EchoAnswer(BaseModel):
    choices: list[_EchoChoice] = Field(min_length=1)


class Echo:
    """``/v1/completions`` with ``echo`` and ``logprobs``, which name tokens by their texts.

    A text that several tokens have, as parts of characters do, can't be told apart and is refused; servers that write
    ``token_id:42`` have no such trouble.
    """

    native, path, spare = False, "/completions", 0
    remedy = "lower --k to what it gives, or choose another --protocol, as texts that several tokens have count once"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def request(self, text: EncodedText, k: int, model: str) -> dict[str, Any]:
        return {"model": model, "prompt": list(text.ids), "max_tokens": 0, "echo": True, "logprobs": k, **_NEUTRAL}

    def read(self, content: bytes, text: EncodedText) -> list[Position]:
        found = _EchoAnswer.model_validate_json(content).choices[0].logprobs
        if found is None or found.top_logprobs is None:
            raise MalformedError("has no log-probabilities of the text itself")
        length = len(text.ids)
        parts = [_at_places(part, text, length) for part in (found.tokens, found.token_logprobs, found.top_logprobs)]
        ids = [None] * len(parts[0]) if found.token_ids is None else _at_places(found.token_ids, text, length)
        sent = [text.ids[place] for place in text.places]
        return [self._position(*one) for one in zip(*parts, ids, sent, strict=True)]

    def _position(
        self, token: str, value: float | None, top: dict[str, float] | None, number: int | None, sent: int
    ) -> Position:
        if value is None or top is None:
            raise MalformedError(_MISSING)
        if number is None:
            named = self._named(token)
            number = sent if sent in named else next(iter(named), -1)
        return Position(number, value, {self._only(name): one for name, one in top.items()})

    def _only(self, name: str) -> int:
        named = self._named(name)
        if len(named) != 1:
            count = "several tokens" if named else "no token"
            raise MalformedError(f"names a token {name!r}, which is the text of {count}; choose another --protocol")
        return named[0]

    def _named(self, name: str) -> list[int]:
        """The tokens that a server may call so."""
        prefix, _, digits = name.partition(":")
        if prefix == "token_id" and digits.isdecimal():
            return [int(digits)]
        return self._texts.get(name, [])

    @cached_property
    def _texts(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for number in range(len(self.tokenizer)):
            found.setdefault(self.tokenizer.decode([number]), []).append(number)
        return found


# Distributions as the model gives them.
_NEUTRAL = {"temperature": 1.0, "top_p": 1.0}


def choose_protocol(name: Name, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> Asking:
    """The way that has this name, of a teacher with this tokenizer and so many entries."""
    match name:
        case "vllm":
            return Vllm()
        case "sglang":
            return Sglang(vocabulary)
        case "echo":
            return Echo(tokenizer)


def _at_places(entries: list[Any], text: EncodedText, length: int, skipped: int = 0) -> list[Any]:
    """The entries of the text's places, of a list without the first ``skipped`` tokens."""
    if len(entries) < length:
        raise MalformedError(f"has {len(entries)} positions, and {length} were asked for")
    return [entries[place - skipped] for place in text.places]
