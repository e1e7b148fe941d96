"""How a model is trained: the recipe of experts, healing and students, and the adapters that may be trained alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from logitfusion.config.section import Count, NonNegative, Positive, PositiveShare, Section, Whole


class Recipe(Section):
    """A training of optimiser steps by AdamW; weights and optimiser stay in fp32."""

    steps: Count = 100
    """Optimiser steps."""
    batch_size: Count = 32
    """Sequences of an optimiser step."""
    micro_batch: Count = 16
    """At most this many sequences in one forward pass; gradients are accumulated up to ``batch_size``."""
    learning_rate: Positive = 2e-4
    """Peak of the rate: linear warm-up over a tenth of the steps, then cosine to 0."""
    weight_decay: NonNegative = 0.0
    """AdamW's."""
    max_tokens: Annotated[int, Field(ge=8)] = 512
    """Longer sequences are cut."""
    checkpoint_minutes: Positive = 5
    """Minutes between checkpoints."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the products while training; auto is bf16 where it is faster."""
    seed: Whole | None = None
    """Of the order of the data and of random initial values. The top-level seed when left out."""


class HealRecipe(Recipe):
    """How a pruned model is healed: the whole model is distilled into it."""

    steps: Count = 60
    """Optimiser steps."""
    learning_rate: Positive = 1e-3
    """Peak of the rate: linear warm-up over a tenth of the steps, then cosine to 0."""
    max_tokens: Annotated[int, Field(ge=8)] = 128
    """Longer sequences are cut."""
    logit_share: PositiveShare = 0.2
    """Share of the positions where logits are compared, besides the hidden states everywhere."""


class LoRA(Section):
    """Low-rank adapters on every linear layer of the decoder (Hu et al. 2021, arXiv 2106.09685)."""

    rank: Count = 64
    """Rank of an adapter's product."""
    alpha: Positive = 128.0
    """The product is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Probability that an adapter's input is dropped while training."""
