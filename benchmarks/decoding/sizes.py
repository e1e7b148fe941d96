"""Models of the papers' sizes with random weights: times and bytes mean something, texts don't."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, PreTrainedConfig, PreTrainedModel, Qwen2Config

RANK = 16  # of adapters, on every linear layer


@dataclass(frozen=True)
class Shape:
    """The architecture of a model, and its numbers."""

    family: type[PreTrainedConfig]
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool = False

    def shrunk(self, vocabulary: int) -> Shape:
        """The same structure, small enough for a test: shares of heads stay, and vocabularies that differ."""
        grouped = self.key_value_heads < self.heads
        vocabulary = 320 + self.vocabulary - vocabulary
        small = {"hidden": 32, "feed_forward": 64, "layers": 2, "heads": 4, "key_value_heads": 2 if grouped else 4}
        return replace(self, vocabulary=vocabulary, **small)

    def config(self) -> PreTrainedConfig:
        """For transformers."""
        return self.family(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            tie_word_embeddings=self.tied,
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
        )

    def cached(self) -> int:
        """Numbers that its layers keep of a token: keys and values."""
        return 2 * self.layers * self.key_value_heads * self.hidden // self.heads


LLAMA_13B = Shape(LlamaConfig, 5120, 13824, 40, 40, 40, 32_000)
LLAMA_7B = Shape(LlamaConfig, 4096, 11008, 32, 32, 32, 32_000)
TINY_LLAMA = Shape(LlamaConfig, 2048, 5632, 22, 32, 4, 32_000)
QWEN_14B = Shape(Qwen2Config, 5120, 13824, 48, 40, 8, 152_064)
QWEN_05B = Shape(Qwen2Config, 896, 4864, 24, 14, 2, 151_936, tied=True)
PHI_4 = Shape(Phi3Config, 5120, 17920, 40, 40, 10, 100_352)


@dataclass(frozen=True)
class Setting:
    """A large model, a base, and experts of the base's shape: whole models, or LoRA adapters of the base."""

    large: Shape
    base: Shape
    experts: int = 1
    adapters: bool = False

    def shrunk(self) -> Setting:
        """The same structure, small enough for a test."""
        smaller = min(self.large.vocabulary, self.base.vocabulary)
        return replace(self, large=self.large.shrunk(smaller), base=self.base.shrunk(smaller))


SETTINGS = {
    "llama-13b": Setting(LLAMA_13B, TINY_LLAMA),
    "llama-13b-7b": Setting(LLAMA_13B, LLAMA_7B),
    "llama-13b-4x7b": Setting(LLAMA_13B, LLAMA_7B, experts=4),
    "llama-13b-4-adapters": Setting(LLAMA_13B, LLAMA_7B, experts=4, adapters=True),
    "qwen-14b-0.5b": Setting(QWEN_14B, QWEN_05B),
}
TEACHERS = {"phi-4": PHI_4}


def make_model(shape: Shape, device: torch.device, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """A model with random weights, drawn on the device: no copy passes through the host."""
    torch.manual_seed(seed)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(shape.config(), dtype=dtype).eval()


def put_adapters(base: PreTrainedModel, count: int, seed: int) -> tuple[PreTrainedModel, list[str]]:
    """The base with random adapters on its linear layers (a peft model), and their names."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    options: dict[str, Any] = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": "all-linear"}
    settings = LoraConfig(**options, init_lora_weights=False, task_type="CAUSAL_LM")
    names = [f"expert_{number}" for number in range(count)]
    model = get_peft_model(base, settings, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, settings)
    return model.eval(), names
