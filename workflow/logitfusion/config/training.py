"""How a causal language model is trained: one recipe for experts, ceilings, healing and students."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from logitfusion.config.loading import Attention
from logitfusion.config.prompting import TextFormat
from logitfusion.config.section import (
    Batch,
    Count,
    Gpus,
    NonNegative,
    Positive,
    PositiveShare,
    Section,
    Seed,
    Tokens,
    number,
)
from logitfusion.errors import UserError

MOST_SEQUENCES = 10**8  # of a training: their order is held in memory


class LoRA(Section):
    """Low-rank adapters on every linear layer of the decoder (Hu et al. 2021, arXiv 2106.09685)."""

    rank: Annotated[int, Field(ge=1, le=65536)] = 64
    """Rank of the update of each matrix."""
    alpha: Positive = 128.0
    """The update is multiplied by alpha / rank."""
    dropout: number(ge=0, le=0.9) = 0.0
    """Dropout before the update, while training."""


class Training(TextFormat):
    """AdamW with a linear warm-up over a tenth of the steps, then cosine to 0."""

    steps: Count | None = 100
    """Optimiser steps; null where epochs are given."""
    epochs: number(gt=0, le=1e6) | None = None
    """Passes over the training text, instead of steps; 0.5 is half of it."""
    batch_size: Batch = 32
    """Sequences of an optimiser step."""
    micro_batch: Batch = 16
    """At most this many sequences in one forward pass; gradients are accumulated up to batch_size.

    Texts of like length are read together, so another number also mixes the texts of a step otherwise."""
    packing: Tokens | None = None
    """Join a step's texts in rows of up to this many tokens, which see nothing of each other; null pads them.

    A step has the same texts, loss and gradient, up to rounding (but in healing, which compares the texts of a row).
    Texts are padded, and a line says so, where a model can't tell them apart in a row."""
    learning_rate: Positive = 2e-4
    """Peak of the learning rate."""
    weight_decay: NonNegative = 0.0
    """AdamW's weight decay."""
    max_tokens: Tokens = 512
    """Longer sequences are cut, from the left (tokens)."""
    checkpoint_minutes: Positive = 5.0
    """Time between checkpoints (minutes)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the products while training; auto is bf16 where the machine has it. Weights that are trained stay fp32."""
    attention: Attention = "auto"
    """How attention is computed while training; auto is sdpa where the architecture has it, else eager."""
    processes: Gpus = 1
    """Processes of the training, a GPU each, which share every batch."""
    sharded: bool = False
    """Part weights, gradients and the optimiser's state among the processes (FSDP2), instead of a copy in each."""
    gradient_checkpointing: bool = False
    """Keep only each layer's input and compute the rest again for the gradient: a third more work, far less memory."""

    @model_validator(mode="before")
    @classmethod
    def _let_epochs_stand_for_steps(cls, value: Any) -> Any:
        given = isinstance(value, dict) and value.get("epochs") is not None
        return {"steps": None} | value if given else value

    @model_validator(mode="after")
    def _check_length_and_processes(self) -> Training:
        if (self.steps is None) == (self.epochs is None):
            raise PydanticCustomError("cross", "needs either steps or epochs; leave one of them out", {"key": "epochs"})
        if self.batch_size % self.processes:
            facts = {"key": "processes", "processes": self.processes, "batch": self.batch_size}
            words = "is {processes}, which doesn't divide batch_size ({batch}); make that a multiple"
            raise PydanticCustomError("cross", words, facts)
        if self.sharded and self.processes == 1:
            raise PydanticCustomError(
                "cross", "needs several processes to part a model among; raise processes", {"key": "sharded"}
            )
        if self.steps is not None and self.steps * self.batch_size > MOST_SEQUENCES:
            facts = {"key": "steps", "steps": self.steps, "batch": self.batch_size, "most": MOST_SEQUENCES}
            words = (
                "is {steps}, with batches of {batch} more than {most} sequences, whose order can't be held in memory"
            )
            raise PydanticCustomError("cross", words, facts)
        return self

    @property
    def length(self) -> str:
        """Of the training, in words."""
        return f"{self.steps} steps" if self.epochs is None else f"{self.epochs:g} epochs"

    def for_texts(self, rows: int) -> Self:
        """The same with the steps that its epochs stand for on this many texts.

        Raises:
            UserError: they are too many.
        """
        steps = self.count_steps(rows)
        if steps * self.batch_size > MOST_SEQUENCES:
            raise UserError(f"{self.length} of {rows} texts make more than {MOST_SEQUENCES} sequences; lower epochs.")
        return self.model_copy(update={"steps": steps, "epochs": None})

    def count_steps(self, rows: int) -> int:
        """Optimiser steps of a training on this many texts; a last batch of the epochs is filled up."""
        if self.epochs is None:
            return self.steps
        return math.ceil(Fraction(str(self.epochs)) * rows / self.batch_size)  # as written: 1.1 * 100 is over 110


# What decides where and how a training computes and who is told of it, but not what comes out: one that resumes may
# change them.
PLACEMENT = frozenset({"processes", "sharded", "gradient_checkpointing", "report_to"})


class Adaptation(Section):
    """Which weights of a model are trained."""

    method: Literal["full", "lora"] = "full"
    """All weights, or low-rank adapters beside frozen ones."""
    lora: LoRA = LoRA()
    """Of method: lora."""
    quantisation: Literal["none", "nf4"] = "none"
    """Frozen weights in 4 bits while adapters are trained (QLoRA, arXiv 2305.14314); needs bitsandbytes and CUDA."""

    @model_validator(mode="after")
    def _check_quantisation(self) -> Adaptation:
        if self.quantisation != "none" and self.method != "lora":
            raise PydanticCustomError(
                "cross", "is {kind}, which only adapters train on; set method: lora",
                {"key": "quantisation", "kind": self.quantisation},
            )  # fmt: skip
        if self.quantisation != "none" and getattr(self, "sharded", False):
            raise PydanticCustomError(
                "cross", "can't be parted, because weights in 4 bits are whole in every process; leave one of them out",
                {"key": "sharded"},
            )  # fmt: skip
        return self


class Recipe(Training):
    """How one model is trained."""

    seed: Seed | None = None
    """Order of the data and any random initial values; the top-level seed when left out."""


class HealRecipe(Recipe):
    """The recipe's defaults for healing a pruned model."""

    steps: Count | None = 60
    """Optimiser steps; null where epochs are given."""
    learning_rate: Positive = 1e-3
    """Peak of the learning rate."""
    max_tokens: Tokens = 128
    """Longer sequences are cut, from the left (tokens)."""
    logit_share: PositiveShare = 0.2
    """Share of the positions where logits are compared, besides the hidden states everywhere."""
