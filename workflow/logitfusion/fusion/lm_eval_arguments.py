"""Which arguments of lm-evaluation-harness's own ``hf`` model a fusion takes, and why it can't take the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from logitfusion.config.errors import shorten, suggest
from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.keywords import read_options
from logitfusion.config.loading import PRECISIONS, Placed
from logitfusion.config.tasks import LENGTHS
from logitfusion.errors import UserError
from logitfusion.formats.json import parse_json

_FP32 = "logits are compared and fused in fp32"
_DEVICE = "device_map=auto parts the models among all GPUs that CUDA_VISIBLE_DEVICES shows"
_FOLDERS = "models are folders on this machine: large, base and expert name them"
_QUANTIZED = "models are read from safetensors; the workflow's model stage converts GGUF files"
_ENCODING = "the tokenizer is the large model's, and adds to a text what it adds by itself"

# Arguments of ``hf`` by name: the values that ask for what a fusion does anyway, and why there is no other.
_MODEL_ARGUMENTS: dict[str, tuple[tuple[Any, ...], str]] = {
    "pretrained": ((), _FOLDERS),
    "backend": (("default", "causal"), "fusions are of causal language models"),
    "revision": (("main",), _FOLDERS),
    "subfolder": (("",), _FOLDERS),
    "tokenizer": ((), _ENCODING),
    "use_fast_tokenizer": ((True,), _ENCODING),
    "add_bos_token": ((), _ENCODING),
    "prefix_token_id": ((), _ENCODING),
    "truncation": ((False,), "contexts that are too long always lose their beginning"),
    "logits_cache": ((True, False), "equal contexts are always read once"),
    "softmax_dtype": (("float32", "fp32"), _FP32),
    "mixed_precision_dtype": ((), _FP32),
    "trust_remote_code": ((False,), "code of model folders is not run"),
    "parallelize": ((False,), _DEVICE),
    "max_memory_per_gpu": ((), _DEVICE),
    "max_cpu_memory": ((), _DEVICE),
    "offload_folder": ((), _DEVICE),
    "tp_plan": ((), _DEVICE),
    "peft": ((), "name the adapter's folder as expert, and what it was trained from as base"),
    "delta": ((), "add the weights and name the folder of the sum"),
    "autogptq": ((False,), _QUANTIZED),
    "gptqmodel": ((False,), _QUANTIZED),
    "gguf_file": ((), _QUANTIZED),
    "load_in_4bit": ((False,), _QUANTIZED),
    "load_in_8bit": ((False,), _QUANTIZED),
}

# Options of transformers' generate, and of other servers that tasks are written for, at the values that change nothing.
_NEUTRAL = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "num_beam_groups": 1,
    "early_stopping": False,
    "length_penalty": 1.0,
    "diversity_penalty": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "min_p": 0.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "guidance_scale": 1.0,
}
_READ = {"until", "do_sample", "temperature", "top_p", "top_k", *LENGTHS}
_TOP_K = 50  # what transformers' generate samples among where nobody says


def read_loading(dtype: str, device_map: str | int | None, attention: str | None) -> Placed:
    """How the models are loaded, in the harness's words; ``fp32`` and ``torch.bfloat16`` are known there too.

    Raises:
        UserError: names what can't be used.
    """
    short = str(dtype).removeprefix("torch.")
    place = None if device_map is None else f"cuda:{device_map}" if str(device_map).isdigit() else str(device_map)
    given = {"dtype": PRECISIONS.get(short, short), "device_map": place, "attention": attention or "auto"}
    return read_options(Placed, given, lambda name: "attn_implementation" if name == "attention" else name)


def read_fusion_arguments(given: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The options of the fusion among the harness's ``model_args`` that nothing else has read.

    Args:
        known: the names that were read.

    Raises:
        UserError: an argument that is unknown, or of ``hf`` and not one of a fusion.
    """
    for name, value in given.items():
        if name in _MODEL_ARGUMENTS:
            neutral, reason = _MODEL_ARGUMENTS[name]
            if value is not None and value not in neutral:
                raise UserError(f"lm-eval's {name}={value} can't be used with a fusion: {reason}.")
        elif name not in FusionOptions.model_fields:
            names = [*known, *FusionOptions.model_fields]
            raise UserError(f"There is no option {name}: {suggest(name, names, 'known are')}")
    return {name: value for name, value in given.items() if name in FusionOptions.model_fields}


