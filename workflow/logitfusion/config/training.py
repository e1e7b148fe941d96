"""How a causal language model is trained: one recipe for experts, ceilings, healing and students."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from logitfusion.config.section import Count, NonNegative, Positive, PositiveShare, Section, Whole


class LoRA(Section):
    """Low-rank adapters on every linear layer of the decoder (Hu et al. 2021, arXiv 2106.09685)."""

    rank: Count = 64
    """Rank of the update of each matrix."""
    alpha: Positive = 128.0
    """The update is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Dropout before the update, while training."""


class Training(Section):
    """AdamW with a linear warm-up over a tenth of the steps, then cosine to 0."""

    steps: Count = 100
    """Optimiser steps."""
    batch_size: Count = 32
    """Sequences of an optimiser step."""
    micro_batch: Count = 16
    """At most this many sequences in one forward pass; gradients are accumulated up to batch_size."""
    learning_rate: Positive = 2e-4
    """Peak of the learning rate."""
    weight_decay: NonNegative = 0.0
    """AdamW's weight decay."""
    max_tokens: Annotated[int, Field(ge=8)] = 512
    """Longer sequences are cut, from the left (tokens)."""
    checkpoint_minutes: Positive = 5.0
    """Time between checkpoints (minutes)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the products while training; auto is bf16 where the machine has it. Weights stay fp32."""


class Recipe(Training):
    """How one model is trained."""

    seed: Whole | None = None
    """Order of the data and any random initial values; the top-level seed when left out."""


class HealRecipe(Recipe):
    """The recipe's defaults for healing a pruned model."""

    steps: Count = 60
    """Optimiser steps."""
    learning_rate: Positive = 1e-3
    """Peak of the learning rate."""
    max_tokens: Annotated[int, Field(ge=8)] = 128
    """Longer sequences are cut, from the left (tokens)."""
    logit_share: PositiveShare = 0.2
    """Share of the positions where logits are compared, besides the hidden states everywhere."""
