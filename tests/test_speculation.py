"""Speculative decoding: the same greedy tokens, the same distribution of samples, drafts as long as they pay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from test_fusion_lm import PROMPTS, logits_after, make_chain, make_eight, make_gpt2, make_letters, warped
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.fusion.caches import Batch, CachedModel
from logitfusion.fusion.speculation import LONGEST_DRAFT, Pace, _accept
from logitfusion.models.tiny import tiny_tokenizer

TOKENS = 24


# Greedy


@pytest.mark.parametrize("draft_tokens", [None, 0, 1, 2, 7])
@pytest.mark.parametrize(
    "options", [{"weights": 1.0}, {"weights": "dynamic", "selection": "one_hot"}, {"selection": "judged"}]
)
@pytest.mark.parametrize("experts", [["expert_a"], ["expert_a", "expert_b"]])
def test_greedy_tokens_are_those_of_plain_decoding(
    loaded: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    experts: list[str],
    options: dict,
    draft_tokens: int | None,
) -> None:
    """Rows of a batch accept different numbers of tokens and end at different places."""
    steering = [loaded[name] for name in experts]
    fusion = FusedLM(loaded["large"], loaded["base"], steering, tokenizer=tokenizer, **options)
    decoding = {"max_new_tokens": TOKENS, "stop": ["e", "!"], "batch_size": 4}
    plain = fusion.generate(PROMPTS, **decoding)
    found = fusion.generate(PROMPTS, speculative=True, draft_tokens=draft_tokens, **decoding)
    for row, reference in zip(found, plain, strict=True):
        assert (row.token_ids, row.text, row.finish_reason) == (
            reference.token_ids,
            reference.text,
            reference.finish_reason,
        )
        assert row.expert == reference.expert
        assert np.allclose(row.weights, reference.weights, atol=0.11)  # a near tie of the grid may fall the other way


@pytest.mark.parametrize("draft_tokens", [1, 5])
def test_rolled_back_rows_keep_their_positions(draft_tokens: int) -> None:
    """Learned absolute positions notice a wrong one, and batches of unequal prompts have holes at different places."""
    large, base, expert = (make_gpt2(seed) for seed in (1, 2, 3))
    fusion = FusedLM(large, base, [expert], tokenizer=tiny_tokenizer(), weights=0.7)
    plain = fusion.generate(PROMPTS, max_new_tokens=40)
    found = fusion.generate(PROMPTS, max_new_tokens=40, speculative=True, draft_tokens=draft_tokens)
    assert [row.token_ids for row in found] == [row.token_ids for row in plain]


def test_holes_are_closed(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, monkeypatch) -> None:
    """Long drafts that mostly fail must not make the caches grow with what was rejected."""
    widths = []
    close_gaps = Batch.close_gaps

    def noting(self: Batch) -> None:
        close_gaps(self)
        widths.append((self.mask.shape[1], int(self.lengths.max()), self.models[0].cache.get_seq_length()))

    monkeypatch.setattr(Batch, "close_gaps", noting)
    fusion = FusedLM(loaded["large"], loaded["base"], [loaded["expert_a"]], tokenizer=tokenizer)
    fusion.generate(PROMPTS, max_new_tokens=60, speculative=True, draft_tokens=7)
    assert all(cached == width for width, _, cached in widths)
    assert all(3 * width < 4 * needed + 4 for width, needed, _ in widths)
    assert any(width > needed for width, needed, _ in widths)  # and there were holes at all


class Counted(CachedModel):
    """Notes how many tokens each pass reads."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.passes: list[int] = []

    def read(self, ids: torch.Tensor, *arguments: object) -> torch.Tensor:
        self.passes.append(ids.shape[1])
        return super().read(ids, *arguments)


def count_passes(fusion: FusedLM, **options: object) -> list[list[int]]:
    """Tokens of every pass of each model, the prompt's left out."""
    made: list[Counted] = []

    def models() -> list[CachedModel]:
        made[:] = [Counted(model) for model in (fusion.large, fusion.base, *fusion.experts)]
        return list(made)

    fusion.cached_models = models
    fusion.generate(["abc"], **options)
    return [model.passes[1:] for model in made]


def test_a_draft_that_is_always_right_saves_passes_of_the_large_model() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("abcdefghijklmnopqrstuvwxyz")
    chain = make_chain(dict(zip(ids, [*ids[1:], ids[0]], strict=True)))
    fusion = FusedLM(chain, chain, [chain], tokenizer=tokenizer, weights=1.0)
    large, base, expert = count_passes(fusion, max_new_tokens=20, speculative=True, draft_tokens=4)
    assert large == base == [5] * 4
    assert expert == [1] * 20
    assert fusion.generate(["abc"], max_new_tokens=20, speculative=True)[0].text == "defghijklmnopqrstuvw"


def test_a_draft_never_goes_beyond_the_last_token() -> None:
    tokenizer = tiny_tokenizer()
    chain = make_chain({number: number for number in range(259)})
    fusion = FusedLM(chain, chain, [chain], tokenizer=tokenizer, weights=1.0)
    large, _, expert = count_passes(fusion, max_new_tokens=6, speculative=True, draft_tokens=4)
    assert (large, expert) == ([5, 1], [1] * 6)


# Samples


