"""Language models in miniature: random weights in the class, dtype, files and tokenizer of the named ones."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hub_standin import Repository
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from standin import tokenizers
from standin.repository import Files, make_repository, read_folder

_ENDLESS = 1000000000000000019884624838656  # model_max_length of tokenizers that state none
_PARTED = "150KB"  # what a file of weights holds at most, where the real ones are in several


def _template(name: str) -> str:
    """A chat template."""
    return (Path(__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Family:
    """What the models of a family share.

    Attributes:
        kind: ``model_type``.
        tokenizer: makes it.
        said: its ``tokenizer_config.json``.
        shape: of the config.
    """

    kind: str
    tokenizer: Callable[[], Tokenizer]
    said: dict[str, Any]
    shape: dict[str, Any] = field(default_factory=dict)


_SENTENCEPIECE = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "add_bos_token": True,
    "add_eos_token": False,
    "model_max_length": _ENDLESS,
    "clean_up_tokenization_spaces": False,
}
_BYTES = {
    "tokenizer_class": "GPT2Tokenizer",
    "add_prefix_space": False,
    "errors": "replace",
    "clean_up_tokenization_spaces": False,
}
LLAMA = Family(
    "llama",
    tokenizers.llama,
    _SENTENCEPIECE | {"pad_token": None, "legacy": False},
    {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
)
QWEN2 = Family(
    "qwen2",
    tokenizers.qwen,
    _BYTES
    | {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|endoftext|>",
        "unk_token": None,
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "split_special_tokens": False,
        "model_max_length": 131072,
        "chat_template": _template("qwen"),
    },
    {"rope_theta": 1e6, "max_position_embeddings": 131072},
)
QWEN3 = Family("qwen3", QWEN2.tokenizer, QWEN2.said, QWEN2.shape | {"head_dim": 16})
PHI = Family(
    "phi3",
    tokenizers.phi,
    _BYTES
    | {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|dummy_85|>",
        "model_max_length": 16384,
        "chat_template": _template("phi"),
    },
    {"rope_theta": 250000.0, "max_position_embeddings": 16384, "original_max_position_embeddings": 16384}
    | {"sliding_window": None},
)
MISTRAL = Family(
    "mistral",
    tokenizers.mistral,
    _SENTENCEPIECE | {"pad_token": "<pad>", "legacy": True, "chat_template": _template("mistral")},
    {"rope_theta": 1e8, "max_position_embeddings": 32768, "head_dim": 24, "sliding_window": None},
)


@dataclass(frozen=True)
class Tiny:
    """A model.

    Attributes:
        padding: entries of the vocabulary behind the tokenizer's, which differ between sizes of a family.
        heads: of attention, and those of keys and values.
        tied: whether the output layer is the embedding.
        parted: weights are in several files.
        end: the end of a text, if it is not the family's.
        generation: of its ``generation_config.json``, if it has one of its own.
        beside: other files that the real repository has, which nobody should fetch -> their bytes.
    """

    family: Family
    hidden: int
    layers: int
    heads: tuple[int, int] = (4, 2)
    padding: int = 0
    dtype: torch.dtype = torch.bfloat16
    tied: bool = False
    parted: bool = False
    end: str | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, int] = field(default_factory=dict)
    gated: bool = False
    licence: str = "apache-2.0"


def write(model: Tiny, seed: int) -> Files:
    """The files of its repository."""
    family, tokenizer = model.family, model.family.tokenizer()
    said = family.said | ({"eos_token": model.end} if model.end else {})
    named = [name for name in ("bos_token", "eos_token", "pad_token") if said[name]]
    ids = {f"{name}_id": tokenizer.token_to_id(said[name]) for name in named}
    config = AutoConfig.for_model(
        family.kind,
        **ids,
        vocab_size=tokenizer.get_vocab_size() + model.padding,
        hidden_size=model.hidden,
        intermediate_size=2 * model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads[0],
        num_key_value_heads=model.heads[1],
        initializer_range=0.2,  # wide enough for answers of several words
        tie_word_embeddings=model.tied,
        **family.shape,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        made.save_pretrained(scratch, max_shard_size=_PARTED if model.parted else "5GB")
        files = read_folder(Path(scratch))
    files = add_tokenizer(files, tokenizer, said)
    if model.generation:
        files["generation_config.json"] = json.dumps(model.generation | ids).encode()
    return files | {name: bytes(size) for name, size in model.beside.items()} | {"README.md": b"Random weights.\n"}


def add_tokenizer(files: Files, tokenizer: Tokenizer, said: dict[str, Any]) -> Files:
    """A model's files with those of its tokenizer."""
    return files | {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps(said).encode()}


_TWICE = {"pytorch_model-00001-of-00001.bin": 300_000, "pytorch_model.bin.index.json": 2, "original/params.json": 2}
_INSTRUCT = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
_SMALL, _LARGE = 60, 108  # entries behind Qwen2.5's 151,665: 151,936 up to 3B, 152,064 above
_llama2 = partial(Tiny, LLAMA, dtype=torch.float16, parted=True, beside=_TWICE, gated=True, licence="llama2")
MODELS: dict[str, Tiny] = {
    "meta-llama/Llama-2-13b-hf": _llama2(80, 5, (5, 5)),
    "meta-llama/Llama-2-7b-hf": _llama2(64, 4, (4, 4)),
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": Tiny(LLAMA, 32, 3, (4, 1), dtype=torch.float32),
    "Qwen/Qwen2.5-14B": Tiny(QWEN2, 80, 4, padding=_LARGE, parted=True),
    "Qwen/Qwen2.5-7B": Tiny(QWEN2, 64, 4, padding=_LARGE, parted=True),
    "Qwen/Qwen2.5-1.5B": Tiny(QWEN2, 48, 3, padding=_SMALL, tied=True),
    "Qwen/Qwen2.5-0.5B": Tiny(QWEN2, 32, 2, padding=_SMALL, tied=True),
    "Qwen/Qwen2.5-14B-Instruct": Tiny(
        QWEN2, 80, 4, padding=_LARGE, parted=True, end="<|im_end|>", generation=_INSTRUCT
    ),
    "Qwen/Qwen2.5-Coder-14B": Tiny(QWEN2, 80, 3, padding=_LARGE, parted=True),
    "Qwen/Qwen2.5-Coder-14B-Instruct": Tiny(
        QWEN2, 80, 3, padding=_LARGE, parted=True, end="<|im_end|>", generation=_INSTRUCT
    ),
    "Qwen/Qwen3-14B-Base": Tiny(QWEN3, 80, 4, padding=_SMALL, parted=True),
    "Qwen/Qwen3-1.7B-Base": Tiny(QWEN3, 48, 3, padding=_SMALL, tied=True),
    "Qwen/Qwen3-0.6B-Base": Tiny(QWEN3, 32, 2, padding=_SMALL, tied=True),
    "microsoft/phi-4": Tiny(PHI, 64, 3, padding=16, parted=True, licence="mit"),
    "mistralai/Mistral-Small-24B-Instruct-2501": Tiny(
        MISTRAL, 64, 4, parted=True, beside={"tekken.json": 2, "consolidated.safetensors": 400_000}
    ),
}
"""Name on the hub -> the miniature."""


def _make(id: str, seed: int) -> Repository:
    model = MODELS[id]
    return make_repository(id, write(model, seed), gated=model.gated, licence=model.licence)


MAKERS = {("models", id): partial(_make, id, seed) for seed, id in enumerate(MODELS)}
