"""A fusion as a model of lm-evaluation-harness: any of its tasks measures it, by the rules of its ``hf`` model.

Importing this module registers the model ``logitfusion``. With all weights 0, or without experts, its answers are
those of ``hf`` on the large model, with two exceptions: fusions are computed in fp32 whatever the folder says, and what
a model's ``generation_config.json`` adds to decoding (penalties, a top-k) is not applied unless a task asks for it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    resolve_max_length,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from logitfusion.config.decoding import DECODING, Decoding, DecodingOptions
from logitfusion.config.keywords import read_options
from logitfusion.errors import UserError
from logitfusion.fusion.lm import FusedLM
from logitfusion.fusion.options import parse_folders, parse_options
from logitfusion.models.chat import ChatTemplate, TemplateRefusedError

logger = logging.getLogger(__name__)

Request = tuple[tuple[str, str] | None, list[int], list[int]]

# Options of transformers' generate that tasks name at the value that changes nothing.
_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "typical_p": 1.0}


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
        max_length: the most tokens that the models read at a time; longer inputs lose their beginning. By default the
            large model's own limit.
        device: only checked, because a fusion takes the GPU that the job was given, else the CPU.
        max_batch_size: of the harness's own command line; has no meaning here.
        chat_template_args: what the chat template is given besides the messages (``enable_thinking``, say).
        chat_template_name: which one of a tokenizer's several templates.
        options: the fields of ``FusionOptions`` by name; several numbers may be separated by semicolons.

    Raises:
        UserError: options that can't be used, and what ``FusedLM`` refuses.
    """

    def __init__(
        self,
        lm: FusedLM | None = None,
        *,
        large: str | Path | None = None,
        base: str | Path | None = None,
        expert: str | Path | Sequence[str | Path] = (),
        speculative: bool = DECODING.speculative,
        batch_size: int | str = DECODING.batch_size,
        max_length: int | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
        chat_template_args: dict[str, Any] | None = None,
        chat_template_name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if (lm is None) == (large is None):
            raise UserError("A fusion is evaluated from lm or from large with its base and experts, one of the two.")
        if lm is None:
            lm = FusedLM.from_folders(large, base, parse_folders(expert), options=parse_options(options))
        self.lm, self.tokenizer, self._device = lm, lm.tokenizer, lm.device
        if device is not None and torch.device(device).type != lm.device.type:
            raise UserError(f"The fusion is on {lm.device}, not on {device}: CUDA_VISIBLE_DEVICES chooses the GPU.")
        batch_size = int(batch_size) if str(batch_size).isdigit() else batch_size  # a text in the harness's model_args
        self.decoding = read_options(Decoding, {"batch_size": batch_size, "speculative": speculative})
        self.max_length = int(max_length or resolve_max_length(lm.large.config, lm.tokenizer))
        self.max_gen_toks = 256
        self.chat_template_args, self._template_name = chat_template_args or {}, chat_template_name
        self._warned = False

    # What the harness asks about the tokenizer

    @property
    def eot_token_id(self) -> int | None:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int | None:
        """What a text without a context is conditioned on."""
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos

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

    @cached_property
    def _chat(self) -> ChatTemplate:
        otherwise = "evaluate it without one"
        return ChatTemplate(
            self.tokenizer, name=self._template_name, arguments=self.chat_template_args, otherwise=otherwise
        )

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
        pairs = [self._fit(context, continuation) for _, context, continuation in requests]
        with tqdm(total=len(pairs), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            scores = self.lm.score(
                [context for context, _ in pairs],
                [continuation for _, continuation in pairs],
                batch_size=self.decoding.batch_size,
                on_batch=bar.update,
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
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
        texts = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for numbers in groups.values():
                asked = requests[numbers[0]].args[1]
                found = self._generate([requests[number].args[0] for number in numbers], asked, bar)
                for number, text in zip(numbers, found, strict=True):
                    texts[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return texts

    def _generate(self, contexts: list[str], asked: dict[str, Any], bar: tqdm) -> list[str]:
        options = self._decoding_options(asked)
        room = self.max_length - options.max_new_tokens
        if room < 1:
            raise UserError(
                f"{options.max_new_tokens} tokens can't be generated by models that read {self.max_length}; lower"
                " the task's max_gen_toks."
            )
        generations = self.lm.generate(
            [self.tok_encode(context)[-room:] or [self.prefix_token_id] for context in contexts],
            options,
            on_batch=bar.update,
        )
        return [generation.text for generation in generations]

    def _decoding_options(self, asked: dict[str, Any]) -> DecodingOptions:
        """The harness's ``generation_kwargs`` as options of a call."""
        kwargs = dict(normalize_gen_kwargs(asked, self.max_gen_toks))
        sampled, temperature = kwargs.pop("do_sample"), float(kwargs.pop("temperature", 0.0))
        if sampled and temperature == 0:
            raise UserError("A task that asks for do_sample needs a temperature above 0.")
        end = None if self.eot_token_id is None else self.tokenizer.decode([self.eot_token_id])
        stop = [word for word in handle_stop_sequences(kwargs.pop("until"), end) if word]
        named = {"top_p": kwargs.pop("top_p", None), "top_k": kwargs.pop("top_k", None)}
        named = {name: value for name, value in named.items() if value}
        named |= {"max_new_tokens": kwargs.pop("max_gen_toks"), "temperature": temperature, "stop": stop}
        unknown = sorted(key for key, value in kwargs.items() if value is not None and value != _NEUTRAL.get(key))
        if unknown:
            raise UserError(f"The task's generation_kwargs {', '.join(unknown)} can't be used with a fusion.")
        seed = int(torch.randint(2**31, ()))  # of torch's own generator, which the harness has seeded
        return read_options(DecodingOptions, {**self.decoding.model_dump(), **named, "seed": seed})
