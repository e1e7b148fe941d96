"""FusedLM against transformers and against loops without a cache, without batches and without this project's solver."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from test_fusion_weights import brute_force, is_tied_with_the_best
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM, Generation
from logitfusion.fusion.sampling import filter_logits, pick_tokens
from logitfusion.models.load import load_model
from logitfusion.models.tiny import tiny_tokenizer

PROMPTS = ["Hello world", "a", "2 + 2 =", "The quick brown fox jumps over the lazy dog.", "Grüße"]
TOKENS = 10


@pytest.fixture
def ending_large(tiny_models: dict[str, Path], tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The large model, with an end-of-text token that it does use: one that it emits as a third token."""
    large = load_model(tiny_models["large"], device=torch.device("cpu"))
    plain = FusedLM(large, tokenizer=tokenizer).generate(PROMPTS[:1], max_new_tokens=3)
    large.config.eos_token_id = large.generation_config.eos_token_id = plain[0].token_ids[2]
    return large


def make_fusion(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, *experts: str, **options: object
) -> FusedLM:
    return FusedLM(loaded["large"], loaded["base"], [loaded[name] for name in experts], tokenizer=tokenizer, **options)


def tokens_of(generations: list[Generation]) -> list[list[int]]:
    return [generation.token_ids for generation in generations]


@torch.inference_mode()
def logits_after(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Float32 logits of the next token: the whole prefix is encoded, alone, without a cache."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()


def transformers_greedy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], tokens: int
) -> list[list[int]]:
    """Continuations by transformers' own generate, up to the end-of-text token."""
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    arguments = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    made = model.generate(**arguments, do_sample=False, max_new_tokens=tokens, pad_token_id=tokenizer.pad_token_id)
    rows = made[:, batch["input_ids"].shape[1] :].tolist()
    end = model.generation_config.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


# Greedy decoding