def read_template_arguments(
    given: Mapping[str, Any] | str | None, enable_thinking: bool | None, option: str = "chat_template_args"
) -> dict[str, Any]:
    """What a chat template is rendered with, besides the messages.

    Args:
        given: by name, or as JSON.
        enable_thinking: an argument of its own, as of ``hf``.
        option: what ``given`` is called in messages.

    Raises:
        UserError: a text that is no JSON object.
    """
    found = parse_json(given, option, line=True) if isinstance(given, str) else given or {}
    if not isinstance(found, Mapping):
        raise UserError(f"{option} must be a JSON object, not {given!r}.")
    return dict(found) if enable_thinking is None else {**found, "enable_thinking": enable_thinking}


def check_generation(asked: Mapping[str, Any]) -> None:
    """Refuse ``generation_kwargs`` that mean something else than what a fusion does.

    Raises:
        UserError: names them.
    """
    if asked.get("max_length") is not None:
        raise UserError("The generation_kwargs max_length counts the prompt too; give max_gen_toks instead.")
    wrong = sorted(
        name
        for name, value in asked.items()
        if name not in _READ and value is not None and value != _NEUTRAL.get(name) and name != "max_length"
    )
    if wrong:
        raise UserError(f"The generation_kwargs {', '.join(wrong)} can't be used with a fusion.")


@dataclass(frozen=True)
class Asked:
    """What a request's ``generation_kwargs`` ask for.

    Attributes:
        options: fields of ``DecodingOptions``.
        until: the stop strings.
    """

    options: dict[str, Any]
    until: list[str]


def read_generation(asked: Mapping[str, Any], tokens: int, end: str | None) -> Asked:
    """What ``generation_kwargs`` ask for, by the rules of ``hf``.

    Sampling is among 50 tokens if ``top_k`` says nothing else, as in transformers' ``generate``.

    Args:
        tokens: the most that are generated where nothing is said.
        end: how the tokenizer writes the end of a text; a stop string like the others.

    Raises:
        UserError: values that mean nothing, and what ``check_generation`` refuses.
    """
    check_generation(asked)
    try:
        kwargs = normalize_gen_kwargs({name: value for name, value in asked.items() if value is not None}, tokens)
    except (TypeError, ValueError, OverflowError) as error:
        words = shorten(dict(asked))
        raise UserError(f"The task's generation_kwargs {words} have no number where one is needed.") from error
    for name in LENGTHS:
        if isinstance(asked.get(name), bool) or (isinstance(asked.get(name), float) and not asked[name].is_integer()):
            raise UserError(f"The task's {name} must be a whole number, not {asked[name]!r}.")
    sampled, temperature = kwargs["do_sample"], float(kwargs.get("temperature", 0.0))
    if not isinstance(sampled, (bool, int)):
        raise UserError(f"The task's do_sample must be true or false, not {shorten(sampled)}.")
    if not 0 <= temperature < math.inf or (sampled and temperature == 0):
        raise UserError(f"A task that asks for do_sample needs a temperature above 0, not {temperature:g}.")
    options: dict[str, Any] = {"max_new_tokens": kwargs["max_gen_toks"], "temperature": temperature if sampled else 0.0}
    if sampled:
        options |= {"top_k": _TOP_K} | {name: kwargs[name] for name in ("top_p", "top_k") if name in kwargs}
    until = [word for word in kwargs["until"] if word is not None]
    if not all(isinstance(word, str) for word in until):
        raise UserError(f"The task's until must be a text or a list of texts, not {shorten(kwargs['until'])}.")
    return Asked(options, [word for word in handle_stop_sequences(until, end) if word])
