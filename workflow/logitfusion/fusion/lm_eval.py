"""A fusion as a model of lm-evaluation-harness: any of its tasks measures it, by the rules of its ``hf`` model.

Importing this module registers the model ``logitfusion``. With all weights 0, or without experts, its answers are
those of ``hf`` on the large model, with three exceptions: log-likelihoods are taken in fp32 whatever the weights are;
what a model's ``generation_config.json`` adds to decoding (penalties, suppressed or forced tokens, a least length,
values for sampling) is not applied unless a task asks for it; and where a token spans the border of context and
continuation,
``hf`` scores only what is left behind it, and here the continuation is encoded alone. In a batch, ``hf`` generates
until one stop string has ended all of its rows, and looks for the begin-of-text token in the first of them; here every
row is as if it were alone.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import postprocess_generated_text, resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from logitfusion.config.decoding import DECODING, Decoding, DecodingOptions
from logitfusion.config.keywords import read_options
from logitfusion.errors import UserError
from logitfusion.fusion.decoding import Generation
from logitfusion.fusion.lm import FusedLM
from logitfusion.fusion.lm_eval_arguments import (
    read_fusion_arguments,
    read_generation,
    read_loading,
    read_template_arguments,
)
from logitfusion.fusion.options import parse_folders, parse_options
from logitfusion.models.chat import ChatTemplate, TemplateRefusedError
from logitfusion.models.load import count_parameters
from logitfusion.models.text import name_tokenizer

Request = tuple[tuple[str, str] | None, list[int], list[int]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """A text as the harness gets it, by the rules of ``hf``, and the generation that it was cut from."""

    text: str
    generation: Generation


@register_model("logitfusion")
class FusedLMEval(TemplateLM):
    """A ``FusedLM`` that answers the harness's requests.

    Made around a fusion, or from the folders of its models, as in ``model_args`` of ``lm_eval.simple_evaluate``:
    ``"large=models/large,base=models/small,expert=models/a;models/b,weights=1.0;0.5"``.

    Args:
        lm: the fusion; without it, ``large``, ``base`` and ``expert`` name model folders.
        large, base: model folders.
        expert: one folder or several, as a list or separated by semicolons.
        speculative, batch_size: as in ``Decoding``.
        dtype, device_map, attn_implementation: as in ``FusedLM.from_folders``; of ``hf``'s, those that mean the same.
        max_length: the most tokens that the models read at a time; longer inputs lose their beginning. By default the
            least limit of all models.
        max_gen_toks: the most tokens of a text where the task says nothing.
        chat_template_args, enable_thinking: as in ``hf``, what the chat template is given besides the messages, by name
            or as JSON.
        think_end_token: as in ``hf``, the token, as text or number, whose last occurrence ends what is no answer.
        chat_template_name: which one of a tokenizer's several templates.
        device: only checked, because a fusion takes the GPU that the job was given, else the CPU.
        max_batch_size: of the harness's own command line; has no meaning here.
        seed: of the draws, request number i draws with seed + i; by default what torch's generator says, which the
            harness has seeded.
        on_batch: called with the number of requests that a batch finished, of any kind.
        options: the fields of ``FusionOptions`` by name; several numbers may be separated by semicolons. Arguments of
            ``hf`` may have the values that change nothing.

    Raises:
        UserError: options that can't be used, named, and what ``FusedLM`` refuses.
    """

    def __init__(
        self,
        lm: FusedLM | None = None,
        *,
        large: str | Path | None = None,
        base: str | Path | None = None,
        expert: str | Path | Sequence[str | Path] = (),
        speculative: bool = DECODING.speculative,
        batch_size: int | str | None = DECODING.batch_size,
        dtype: str = "auto",
        device_map: str | int | None = None,
        attn_implementation: str = "auto",
        max_length: int | str | None = None,
        max_gen_toks: int | str = 256,
        device: str | None = None,
        max_batch_size: int | None = None,
        chat_template_args: Mapping[str, Any] | str | None = None,
        chat_template_name: str | None = None,
        enable_thinking: bool | None = None,
        think_end_token: str | int | None = None,
        seed: int | None = None,
        on_batch: Callable[[int], None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        named = read_fusion_arguments(options, inspect.signature(FusedLMEval).parameters)
        loading = read_loading(dtype, device_map, attn_implementation)
        if (lm is None) == (large is None):
            raise UserError("A fusion is evaluated from lm or from large with its base and experts, one of the two.")
        if lm is None:
            lm = FusedLM.from_folders(
                large,
                base,
                parse_folders(expert),
                dtype=loading.dtype,
                device_map=loading.device_map,
                attn_implementation=loading.attention,
                options=parse_options(named),
            )
        elif named or base is not None or expert:
            raise UserError("A fusion that is given as lm has its models and options already; leave theirs out.")
        self.lm, self.tokenizer, self._device = lm, lm.tokenizer, lm.device
        if device is not None and torch.device(device).type != lm.device.type:
            raise UserError(f"The fusion is on {lm.device}, not on {device}: CUDA_VISIBLE_DEVICES chooses the GPU.")
        given = {"batch_size": _read_batch_size(batch_size), "speculative": speculative, "seed": seed}
        self.decoding, self.on_batch = read_options(Decoding, given), on_batch
        limits = [resolve_max_length(model.config, lm.tokenizer) for model in lm.models]
        self.max_length = int(min([*limits, lm.max_length]))
        if max_length is not None:
            self.max_length = _read_count("max_length", max_length)
            lm.extend(self.max_length)
        self.max_gen_toks = _read_count("max_gen_toks", max_gen_toks)
        self.chat_template_args = read_template_arguments(chat_template_args, enable_thinking)
        self._template_name, self._warned = chat_template_name, False
        self.enable_thinking = enable_thinking
        self.think_end_token = int(think_end_token) if str(think_end_token).isdigit() else think_end_token
        if enable_thinking and think_end_token is None:
            raise UserError("enable_thinking needs a think_end_token, which ends what is no answer.")
        if chat_template_name is not None:
            self.chat_template(chat_template_name)  # known, or refused before anything is evaluated

    @property
    def saved_seconds(self) -> float:
        """What passes over prompts took that were not made again, see ``PromptMemory``."""
        return 0.0 if self.lm.memory is None else self.lm.memory.saved

    # What the harness asks about the tokenizer

    @property
    def eot_token_id(self) -> int | None:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context is conditioned on; a ``UserError`` if the tokenizer has nothing for it."""
        return self.lm.encoder.start[-1]

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; by default with what the tokenizer puts before a text, unless the text has it already."""
        if add_special_tokens is None:
            ids = self.lm.encode(string)
        else:
            ids = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """A context and its continuation, at least one token of each; see ``FusedLM.score``."""
        context_ids, continuation_ids = self.lm.encode_pair(context, continuation)
        return list(context_ids), list(continuation_ids)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a chat, ending where the model should speak (or go on with the last message)."""
        continues = not add_generation_prompt
        try:
            return self._chat.render(chat_history, continues=continues)
        except TemplateRefusedError as error:
            rest = [message for message in chat_history if message["role"] != "system"]
            if len(rest) == len(chat_history):
                raise
            text = self._chat.render(rest, continues=continues)
            if not self._warned:
                logger.warning("%s The system message is left out.", error)
            self._warned = True
            return text

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The text of the template that chats are written in from now on: the tokenizer's, or one of this name."""
        if isinstance(chat_template, str):
            self._template_name = chat_template
            self.__dict__.pop("_chat", None)
        return self._chat.text if chat_template else None

    @property
    def opening(self) -> str:
        """The white space that the template writes before what the assistant says."""
        return self._chat.opening

    @cached_property
    def _chat(self) -> ChatTemplate:
        otherwise = "evaluate it without one"
        chat = ChatTemplate(
            self.tokenizer, name=self._template_name, arguments=self.chat_template_args, otherwise=otherwise
        )
        if self.lm.encoder.prefix and not chat.begins(self.lm.encoder.prefix):
            logger.warning(
                "The chat template of the %s does not write the token that begins its texts. Prompts have it here, as"
                " with hf; texts of a training with template: chat do not.",
                name_tokenizer(self.tokenizer),
            )
        return chat

    def get_model_info(self) -> dict[str, Any]:
        """What the harness keeps of the model with its results."""
        return {
            "model_num_parameters": sum(count_parameters(model) for model in self.lm.models),
            "model_dtype": str(self.lm.large.dtype),
            "fusion": self.lm.steering.options.dump(),
        }

    # Likelihoods

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Natural log-likelihood of each continuation after its context, and whether greedy decoding would give it."""
        texts = [request.args for request in requests]
        pairs = self.lm.encode_pairs([context for context, _ in texts], [continuation for _, continuation in texts])
        encoded = [(text, list(before), list(after)) for text, (before, after) in zip(texts, pairs, strict=True)]
        return self._loglikelihood_tokens(encoded, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Natural log-likelihood of each continuation, and whether greedy decoding would give it."""
        if self.enable_thinking and any(texts is not None for texts, _, _ in requests):
            raise UserError(
                "enable_thinking is for tasks that generate; leave it out for those that compare likelihoods."
            )
        self._warn(sum(len(before) + len(after) > self.max_length + 1 for _, before, after in requests), len(requests))
        pairs = [self._fit(context, continuation) for _, context, continuation in requests]
        with tqdm(total=len(pairs), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            scores = self.lm.score(
                [context for context, _ in pairs],
                [continuation for _, continuation in pairs],
                batch_size=self.decoding.batch_size,
                on_batch=self._tell(bar),
            )
        for (texts, _, _), score in zip(requests, scores, strict=True):
            if texts is not None:  # parts of rolling likelihoods have no texts of their own
                self.cache_hook.add_partial("loglikelihood", texts, score)
        return scores

    def _fit(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """A pair that the models can read: the context loses its beginning. The last token is predicted, not read."""
        if len(continuation) > self.max_length:
            raise UserError(
                f"A continuation of {len(continuation)} tokens is longer than the {self.max_length} that the models"
                " read; give a greater max_length if they can read more."
            )
        return context[-(self.max_length + 1 - len(continuation)) :], continuation

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Natural log-likelihood of whole texts, long ones in windows that overlap by one token."""
        windows: list[Request] = []
        owners: list[int] = []
        for number, (text,) in enumerate(request.args for request in requests):
            found = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            windows += [(None, *make_disjoint_window(window)) for window in found]
            owners += [number] * (len(windows) - len(owners))
        totals = [0.0] * len(requests)
        for owner, (likelihood, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[owner] += likelihood
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    # Texts

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to a stop string; requests with the same options are decoded together."""
        return [answer.text for answer in self.generate(requests, disable_tqdm)]

    def generate(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """The texts of ``generate_until``, and how each was generated."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
        answers: dict[int, Answer] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for numbers in groups.values():
                asked = requests[numbers[0]].args[1]
                found = self._generate([requests[number].args[0] for number in numbers], asked, bar)
                for number, answer in zip(numbers, found, strict=True):
                    answers[number] = answer
                    self.cache_hook.add_partial("generate_until", requests[number].args, answer.text)
        return [answers[number] for number in range(len(requests))]

    def _generate(self, contexts: list[str], asked: dict[str, Any], bar: tqdm) -> list[Answer]:
        end = None if self.eot_token_id is None else self.tokenizer.decode([self.eot_token_id])
        read = read_generation(asked, self.max_gen_toks, end)
        seed = int(torch.randint(2**31, ())) if self.decoding.seed is None else self.decoding.seed
        options = read_options(DecodingOptions, {**self.decoding.model_dump(), **read.options, "seed": seed})
        room = self.max_length - options.max_new_tokens
        if room < 1:
            raise UserError(
                f"{options.max_new_tokens} tokens can't be generated by models that read {self.max_length}; lower"
                " the task's max_gen_toks."
            )
        encoded = [self.tok_encode(context) for context in contexts]
        self._warn(sum(len(ids) > room for ids in encoded), len(encoded))
        generations = self.lm.generate(
            [ids[-room:] or [self.prefix_token_id] for ids in encoded],
            options,
            on_batch=self._tell(bar),
            stopping_criterion=self._make_criterion(read.until),
        )
        return [Answer(self._text(generation.token_ids, read.until), generation) for generation in generations]

    def _tell(self, bar: tqdm) -> Callable[[int], None]:
        """The harness's progress bar, and whoever else wants to know."""

        def tell(finished: int) -> None:
            bar.update(finished)
            if self.on_batch is not None:
                self.on_batch(finished)

        return tell

    def _make_criterion(self, until: list[str]) -> Callable[[list[int]], bool]:
        """Whether a text is complete, by the rule of ``hf``: a stop string is in the last tokens' text.

        It is looked for in two tokens more than it has by itself, special ones included.
        """
        widths = [(word, len(self.tokenizer.encode(word, add_special_tokens=False)) + 2) for word in until]
        return lambda ids: any(word in self.tokenizer.decode(ids[-width:]) for word, width in widths)

    def _text(self, ids: list[int], until: list[str]) -> str:
        """The answer in a text, by the rule of ``hf``: before the first stop string, after the last thought."""
        mark = self.think_end_token
        if isinstance(mark, int):
            thought = next((place for place in range(len(ids), 0, -1) if ids[place - 1] == mark), 0)
            return postprocess_generated_text(
                self.tokenizer.decode(ids[thought:], skip_special_tokens=True).lstrip(), until, None
            )
        return postprocess_generated_text(self.tokenizer.decode(ids, skip_special_tokens=True), until, mark)

    def _warn(self, cut: int, total: int) -> None:
        if cut:
            logger.warning(
                "%d of %d contexts lose their beginning: the models read %d tokens.", cut, total, self.max_length
            )


def _read_count(name: str, value: int | str) -> int:
    """A number of tokens; a text in the harness's model_args."""
    if isinstance(value, bool) or not str(value).isdigit() or int(value) < 1:
        raise UserError(f"{name} must be a whole number of tokens, at least 1, not {value!r}.")
    return int(value)


def _read_batch_size(value: int | str | None) -> Any:
    """Of the harness's model_args, where it is a text and may be missing."""
    if value is None:
        return DECODING.batch_size
    if re.fullmatch(r"auto(:\d+)?", str(value)):
        return "auto"  # of hf's "auto:N", which looks again N times: halving needs no such looks
    return int(value) if str(value).isdigit() else value