def test_large_alone_is_transformers_generate(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    found = FusedLM(loaded["large"], tokenizer=tokenizer).generate(PROMPTS, max_new_tokens=TOKENS)
    assert tokens_of(found) == transformers_greedy(loaded["large"], tokenizer, PROMPTS, TOKENS)
    assert all(row.weights == [[]] * len(row.token_ids) for row in found)
    assert all(row.expert == [-1] * len(row.token_ids) for row in found)


def test_large_alone_ends_where_transformers_ends(
    ending_large: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    found = FusedLM(ending_large, tokenizer=tokenizer).generate(PROMPTS, max_new_tokens=TOKENS)
    assert tokens_of(found) == transformers_greedy(ending_large, tokenizer, PROMPTS, TOKENS)
    assert found[0].finish_reason == "eos"
    assert any(row.finish_reason == "length" for row in found)


def test_weight_0_is_the_large_model(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    alone = FusedLM(loaded["large"], tokenizer=tokenizer).generate(PROMPTS, max_new_tokens=TOKENS)
    fusion = make_fusion(loaded, tokenizer, "expert_a", "expert_b", weights=0.0)
    found = fusion.generate(PROMPTS, max_new_tokens=TOKENS)
    assert tokens_of(found) == tokens_of(alone)
    assert [row.text for row in found] == [row.text for row in alone]
    assert all(row.expert == [-1] * len(row.token_ids) for row in found)


def test_experts_that_are_the_base_leave_the_large_model(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    alone = FusedLM(loaded["large"], tokenizer=tokenizer).generate(PROMPTS, max_new_tokens=TOKENS)
    found = make_fusion(loaded, tokenizer, "base", "base").generate(PROMPTS, max_new_tokens=TOKENS)
    assert tokens_of(found) == tokens_of(alone)
    assert all(row.weights == [[0.0, 0.0]] * len(row.token_ids) for row in found)


def test_a_large_model_that_is_the_base_speaks_as_the_expert(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    fusion = FusedLM(loaded["base"], loaded["base"], [loaded["expert_a"]], tokenizer=tokenizer)
    found = fusion.generate(PROMPTS, max_new_tokens=TOKENS)
    assert tokens_of(found) == transformers_greedy(loaded["expert_a"], tokenizer, PROMPTS, TOKENS)
    assert all(row.weights == [[1.0]] * len(row.token_ids) for row in found)


def fixed_weight_loop(
    loaded: dict[str, PreTrainedModel], ids: list[int], weights: dict[str, float], tokens: int
) -> list[int]:
    """Greedy continuation of one prompt by fixed weights, up to the end-of-text token: no cache, no batch."""
    made: list[int] = []
    while len(made) < tokens and made[-1:] != [loaded["large"].config.eos_token_id]:
        base = logits_after(loaded["base"], ids + made)
        fused = logits_after(loaded["large"], ids + made)
        for name, weight in weights.items():
            fused = fused + weight * (logits_after(loaded[name], ids + made) - base)
        made.append(int(fused.argmax()))
    return made


def test_weight_1_is_proxy_tuning_without_a_cache(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    found = make_fusion(loaded, tokenizer, "expert_a", weights=1.0).generate(PROMPTS, max_new_tokens=TOKENS)
    for prompt, row in zip(PROMPTS, found, strict=True):
        assert row.token_ids == fixed_weight_loop(loaded, tokenizer.encode(prompt), {"expert_a": 1.0}, TOKENS)
        assert row.weights == [[1.0]] * len(row.token_ids)
        assert row.expert == [0] * len(row.token_ids)


def test_fixed_weights_are_those_of_their_experts(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    fusion = make_fusion(loaded, tokenizer, "expert_a", "expert_b", weights=[0.25, 0.75])
    weights = {"expert_a": 0.25, "expert_b": 0.75}
    for prompt, row in zip(PROMPTS, fusion.generate(PROMPTS, max_new_tokens=TOKENS), strict=True):
        assert row.token_ids == fixed_weight_loop(loaded, tokenizer.encode(prompt), weights, TOKENS)
        assert row.weights == [[0.25, 0.75]] * len(row.token_ids)
        assert row.expert == [1] * len(row.token_ids)


def check_step(logits: list[np.ndarray], row: Generation, step: int, selection: str) -> bool:
    """Whether a step is the float64 search's own; where it is not, it must be a near tie. The token must fit."""
    large, base, experts = logits[0], logits[1], np.stack(logits[2:])
    weight, expert = round(max(row.weights[step]), 4), row.expert[step]
    best_weight, best_expert, lowest = brute_force(large, base, experts, selection)
    same = (weight, expert) == (best_weight, best_expert if best_weight > 0 else -1)
    if not same:  # the cache and the batch round the logits themselves
        assert is_tied_with_the_best(large, base, experts, weight, expert, lowest, selection, resolution=1e-4)
    fused = large + weight * (experts[max(expert, 0)] - base)
    assert fused[row.token_ids[step]] >= fused.max() - 1e-3
    return same


@pytest.mark.parametrize("selection", ["one_hot", "matched"])
@pytest.mark.parametrize("experts", [["expert_a"], ["expert_a", "expert_b"]])
def test_every_dynamic_step_is_the_float64_search(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, experts: list[str], selection: str
) -> None:
    """Teacher-forced along what was generated: near ties differ in fewer than 1 of 20 steps."""
    fusion = make_fusion(loaded, tokenizer, *experts, selection=selection)
    same = []
    for prompt, row in zip(PROMPTS, fusion.generate(PROMPTS, max_new_tokens=TOKENS), strict=True):
        ids = tokenizer.encode(prompt)
        for step in range(len(row.token_ids)):
            prefix = ids + row.token_ids[:step]
            logits = [logits_after(loaded[name], prefix).double().numpy() for name in ("large", "base", *experts)]
            same.append(check_step(logits, row, step, selection))
    assert len(same) > 3 * TOKENS
    assert sum(same) >= 0.95 * len(same)


def test_newton_weights_differ_from_the_grid(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    row = make_fusion(loaded, tokenizer, "expert_a", rule="newton").generate(PROMPTS[:1], max_new_tokens=TOKENS)[0]
    assert any(abs(10 * weight - round(10 * weight)) > 1e-3 for (weight,) in row.weights)
    assert all(0 <= weight <= 2 for (weight,) in row.weights)


def test_bounds_hold_at_every_step(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    fusion = make_fusion(loaded, tokenizer, "expert_a", bounds=(0.2, 0.6), step=0.2)
    for row in fusion.generate(PROMPTS, max_new_tokens=TOKENS):
        assert {round(weight, 4) for (weight,) in row.weights} <= {0.2, 0.4, 0.6}


# Batches


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 7}, {"temperature": 0.8, "top_k": 9, "seed": 1}])
def test_a_batch_is_one_by_one(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, options: dict
) -> None:
    """Whatever the batch size, results are in the order of the prompts and row i draws with seed + i."""
    fusion = make_fusion(loaded, tokenizer, "expert_a", "expert_b")
    seeds = [{"seed": options["seed"] + number} if options else {} for number in range(len(PROMPTS))]
    alone = [
        fusion.generate([prompt], max_new_tokens=TOKENS, **{**options, **seed})[0]
        for prompt, seed in zip(PROMPTS, seeds, strict=True)
    ]
    for batch_size in (1, 2, 3, 16):
        together = fusion.generate(PROMPTS, max_new_tokens=TOKENS, batch_size=batch_size, **options)
        for row, own in zip(together, alone, strict=True):
            assert (row.token_ids, row.text, row.expert) == (own.token_ids, own.text, own.expert)
            assert row.finish_reason == own.finish_reason
            assert np.allclose(row.weights, own.weights)


def make_gpt2(seed: int) -> GPT2LMHeadModel:
    """Learned absolute positions: unlike rotary ones they notice a wrong position of a padded row."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 259, "n_positions": 128, "n_embd": 32, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3, bos_token_id=1, eos_token_id=2)).eval()


def test_padded_rows_have_their_own_positions() -> None:
    large, base, expert = (make_gpt2(seed) for seed in (1, 2, 3))
    alone = FusedLM(large, tokenizer=tiny_tokenizer()).generate(PROMPTS, max_new_tokens=TOKENS)
    assert tokens_of(alone) == transformers_greedy(large, tiny_tokenizer(), PROMPTS, TOKENS)
    fusion = FusedLM(large, base, [expert], tokenizer=tiny_tokenizer(), weights=1.0)
    together = fusion.generate(PROMPTS, max_new_tokens=TOKENS)
    assert together == [fusion.generate([prompt], max_new_tokens=TOKENS)[0] for prompt in PROMPTS]


def test_a_seed_repeats_and_another_differs(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    fusion = make_fusion(loaded, tokenizer, "expert_a")
    options = {"max_new_tokens": TOKENS, "temperature": 1.5}
    first, again, other = (tokens_of(fusion.generate(PROMPTS, seed=seed, **options)) for seed in (0, 0, 1000))
    assert first == again
    assert first != other


def test_equal_prompts_draw_differently(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    found = FusedLM(loaded["large"], tokenizer=tokenizer).generate(
        ["same"] * 4, max_new_tokens=TOKENS, temperature=2.0, seed=0
    )
    assert len({tuple(row.token_ids) for row in found}) == 4


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3}])
def test_the_callers_random_numbers_are_left_alone(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, options: dict
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    FusedLM(loaded["large"], tokenizer=tokenizer).generate(["a"], max_new_tokens=1, **options)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
def test_every_prompt_is_counted(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> None:
    counted: list[int] = []
    FusedLM(loaded["large"], tokenizer=tokenizer).generate(
        PROMPTS, max_new_tokens=1, batch_size=batch_size, on_batch=counted.append
    )
    assert sum(counted) == len(PROMPTS)
    assert max(counted) <= batch_size


def test_no_prompts_no_generations(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    assert FusedLM(loaded["large"], tokenizer=tokenizer).generate([], max_new_tokens=3) == []


@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_rows_have_one_length(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, tokens: int
) -> None:
    for row in make_fusion(loaded, tokenizer, "expert_a", "expert_b").generate(PROMPTS, max_new_tokens=tokens):
        assert len(row.token_ids) == len(row.weights) == len(row.expert) == tokens
        assert all(len(weights) == 2 for weights in row.weights)
        assert row.finish_reason == "length"


# Ends: a model that says one fixed token after each token


def make_chain(successors: dict[int, int], vocabulary: int = 259, end: int = 2) -> LlamaForCausalLM:
    """A Llama whose attention and feed-forward layers say nothing: the next token depends on the last one alone."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=264,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=4,
        eos_token_id=end,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(vocabulary, 264))
        model.lm_head.weight.zero_()
        for token, following in successors.items():
            model.lm_head.weight[following, token] = 1.0
    return model


def make_speller(text: str, *, circle: bool = False, ends: bool = False) -> FusedLM:
    """Says the bytes of ``text`` one after the other, from wherever the prompt stops."""
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(text)
    following = ids[1:] + (ids[:1] if circle else []) + ([tokenizer.eos_token_id] if ends else [])
    return FusedLM(make_chain(dict(zip(ids, following, strict=False))), tokenizer=tokenizer)


ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def test_a_stop_string_of_several_tokens_cuts_each_row_at_its_own_step() -> None:
    found = make_speller(ALPHABET).generate(["a", "xxxh", "f", "hij"], max_new_tokens=30, stop=["klm"])
    assert [row.text for row in found] == ["bcdefghij", "ij", "ghij", ""]
    assert [len(row.token_ids) for row in found] == [12, 5, 7, 3]
    assert all(row.finish_reason == "stop" for row in found)


def test_the_first_of_several_stop_strings_cuts() -> None:
    row = make_speller(ALPHABET).generate(["a"], max_new_tokens=25, stop=["xyz", "fg", "defg", "no"])[0]
    assert (row.text, row.finish_reason) == ("bc", "stop")


def test_a_stop_string_ends_only_what_it_is_in() -> None:
    found = make_speller(ALPHABET).generate(["a", "p"], max_new_tokens=6, stop=["gh"])
    assert [(row.text, row.finish_reason) for row in found] == [("bcdefg", "length"), ("qrstuv", "length")]
    found = make_speller(ALPHABET).generate(["b", "p"], max_new_tokens=6, stop=["gh"])
    assert [(row.text, row.finish_reason) for row in found] == [("cdef", "stop"), ("qrstuv", "length")]


def test_a_stop_string_in_the_prompt_does_not_count() -> None:
    row = make_speller(ALPHABET).generate(["abc"], max_new_tokens=3, stop=["bc", "cd"])[0]
    assert (row.text, row.finish_reason) == ("def", "length")


def test_a_stop_string_with_the_last_token_is_a_stop() -> None:
    row = make_speller(ALPHABET).generate(["a"], max_new_tokens=3, stop=["d"])[0]
    assert (row.text, row.finish_reason) == ("bc", "stop")


@pytest.mark.parametrize("characters", [1, 2, 4, 5, 8])
def test_a_stop_string_of_several_tokens_a_character_ends_the_text(characters: int) -> None:
    """An arrow is three tokens of the byte tokenizer."""
    fusion = make_speller("→", circle=True)
    row = fusion.generate(["→"], max_new_tokens=40, stop=["→" * characters])[0]
    assert (row.text, row.finish_reason) == ("", "stop")
    assert len(row.token_ids) == 3 * characters


def test_the_end_of_text_ends_the_text_and_is_not_in_it() -> None:
    found = make_speller("abcdef", ends=True).generate(["a", "d", "f"], max_new_tokens=9)
    assert [row.text for row in found] == ["bcdef", "ef", ""]
    assert [len(row.token_ids) for row in found] == [6, 3, 1]
    assert all(row.finish_reason == "eos" and row.token_ids[-1] == 2 for row in found)


def test_rows_end_for_their_own_reasons() -> None:
    """One batch: a stop string, the end of text, the length."""
    found = make_speller("abcdefghij", ends=True).generate(["a", "h", "d"], max_new_tokens=5, stop=["cd"])
    assert [(row.text, row.finish_reason) for row in found] == [("b", "stop"), ("ij", "eos"), ("efghi", "length")]


def test_a_model_may_have_several_ends() -> None:
    fusion = make_speller(ALPHABET)
    fusion.large.config.eos_token_id = fusion.tokenizer.encode("di")
    found = fusion.generate(["a", "e"], max_new_tokens=9)
    assert [(row.text, row.finish_reason) for row in found] == [("bc", "eos"), ("fgh", "eos")]


def test_one_token_can_be_all() -> None:
    row = make_speller(ALPHABET).generate(["a"], max_new_tokens=1)[0]
    assert (row.text, row.finish_reason, len(row.token_ids)) == ("b", "length", 1)


def test_rows_that_end_early_do_not_change_the_others(
    ending_large: PreTrainedModel, loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    fusion = FusedLM(ending_large, loaded["base"], [loaded["expert_a"]], tokenizer=tokenizer, weights=0.1)
    together = fusion.generate(PROMPTS, max_new_tokens=TOKENS, stop=["e", "!"])
    alone = [fusion.generate([prompt], max_new_tokens=TOKENS, stop=["e", "!"])[0] for prompt in PROMPTS]
    assert together == alone
    assert all(len(row.token_ids) == len(row.weights) == len(row.expert) for row in together)


# Sampling


def make_letters() -> PreTrainedTokenizerFast:
    """Eight words, no more."""
    words = ["<pad>", "<s>", "</s>", *"abcde"]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", padding_side="left")


def make_eight(seed: int) -> LlamaForCausalLM:
    """A random model of eight tokens."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.3,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize(
    "options", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 5}, {"temperature": 1.3, "top_p": 0.8}]
)
def test_first_tokens_are_drawn_from_the_fused_distribution(options: dict[str, float]) -> None:
    tokenizer, draws = make_letters(), 2000
    large, base, expert = (make_eight(seed) for seed in (1, 2, 3))
    fusion = FusedLM(large, base, [expert], tokenizer=tokenizer, weights=1.0)
    found = fusion.generate(["a b d"] * draws, max_new_tokens=1, seed=0, batch_size=draws, **options)
    counts = np.bincount([row.token_ids[0] for row in found], minlength=8)
    ids = tokenizer.encode("a b d")
    fused = logits_after(large, ids) + logits_after(expert, ids) - logits_after(base, ids)
    expected = warped(fused[None], **options).softmax(-1)[0].double().numpy()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible], draws * expected[possible] / expected.sum()).pvalue > 1e-3
    if options == {"temperature": 1.0}:  # and the test would notice the large model alone
        alone = logits_after(large, ids).softmax(-1).double().numpy()
        assert chisquare(counts, draws * alone / alone.sum()).pvalue < 1e-6


def warped(logits: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """transformers' own logits processors, in the order of its generate."""
    scores = TemperatureLogitsWarper(temperature)(None, logits) if temperature != 1.0 else logits
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    return TopPLogitsWarper(top_p)(None, scores) if top_p < 1.0 else scores


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40)),
    temperature=st.floats(0.1, 3.0),
    top_k=st.integers(0, 45),
    top_p=st.floats(0.01, 1.0),
    coarse=st.booleans(),
)
def test_filters_are_those_of_transformers(
    seed: int, shape: tuple[int, int], temperature: float, top_k: int, top_p: float, coarse: bool
) -> None:
    logits = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    logits = logits.round() if coarse else logits  # with ties
    found = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    expected = warped(logits, temperature, top_k, top_p).log_softmax(-1)
    assert torch.equal(found.isfinite(), expected.isfinite())
    torch.testing.assert_close(found.exp(), expected.exp(), rtol=1e-4, atol=1e-6)


def edges() -> Iterator[tuple[int, float]]:
    """Numbers of equally likely tokens, and a nucleus that holds some of them exactly."""
    return ((tokens, kept / tokens) for tokens in range(2, 17) for kept in range(1, tokens))


def test_ties_at_the_edge_of_the_nucleus_are_those_of_transformers() -> None:
    different = []
    for tokens, top_p in edges():
        logits = torch.zeros(1, tokens)
        found = int(filter_logits(logits, temperature=1.0, top_p=top_p).isfinite().sum())
        expected = int(warped(logits, 1.0, top_p=top_p).isfinite().sum())
        if found != expected:
            different.append((tokens, top_p, found, expected))
    assert not different


def test_masked_tokens_stay_out() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 0.5, -torch.inf]])
    for options in ({}, {"top_k": 3}, {"top_p": 0.99}):
        found = filter_logits(logits, temperature=0.5, **options)
        assert not found.isnan().any()
        assert torch.isneginf(found[0, [1, 3]]).all()


