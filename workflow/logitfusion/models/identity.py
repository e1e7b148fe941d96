"""Which model and which tokenizer, and whether its weights are unchanged since they were written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from logitfusion.errors import UserError
from logitfusion.integrity import digest, read_recorded, refuse_gone
from logitfusion.models.checkpoint import find_base
from logitfusion.provenance import hash_json, hash_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZER = ("*token*.json", "vocab.*", "merges.txt", "*.model", "chat_template*", "additional_chat_templates/*")


def hash_model(folder: str | Path) -> str:
    """A hash of a model folder's architecture and weights; of an adapter that a stage wrote, also of its base's.

    Raises:
        UserError: the folder holds no whole model (an adapter of unknown base is none: its base may change).
    """
    if (base := find_base(folder)) is not None:
        return hash_text(f"{hash_model(base)} {_hash(sorted(Path(folder).glob('adapter_*')))}")
    refuse_gone(folder)
    weights = sorted(Path(folder).glob("*.safetensors"))
    config = Path(folder) / "config.json"
    if not config.is_file() or not weights:
        raise UserError(f"The folder {folder} holds no whole model: it needs config.json and weights as safetensors.")
    return _hash([config, *weights])


def hash_recorded(folder: str | Path) -> str | None:
    """A hash of the weights that a folder's record names, none of which is read; None where it names no files."""
    files = read_recorded(folder)
    if files is None:
        return None
    return hash_json({name: file.sha256 for name, file in files.items() if name.endswith(".safetensors")})


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder holds a whole tokenizer; adapters may come with one of their own."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    return any((Path(folder) / name).is_file() for name in names)


def hash_tokenizer(folder: str | Path) -> str:
    """A hash of the files that decide how a text is cut into tokens, chat templates included.

    Raises:
        UserError: the folder holds none.
    """
    found = {path for pattern in _TOKENIZER for path in Path(folder).glob(pattern) if path.is_file()}
    if not found:
        raise UserError(f"The folder {folder} holds no tokenizer.")
    return _hash(sorted(found))


def hash_vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of the tokens and their numbers, whatever else two tokenizers differ in."""
    return hash_json(tokenizer.get_vocab())


def _hash(files: Iterable[Path]) -> str:
    value = hashlib.sha256()
    for file in files:
        value.update(f"{file.name} {digest(file)}\n".encode())
    return value.hexdigest()
