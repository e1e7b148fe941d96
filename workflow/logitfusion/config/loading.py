"""How models are loaded where they are read: precision and attention, for the config, the command line and Python."""

from __future__ import annotations

from typing import Literal

from logitfusion.config.section import Section

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["auto", "sdpa", "flash_attention_2", "eager"]
# The short names that the cache of a teacher has for them.
PRECISIONS: dict[str, Dtype] = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# Rows with which the search for a batch size begins: more are hardly faster on any card.
LARGEST_BATCH = 256
KEPT_PROMPTS = 4e9  # bytes that a job keeps of prompts, for its other methods


class Loading(Section):
    """How models are loaded that are read and not trained."""

    dtype: Dtype = "auto"
    """Precision of the weights while they are read; auto is each model's own. Logits are fused in float32 always."""
    attention: Attention = "auto"
    """How attention is computed; auto is sdpa where the architecture has it, else eager."""


class Placed(Loading):
    """How models are loaded, and where they are put."""

    device_map: str | None = None
    """auto parts the models among all visible GPUs; a device as cpu or cuda:1 takes all; left out, the first GPU."""