@pytest.mark.parametrize("seed", range(4))
def test_accepted_and_replaced_tokens_have_the_wanted_distribution(seed: int) -> None:
    """Leviathan et al. 2023, theorem 1 of appendix A.1, for drafts of two places."""
    generator = torch.Generator().manual_seed(seed)
    reference, offered = (torch.randn(places, 5, generator=generator).mul(1.5).softmax(-1) for places in (3, 2))
    reference[0, 1] = offered[0, 4] = offered[1, 0] = 0.0
    reference, offered = (part / part.sum(-1, keepdim=True) for part in (reference, offered))
    counts = np.zeros((3, 5))
    for _ in range(6000):
        drafted = torch.multinomial(offered, 1, generator=generator)[:, 0].tolist()
        held, last = _accept(reference, offered, drafted, generator)
        for place, token in enumerate([*drafted[:held], last]):
            counts[place, token] += 1
    for place in range(3):  # what stands at a place does not depend on what was said before, here
        possible = reference[place].numpy() > 0
        expected = counts[place].sum() * reference[place].double().numpy()
        assert counts[place][~possible].sum() == 0
        assert (
            chisquare(counts[place][possible], expected[possible] / expected.sum() * counts[place].sum()).pvalue > 1e-4
        )


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0.8, "top_k": 4}])
@pytest.mark.parametrize("weights", [1.0, "dynamic"])
def test_samples_have_the_fused_distribution(options: dict[str, float], weights: str | float) -> None:
    """Pairs of tokens, against the exact probabilities of plain decoding."""
    tokenizer, draws = make_letters(), 3000
    large, base, expert = (make_eight(seed) for seed in (1, 2, 3))
    fusion = FusedLM(large, base, [expert], tokenizer=tokenizer, weights=weights)
    prompt = "a b d"
    found = fusion.generate(
        [prompt] * draws, max_new_tokens=2, seed=0, batch_size=draws, speculative=True, draft_tokens=1, **options
    )
    counts, reference = np.zeros((8, 8)), np.zeros((8, 8))
    for row in found:
        counts[row.token_ids[0], row.token_ids[-1] if len(row.token_ids) > 1 else 0] += 1
    ids = tokenizer.encode(prompt)
    first = exact(fusion, ids, options)
    for token in range(8):
        if token == large.config.eos_token_id:
            reference[token, 0] = first[token]
        else:
            reference[token] = first[token] * exact(fusion, [*ids, token], options)
    possible = reference * draws > 5  # rarer pairs count together
    rare = counts[~possible].sum(), reference[~possible].sum() * draws
    observed, expected = np.append(counts[possible], rare[0]), np.append(reference[possible] * draws, rare[1])
    observed, expected = observed[expected > 0], expected[expected > 0]
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def exact(fusion: FusedLM, ids: list[int], options: dict[str, float]) -> np.ndarray:
    """Probabilities of the next token, without a cache."""
    large, *small = (logits_after(model, ids)[None] for model in (fusion.large, fusion.base, *fusion.experts))
    fused = fusion.steering.fuse(large, torch.stack(small)).logits
    return warped(fused, **options).softmax(-1)[0].double().numpy()


def test_a_seed_repeats(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    fusion = FusedLM(loaded["large"], loaded["base"], [loaded["expert_a"]], tokenizer=tokenizer)
    options = {"max_new_tokens": 12, "temperature": 1.0, "speculative": True}
    first, again, other = (fusion.generate(PROMPTS, seed=seed, **options) for seed in (1, 1, 2))
    assert [row.token_ids for row in first] == [row.token_ids for row in again]
    assert [row.token_ids for row in first] != [row.token_ids for row in other]


# The draft's length


def test_drafts_grow_with_what_is_accepted_and_stop_when_nothing_is() -> None:
    pace = Pace(verifying=100, drafting=5, device="cuda")
    for _ in range(30):
        pace.learn([LONGEST_DRAFT], LONGEST_DRAFT)
    assert pace.length(1, 100) == LONGEST_DRAFT
    assert pace.length(1, 3) == 3
    for _ in range(60):
        pace.learn([0], 4)
    assert pace.length(1, 100) == 0


def test_after_a_while_without_drafts_they_are_tried_again() -> None:
    pace = Pace(verifying=100, drafting=5, device="cuda")
    for _ in range(60):
        pace.learn([0], 4)
    lengths = []
    for _ in range(300):
        lengths.append(pace.length(1, 100))
        pace.learn([0], lengths[-1])
    assert lengths[0] == 0
    assert 0 < sum(length > 0 for length in lengths) < 150


def test_drafts_must_pay_for_the_dearer_pass_that_verifies_them() -> None:
    """The expert reads every token in any case; on a CPU a pass over two tokens costs more than one over one."""
    assert Pace(verifying=100, drafting=200, device="cuda").length(1, 100) > 0
    assert Pace(verifying=100, drafting=200, device="cpu").length(1, 100) == 0


def test_a_fixed_length_is_kept() -> None:
    pace = Pace(verifying=100, drafting=200, device="cpu", fixed=3)
    pace.learn([0], 3)
    assert (pace.length(1, 10), pace.length(1, 2)) == (3, 2)


# What can't be


def test_speculation_needs_an_expert(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="expert"):
        FusedLM(loaded["large"], tokenizer=tokenizer).generate(["a"], max_new_tokens=2, speculative=True)


def test_caches_that_forget_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    config = MistralConfig(
        vocab_size=259,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=8,
    )
    models = [MistralForCausalLM(config).eval() for _ in range(3)]
    fusion = FusedLM(models[0], models[1], models[2:], tokenizer=tokenizer)
    with pytest.raises(UserError, match="sliding window"):
        fusion.generate(["a"], max_new_tokens=2, speculative=True)


def test_a_negative_draft_is_refused(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    fusion = FusedLM(loaded["large"], loaded["base"], [loaded["expert_a"]], tokenizer=tokenizer)
    with pytest.raises(UserError, match="draft_tokens"):
        fusion.generate(["a"], max_new_tokens=2, speculative=True, draft_tokens=-1)
