"""What prompts begin with alike is read once a batch, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from test_prompt_memory import METHODS, count_tokens, make
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

import logitfusion.fusion.prefixes as prefixes
from logitfusion.fusion import FusedLM
from logitfusion.fusion.prefixes import common_prefix, order_rows, prefix_of
from logitfusion.fusion.prompts import PromptMemory
from logitfusion.models.padding import left_pad

SHOTS = "one and two are three; two and two are four; "
QUESTIONS = ["two and one are", "what is nine and nine?", "a", "seven and one, or one and seven, are"]
PROMPTS = [SHOTS + question for question in QUESTIONS]
ROWS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=24), min_size=1, max_size=6)


def alike(rows: list[list[int]]) -> int:
    """Place by place, of all but each row's last token."""
    places = min(map(len, rows)) - 1
    return next((place for place in range(places) if len({row[place] for row in rows}) > 1), places)


@given(rows=ROWS, begun=st.integers(0, 20))
def test_a_prefix_is_what_all_rows_begin_with(rows: list[list[int]], begun: int) -> None:
    rows = [[7] * begun + row for row in rows]
    found = alike(rows)
    expected = found if len(rows) > 1 and found >= prefixes.LEAST else 0
    assert common_prefix(rows) == expected
    ids, mask, _ = left_pad(rows, 0)
    assert prefix_of(ids, mask) == expected


@given(rows=ROWS, size=st.integers(1, 4))
def test_an_order_has_every_row_and_reads_no_more_than_that_by_length(rows: list[list[int]], size: int) -> None:
    def read(order: list[int]) -> int:
        batches = [[rows[number] for number in order[start : start + size]] for start in range(0, len(order), size)]
        shared = [(common_prefix(batch), batch) for batch in batches]
        return sum(part + len(batch) * (max(map(len, batch)) - part) for part, batch in shared)

    found = order_rows(rows, size, shares=True)
    by_length = order_rows(rows, size, shares=False)
    assert [len(rows[number]) for number in by_length] == sorted(map(len, rows))
    assert sorted(found) == list(range(len(rows)))
    assert read(found) <= read(sorted(range(len(rows)), key=lambda number: len(rows[number])))


def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read every row from its first token."""
    monkeypatch.setattr(prefixes, "LEAST", 10**9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("speculative", [False, True])
def test_texts_are_those_of_rows_that_share_nothing(
    loaded: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    method: str,
    speculative: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"max_new_tokens": 12, "batch_size": 3, "speculative": speculative and method != "large"}
    lm = make(loaded, tokenizer, method)
    together = lm.generate(PROMPTS, **options)
    assert make(loaded, tokenizer, method, PromptMemory()).generate(PROMPTS, **options) == together
    apart(monkeypatch)
    for one, other in zip(together, lm.generate(PROMPTS, **options), strict=True):
        assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
        torch.testing.assert_close(torch.tensor(one.weights), torch.tensor(other.weights), rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_of_rows_that_share_nothing(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = [prompt for prompt in PROMPTS for _ in range(2)]
    continuations = [" four", " nine and more"] * len(PROMPTS)
    lm = make(loaded, tokenizer, method)
    together = lm.score(contexts, continuations)
    apart(monkeypatch)
    for one, other in zip(together, lm.score(contexts, continuations), strict=True):
        assert one[0] == pytest.approx(other[0], abs=3e-3)  # solved weights follow rounding
        assert one[1] == other[1]


def test_adapters_share_as_well(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base and experts are rows of one pass there."""
    import copy

    torch.manual_seed(0)
    base = get_peft_model(copy.deepcopy(loaded["base"]), LoraConfig(r=4, init_lora_weights=False), adapter_name="a")
    base.add_adapter("b", LoraConfig(r=4, init_lora_weights=False))
    lm = FusedLM(loaded["large"], base.eval(), ["a", "b"], tokenizer=tokenizer, weights=0.7)
    together = lm.score(PROMPTS, [" four"] * len(PROMPTS))
    apart(monkeypatch)
    alone = lm.score(PROMPTS, [" four"] * len(PROMPTS))
    assert [one for one, _ in together] == pytest.approx([one for one, _ in alone], abs=1e-4)


def test_shared_tokens_are_read_once_a_batch(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count() -> int:
        with count_tokens() as counted:
            FusedLM(loaded["large"], tokenizer=tokenizer).generate(PROMPTS, max_new_tokens=1)
        return counted[id(loaded["large"])]

    lengths = [len(tokenizer.encode(prompt)) for prompt in PROMPTS]
    prefix = common_prefix([tokenizer.encode(prompt) for prompt in PROMPTS])
    assert prefix >= prefixes.LEAST
    assert count() == prefix + len(PROMPTS) * (max(lengths) - prefix)
    apart(monkeypatch)
    assert count() == len(PROMPTS) * max(lengths)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_context_is_read_once_whatever_the_batch(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, size: int
) -> None:
    """As by ``hf``, whose batches the harness's command line makes of one."""
    contexts = [prompt for prompt in ("one and two", "four") for _ in range(6)]
    lm = FusedLM(loaded["large"], tokenizer=tokenizer)
    with count_tokens() as counted:
        found = lm.score(contexts, [" a", " b", " c", " d", " e", " f"] * 2, batch_size=size)
    pairs = lm.encode_pairs(contexts, [" a", " b", " c", " d", " e", " f"] * 2)
    once = {context: len(context) - 1 for context, _ in pairs}  # the last token is read with each continuation
    assert counted[id(loaded["large"])] == sum(once.values()) + sum(len(continuation) for _, continuation in pairs)
    together = lm.score(contexts, [" a", " b", " c", " d", " e", " f"] * 2, batch_size=12)
    assert [one for one, _ in found] == pytest.approx([one for one, _ in together], abs=1e-4)


def test_a_model_that_counts_slots_reads_every_row(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gap between what is shared and a short row's own tokens would count as tokens there."""
    from logitfusion.fusion.caches import CachedModel

    monkeypatch.setattr(CachedModel, "takes_back", False)
    seen: list[Any] = []
    monkeypatch.setattr(CachedModel, "select_rows", lambda self, rows: seen.append(rows))
    FusedLM(loaded["large"], tokenizer=tokenizer).generate(PROMPTS, max_new_tokens=1)
    assert seen == [] or all(len(rows) < len(PROMPTS) for rows in seen)


@pytest.mark.parametrize("alone_first", [True, False])
def test_a_memory_tells_apart_what_a_prefix_was_read_for(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, alone_first: bool
) -> None:
    """One large model's keys stand in other slots beside models with sliding windows, which share no prefix."""
    base, expert = (make_sliding(loaded["base"].config.vocab_size, seed) for seed in (0, 1))

    def score(fused: bool, memory: PromptMemory | None = None) -> list[tuple[float, bool]]:
        small = (base, [expert]) if fused else (None, [])
        lm = FusedLM(loaded["large"], *small, tokenizer=tokenizer, memory=memory)
        return lm.score(PROMPTS, [" four and nine"] * len(PROMPTS))

    memory = PromptMemory()
    for fused in (not alone_first, alone_first):
        assert score(fused, memory) == score(fused)


def make_sliding(vocabulary: int, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return MistralForCausalLM(
        MistralConfig(vocab_size=vocabulary, num_key_value_heads=1, head_dim=8, sliding_window=8, **sizes)
    ).eval()