def test_half_precision_is_filtered_in_fp32() -> None:
    assert filter_logits(torch.zeros(2, 5, dtype=torch.bfloat16), temperature=1.0).dtype == torch.float32


def test_temperature_0_is_the_argmax_of_each_row() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert pick_tokens(logits, [], temperature=0.0, top_k=0, top_p=1.0).tolist() == [1, 0]


def test_top_k_of_1_is_greedy(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    fusion = make_fusion(loaded, tokenizer, "expert_a")
    greedy = fusion.generate(PROMPTS, max_new_tokens=TOKENS)
    for options in ({"top_k": 1}, {"top_p": 1e-6}):
        drawn = fusion.generate(PROMPTS, max_new_tokens=TOKENS, temperature=1.7, seed=0, **options)
        assert tokens_of(drawn) == tokens_of(greedy)


# Errors


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"max_new_tokens": -1},
        {"batch_size": 0},
        {"speculative": True},
    ],
)
def test_options_that_mean_nothing_are_refused(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, options: dict
) -> None:
    with pytest.raises(UserError):
        FusedLM(loaded["large"], tokenizer=tokenizer).generate(["a"], **{"max_new_tokens": 1, **options})


def test_an_empty_prompt_is_refused_by_number(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(UserError, match="Prompt 1 "):
        FusedLM(loaded["large"], tokenizer=tokenizer).generate(["a", "", "b"], max_new_tokens=1)


def test_experts_need_a_base(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="base"):
        FusedLM(loaded["large"], None, [loaded["expert_a"]], tokenizer=tokenizer)


@pytest.mark.parametrize("weights", [[1.0], [], [0.5, 0.5, 0.5], "automatic"])
def test_weights_that_do_not_fit_the_experts_are_refused(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, weights: object
) -> None:
    with pytest.raises(UserError, match="weights"):
        make_fusion(loaded, tokenizer, "expert_a", "expert_b", weights=weights)


@pytest.mark.parametrize("odd", ["base", "expert"])
def test_vocabularies_of_different_sizes_are_refused(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, odd: str
) -> None:
    base = make_eight(0) if odd == "base" else loaded["base"]
    expert = make_eight(0) if odd == "expert" else loaded["expert_a"]
    with pytest.raises(UserError, match=r"8, 259"):
        FusedLM(loaded["large"], base, [expert], tokenizer=tokenizer)


# Folders


def test_folders_are_loaded_as_one_fusion(
    tiny_models: dict[str, Path], loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    folders = tiny_models["large"], tiny_models["base"], [tiny_models["expert_a"], tiny_models["expert_b"]]
    found = FusedLM.from_folders(*folders, weights=[1.0, 0.5]).generate(PROMPTS, max_new_tokens=3)
    fusion = make_fusion(loaded, tokenizer, "expert_a", "expert_b", weights=[1.0, 0.5])
    assert tokens_of(found) == tokens_of(fusion.generate(PROMPTS, max_new_tokens=3))


def test_a_folder_alone_is_the_large_model(
    tiny_models: dict[str, Path], loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    found = FusedLM.from_folders(tiny_models["large"]).generate(PROMPTS, max_new_tokens=3)
    alone = FusedLM(loaded["large"], tokenizer=tokenizer).generate(PROMPTS, max_new_tokens=3)
    assert tokens_of(found) == tokens_of(alone)


@pytest.mark.parametrize("kind", [str, Path])
def test_one_folder_is_no_list_of_experts(tiny_models: dict[str, Path], kind: type) -> None:
    with pytest.raises(UserError, match="The experts are a list of folders"):
        FusedLM.from_folders(tiny_models["large"], tiny_models["base"], kind(tiny_models["expert_a"]))


@pytest.fixture
def renumbered(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A model folder whose tokenizer has two tokens swapped, and nothing else changed."""
    folder = tmp_path / "renumbered"
    shutil.copytree(tiny_models["expert_a"], folder)
    file = folder / "tokenizer.json"
    description = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = description["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(description), encoding="utf-8")
    return folder


@pytest.mark.parametrize("place", ["base", "first expert", "last expert"])
def test_models_that_number_their_tokens_differently_are_refused_by_name(
    tiny_models: dict[str, Path], renumbered: Path, place: str
) -> None:
    base = renumbered if place == "base" else tiny_models["base"]
    experts = [tiny_models["expert_a"], tiny_models["expert_b"]]
    if place != "base":
        experts[0 if place == "first expert" else -1] = renumbered
    with pytest.raises(UserError) as caught:
        FusedLM.from_folders(tiny_models["large"], base, experts)
    assert str(tiny_models["large"]) in str(caught.value)
    assert str(renumbered) in str(caught.value)
