"""Prompts that the small base reads badly are left to the large model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_fusion_lm import PROMPTS
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import logitfusion.fusion.decoding as decoding
from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.models.load import load_model

CPU = torch.device("cpu")


def make(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, **options: object) -> FusedLM:
    experts = [loaded["expert_a"], loaded["expert_b"]]
    return FusedLM(loaded["large"], loaded["base"], experts, tokenizer=tokenizer, weights=[0.6, 0.4], **options)


@torch.inference_mode()
def read_alone(large: PreTrainedModel, expert: PreTrainedModel, ids: list[int]) -> float:
    """``KL(large || expert)`` in the mean over a prompt's tokens but the last, from a pass of each without a cache."""
    if len(ids) == 1:
        return 0.0
    one, other = (
        model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].double().log_softmax(-1)
        for model in (large, expert)
    )
    return float((one.exp() * (one - other)).sum(-1).mean())


@pytest.mark.parametrize("columns", [1, 3, 1000])
def test_the_gap_is_the_divergence_of_the_nearest_expert(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, columns: int, monkeypatch
) -> None:
    """A few columns at a time or all, in batches of unequal prompts."""
    monkeypatch.setattr(decoding, "columns_at_once", lambda rows, vocabulary: columns)
    found = make(loaded, tokenizer).likelihood_gap(PROMPTS, batch_size=3)
    for prompt, value in zip(PROMPTS, found, strict=True):
        ids = tokenizer.encode(prompt)
        gaps = [read_alone(loaded["large"], loaded[name], ids) for name in ("expert_a", "expert_b")]
        assert value == pytest.approx(min(gaps), abs=1e-4)


@pytest.mark.parametrize("speculative", [False, True])
def test_strange_prompts_are_the_large_models_and_familiar_ones_the_fusions(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, speculative: bool
) -> None:
    """In one batch, whose rows end at different places."""
    values = make(loaded, tokenizer).likelihood_gap(PROMPTS)
    limit = sorted(values)[2]
    options = {"max_new_tokens": 12, "stop": ["e", "!"]}
    alone = FusedLM(loaded["large"], tokenizer=tokenizer).generate(PROMPTS, **options)
    fused = make(loaded, tokenizer).generate(PROMPTS, **options)
    found = make(loaded, tokenizer, familiar=limit + 1e-6).generate(PROMPTS, speculative=speculative, **options)
    for value, row, untouched, steered in zip(values, found, alone, fused, strict=True):
        assert row.token_ids == (steered if value <= limit else untouched).token_ids
        assert all((max(weights) > 0) == (value <= limit) for weights in row.weights)
        assert all((expert >= 0) == (value <= limit) for expert in row.expert)


def test_scores_follow_the_same_rule(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    values = make(loaded, tokenizer).likelihood_gap(PROMPTS)
    limit = sorted(values)[2]
    contexts = [tokenizer.encode(prompt) for prompt in PROMPTS for _ in range(2)]
    continuations = [[5, 6], [7]] * len(PROMPTS)
    alone = FusedLM(loaded["large"], tokenizer=tokenizer).score(contexts, continuations)
    fused = make(loaded, tokenizer).score(contexts, continuations)
    found = make(loaded, tokenizer, familiar=limit + 1e-6).score(contexts, continuations, batch_size=3)
    for number, (score, _) in enumerate(found):
        expected = (fused if values[number // 2] <= limit else alone)[number][0]
        assert score == pytest.approx(expected, abs=1e-4)


def test_shared_adapters_read_prompts_as_well(
    tiny_models: dict[str, Path], loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    base = load_model(tiny_models["base"], device=CPU)
    model = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"), "one").eval()
    fusion = FusedLM(loaded["large"], model, ["one"], tokenizer=tokenizer)
    # Adapters begin as nothing.
    itself = FusedLM(loaded["large"], loaded["base"], [loaded["base"]], tokenizer=tokenizer)
    assert fusion.likelihood_gap(PROMPTS) == pytest.approx(itself.likelihood_gap(PROMPTS), abs=1e-4)


def test_a_model_alone_finds_nothing_strange(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(UserError, match="base"):
        FusedLM(loaded["large"], tokenizer=tokenizer).likelihood_gap(PROMPTS)
