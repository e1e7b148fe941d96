"""A model and its tokenizer out of a GGUF file, its metadata read once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.errors import UserError, first_line
from logitfusion.files import is_used_up
from logitfusion.models.checkpoint import refuse_misfit
from logitfusion.models.finite import find_not_finite


class _PlainReader(gguf.GGUFReader):
    """gguf's reader on a plain view of the mapped file: a `memmap` takes three times as long to slice, once a token."""

    @property
    def data(self) -> np.ndarray:
        return self._plain

    @data.setter
    def data(self, mapped: np.ndarray) -> None:
        self._plain = mapped.view(np.ndarray)


@contextmanager
def _metadata_read_once() -> Iterator[None]:
    """transformers reads the metadata for the config, the weights and the tokenizer: ten seconds each for Gemma."""
    reader = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(_PlainReader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


def read_gguf(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a GGUF file, its weights as float32, and its tokenizer.

    transformers refuses to save a model it read from GGUF, so its tensors move into a fresh one of the same shape.

    Raises:
        UserError: the file can't be read, or its tensors don't fit the architecture or are not finite.
    """
    loading = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        with _metadata_read_once():
            read, report = AutoModelForCausalLM.from_pretrained(
                file.parent, dtype=torch.float32, output_loading_info=True, **loading
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **loading)
    except Exception as error:  # gguf and transformers each have their own types
        if is_used_up(error):
            raise
        raise UserError(
            f"The GGUF file {file.name} can't be read ({first_line(error)}); it is damaged, or of an architecture that"
            " transformers does not read from GGUF."
        ) from error
    refuse_misfit(f"The GGUF file {file.name}", type(read).__name__, report)
    if broken := find_not_finite(read):
        raise UserError(
            f"The weights in the GGUF file {file.name} hold NaN or infinity (such as {broken[0]}); use others."
        )
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(type(read.config)(**settings), dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    return model, tokenizer
