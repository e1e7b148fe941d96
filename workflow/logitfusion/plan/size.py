"""The numbers of a model that costs follow from. Arithmetic alone: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from logitfusion.training.memory import FROZEN

# Bytes of a number.
ITEM = {dtype: kept.weights for dtype, kept in FROZEN.items()}


@dataclass(frozen=True)
class CachedLayer:
    """What a layer keeps of the tokens it has read."""

    width: int
    """Numbers of a token: its keys and its values."""
    window: int | None = None
    """The most tokens that are kept (sliding attention); None: all."""


@dataclass(frozen=True)
class ModelSize:
    """A causal language model, counted."""

    parameters: int
    """Distinct ones (tied ones once)."""
    active: int
    """Those that take part in a token's computation: all but the experts of a mixture that its router leaves out."""
    linear: int
    """Those of the decoder's linear layers: what autocast copies, LoRA adapts and 4 bits shrink."""
    embedding: int
    """Those of the embedding and the output matrix."""
    layer: int
    """Those of the largest decoder layer."""
    adapted: int
    """Inputs and outputs of all adapted matrices: LoRA of rank r has r times as many parameters."""
    hidden: int
    """Width of the hidden states."""
    widest: int
    """Width of the widest linear layer within the decoder."""
    heads: int
    """Attention heads."""
    vocabulary: int
    """Entries of the logits."""
    cache: tuple[CachedLayer, ...]
    """A layer each."""
    context: int | None
    """The most tokens that it reads; None: no limit is named."""
    dtype: str
    """Of the checkpoint."""

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return len(self.cache)

    def weights(self, dtype: str = "auto") -> float:
        """Bytes of all weights; under nf4 those of linear layers alone are in 4 bits, the others in bf16."""
        if dtype == "nf4":
            return self.linear * ITEM["nf4"] + (self.parameters - self.linear) * ITEM["bfloat16"]
        return self.parameters * ITEM[self.dtype if dtype == "auto" else dtype]

    def cached(self, rows: int, tokens: int, dtype: str = "auto") -> float:
        """Bytes of the keys and values of ``rows`` texts of ``tokens`` tokens."""
        numbers = sum(layer.width * min(tokens, layer.window or tokens) for layer in self.cache)
        return rows * numbers * ITEM[self.dtype if dtype == "auto" else dtype]

    def adapters(self, rank: int) -> int:
        """Parameters of a LoRA of this rank on every linear layer."""
        return rank * self.adapted
