"""Prompts that one method put to the models are not read again for the next, and nothing else changes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from test_fusion_lm import PROMPTS
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.fusion import FusedLM
from logitfusion.fusion.caches import CachedModel
from logitfusion.fusion.prompts import PromptMemory

OPTIONS = {"max_new_tokens": 8, "stop": ["e", "!"], "batch_size": 3}
METHODS: dict[str, dict[str, Any]] = {
    "large": {"experts": ()},
    "fixed": {"weights": 0.7},
    "dynamic": {"rule": "grid", "selection": "one_hot"},
    "newton": {"rule": "newton"},
    "familiar": {"weights": 0.7, "familiar": 0.05},
    "alone": {"experts": ("expert_b",)},
}


def make(
    loaded: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    method: str,
    memory: PromptMemory | None = None,
) -> FusedLM:
    options = dict(METHODS[method])
    experts = [loaded[name] for name in options.pop("experts", ("expert_a", "expert_b"))]
    base = loaded["base"] if experts else None
    return FusedLM(loaded["large"], base, experts, tokenizer=tokenizer, memory=memory, **options)


@contextmanager
def count_tokens() -> Iterator[dict[int, int]]:
    """How many tokens each model reads, padding included."""
    counted: dict[int, int] = {}
    read = CachedModel._read

    def spy(self: CachedModel, ids: torch.Tensor, *others: Any) -> torch.Tensor:
        counted[id(self.model)] = counted.get(id(self.model), 0) + ids.numel()
        return read(self, ids, *others)

    with mock.patch.object(CachedModel, "_read", spy):
        yield counted


@pytest.mark.parametrize("speculative", [False, True])
def test_every_method_says_what_it_says_alone(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, speculative: bool
) -> None:
    """In any order, and a second time: tokens and weights to the last bit."""
    memory = PromptMemory()
    for method in [*METHODS, *reversed(METHODS)]:
        drafts = {"speculative": speculative and method != "large"}
        alone = make(loaded, tokenizer, method).generate(PROMPTS, **OPTIONS, **drafts)
        assert make(loaded, tokenizer, method, memory).generate(PROMPTS, **OPTIONS, **drafts) == alone
    assert memory.saved > 0


def test_every_method_scores_as_it_does_alone(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    """To the last bit, with continuations of one context among them, in any order, and a second time."""
    memory = PromptMemory()
    contexts, continuations = [*PROMPTS, *PROMPTS], [*[" yes"] * len(PROMPTS), *[" no way"] * len(PROMPTS)]
    for method in [*METHODS, *reversed(METHODS)]:
        alone = make(loaded, tokenizer, method).score(contexts, continuations, batch_size=4)
        assert make(loaded, tokenizer, method, memory).score(contexts, continuations, batch_size=4) == alone
    assert memory.saved > 0


def test_prompts_are_read_once(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    memory = PromptMemory()
    with count_tokens() as first:
        make(loaded, tokenizer, "fixed", memory).generate(PROMPTS, max_new_tokens=1)
    with count_tokens() as again:
        for method in ("dynamic", "large", "alone"):
            make(loaded, tokenizer, method, memory).generate(PROMPTS, max_new_tokens=1)
    assert len(first) == 4
    assert again == {}


def test_gaps_of_prompts_are_measured_once(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    memory = PromptMemory()
    lm = make(loaded, tokenizer, "familiar", memory)
    gaps = lm.likelihood_gap(PROMPTS, batch_size=3)
    with count_tokens() as again:
        assert lm.likelihood_gap(PROMPTS, batch_size=3) == gaps
    assert again == {}
    assert gaps == make(loaded, tokenizer, "familiar").likelihood_gap(PROMPTS, batch_size=3)


def test_what_does_not_fit_is_read_again(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    memory = PromptMemory(limit=0)
    for _ in range(2):
        with count_tokens() as counted:
            said = make(loaded, tokenizer, "fixed", memory).generate(PROMPTS, **OPTIONS)
        assert len(counted) == 4
        assert said == make(loaded, tokenizer, "fixed").generate(PROMPTS, **OPTIONS)


def test_another_model_in_the_place_of_a_forgotten_one_reads_for_itself(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    """What a model read goes with it: the number that Python gave it may be another's then."""
    import copy

    memory = PromptMemory()
    passing = copy.deepcopy(loaded["large"])
    FusedLM(passing, tokenizer=tokenizer, memory=memory).generate(PROMPTS, **OPTIONS)
    assert memory._bytes > 0
    del passing
    gc.collect()
    assert (memory._kept, memory._bytes) == ({}, 0)


def test_other_prompts_or_other_batches_are_read(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    memory = PromptMemory()
    make(loaded, tokenizer, "fixed", memory).generate(PROMPTS, **OPTIONS)
    for prompts, size in ((PROMPTS, 2), ([prompt + "x" for prompt in PROMPTS], 3)):
        with count_tokens() as counted:
            said = make(loaded, tokenizer, "fixed", memory).generate(prompts, **OPTIONS | {"batch_size": size})
        assert len(counted) == 4
        assert said == make(loaded, tokenizer, "fixed").generate(prompts, **OPTIONS | {"batch_size": size})
