"""Which files of a repository make a model: weights as safetensors, config, tokenizer, chat template; nothing else."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path

from logitfusion.errors import UserError
from logitfusion.files import read_json

CONFIG, ADAPTER = "config.json", "adapter_config.json"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Beside weights and config, where they are there.
BESIDE = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece*.model",
    "*.tiktoken",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".npz")

# The names of all files, and what opens one of them -> the names of those that are needed.
Choice = Callable[[Sequence[str], Callable[[str], Path]], list[str]]


def choose_model_files(names: Sequence[str], open_file: Callable[[str], Path]) -> list[str]:
    """The files of a causal language model, in the order of names.

    Args:
        names: all files, relative to the repository or folder.
        open_file: gives the path of one of them, to look into: a small one, which may be downloaded for it.

    Raises:
        UserError: an adapter, weights that are no safetensors, or not all of them.
    """
    weights = _weights(names, open_file)
    if ADAPTER in names and weights:
        raise UserError(
            f"holds a whole model and an adapter ({ADAPTER}), and it can't be told which is meant; name a model alone"
        )
    if ADAPTER in names:
        base = read_json(open_file(ADAPTER)).get("base_model_name_or_path")
        raise UserError(f"is an adapter, not a model; name the model that it belongs to{f' ({base})' if base else ''}")
    if CONFIG not in names:
        raise UserError(f"has no {CONFIG}, so it is no model that transformers can load; correct the id")
    if not weights:
        others = sorted(name for name in names if name.endswith((*OTHER_WEIGHTS, ".safetensors")))
        raise UserError(
            f"has its weights in {others[0]}, and only {WHOLE} or the files of {INDEX} are read: choose a revision"
            " or a model with these, or load it where you trust it, save it with save_pretrained and use source: path"
            if others
            else "has no weights; correct the id or the revision"
        )
    absent = sorted(set(weights) - set(names))
    if absent:
        raise UserError(
            f"is not whole: its index names {absent[0]}, which is not there; choose another revision, or download"
            " it again where there is a network"
        )
    beside = [name for name in names if matches(name, BESIDE)]
    return sorted({CONFIG, *weights, *beside, *([INDEX] if WHOLE not in names else [])})


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a file's name is of one of some forms."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _weights(names: Sequence[str], open_file: Callable[[str], Path]) -> list[str]:
    """The files of weights, the ones that transformers prefers."""
    if WHOLE in names:
        return [WHOLE]
    if INDEX not in names:
        return []
    shards = read_json(open_file(INDEX)).get("weight_map", {})
    return sorted(set(shards.values()))
