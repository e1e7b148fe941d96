"""Long texts: what their length changes, and where the models' contexts end.

Oracles: transformers' ``generate`` of a fresh model on the row alone, and a plain forward of the row alone.
"""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.models.architecture import context_length, reset_rope, rope_limit
from logitfusion.models.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ORIGINAL = 16
SHORT, MIDDLE, LONG = "abc", "a cat sat. ", "the quick brown fox jumps over it"
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
DYNAMIC = {
    "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    "max_position_embeddings": ORIGINAL,
}
LONGROPE = {
    "rope_parameters": {
        "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 1e4,
        "original_max_position_embeddings": ORIGINAL, "factor": 8.0,
    },
    "max_position_embeddings": 8 * ORIGINAL, "original_max_position_embeddings": ORIGINAL,
}  # fmt: skip
KINDS = {
    "dynamic": ("llama", DYNAMIC),
    "longrope, read again": ("phi3", LONGROPE),
    "longrope, not read again": ("llama", LONGROPE),
    "plain": ("llama", {"max_position_embeddings": 128}),
}


def build(kind: str, seed: int = 0, **others: object) -> PreTrainedModel:
    family, settings = KINDS[kind]
    config = AutoConfig.for_model(family, vocab_size=len(TOKENIZER), **(SIZES | settings | others))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def positions(length: int, seed: int = 0) -> PreTrainedModel:
    """A GPT-2, whose table of positions ends."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "gpt2", vocab_size=len(TOKENIZER), n_embd=32, n_layer=2, n_head=4, n_positions=length, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@torch.no_grad()
def generate_alone(model: PreTrainedModel, prompt: str, tokens: int) -> list[int]:
    ids = torch.tensor([TOKENIZER.encode(prompt)])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return found[0, ids.shape[1] :].tolist()


@torch.no_grad()
def score_alone(models: list[PreTrainedModel], lm: FusedLM, context: str, continuation: str) -> float:
    before, after = lm.encode_pair(context, continuation)
    ids = torch.tensor([(*before, *after)[:-1]])
    large, *small = (model(ids, use_cache=False).logits[0] for model in models)
    logits = large + small[1] - small[0] if small else large
    log_probs = logits.log_softmax(-1)[len(before) - 1 :]
    return log_probs.gather(1, torch.tensor(after)[:, None]).sum().item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompts", [(SHORT, LONG, MIDDLE), (LONG, SHORT), (MIDDLE, MIDDLE + "b", SHORT)])
def test_a_text_is_continued_as_if_it_were_alone(kind: str, prompts: tuple[str, ...]) -> None:
    found = FusedLM(build(kind), tokenizer=TOKENIZER).generate(prompts, max_new_tokens=12)
    assert [one.token_ids for one in found] == [generate_alone(build(kind), prompt, 12) for prompt in prompts]


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_does_not_depend_on_its_neighbours(kind: str) -> None:
    pairs = [(SHORT, "de"), (LONG, " x"), (SHORT, LONG), (MIDDLE, "no"), (LONG, "yes")]
    models = [build(kind, seed) for seed in range(3)]
    lm = FusedLM(models[0], models[1], models[2:], tokenizer=TOKENIZER, weights=1.0)
    found = lm.score(*zip(*pairs, strict=True))
    assert lm.score([lm.encode(LONG)], [[]]) == [(0.0, True)]  # as of a short context
    for pair, (score, _) in zip(pairs, found, strict=True):
        fresh = [build(kind, seed) for seed in range(3)]
        assert score == pytest.approx(score_alone(fresh, lm, *pair), abs=1e-3)


def test_only_long_rows_are_read_alone() -> None:
    sizes: list[int] = []
    lm = FusedLM(build("dynamic"), tokenizer=TOKENIZER)
    lm.generate([SHORT, LONG, "b", "cd"], max_new_tokens=4, on_batch=sizes.append)
    assert sizes == [3, 1]


def test_a_rope_that_saw_a_long_text_is_reset() -> None:
    model, ids = build("dynamic"), torch.tensor([TOKENIZER.encode("a" * 20)])
    with torch.no_grad():
        fresh = build("dynamic")(ids, use_cache=False).logits
        model(torch.tensor([TOKENIZER.encode("a" * 60)]), use_cache=False)
        assert not torch.allclose(model(ids, use_cache=False).logits, fresh)
        reset_rope(model)
        assert torch.equal(model(ids, use_cache=False).logits, fresh)


def test_speculation_is_refused_where_length_decides() -> None:
    models = [build("dynamic", seed) for seed in range(3)]
    lm = FusedLM(models[0], models[1], models[2:], tokenizer=TOKENIZER, weights=1.0)
    short = [one.token_ids for one in lm.generate([SHORT], max_new_tokens=8)]
    assert [one.token_ids for one in lm.generate([SHORT], max_new_tokens=8, speculative=True)] == short
    with pytest.raises(UserError, match="more than 16 tokens are encoded by their length"):
        lm.generate([SHORT, LONG], max_new_tokens=8, speculative=True)


def test_the_familiar_gap_does_not_depend_on_neighbours() -> None:
    models = [build("dynamic", seed) for seed in range(3)]
    lm = FusedLM(models[0], models[1], models[2:], tokenizer=TOKENIZER, weights=1.0)
    alone = [lm.likelihood_gap([prompt])[0] for prompt in (SHORT, LONG, MIDDLE)]
    assert lm.likelihood_gap([SHORT, LONG, MIDDLE]) == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_was_read_for_its_gap_is_continued_as_without(kind: str) -> None:
    """Also one that is longer than the original length by the one token that the gap leaves out."""
    models = [build(kind, seed) for seed in range(3)]
    prompts = [[seed, *range(4, ORIGINAL + 4)] for seed in range(20, 30)]
    plain, familiar = (
        FusedLM(models[0], models[1], models[2:], tokenizer=TOKENIZER, weights=1.0, familiar=limit)
        for limit in (None, 1e9)
    )
    found = familiar.generate(prompts, max_new_tokens=2)
    assert [one.token_ids for one in found] == [one.token_ids for one in plain.generate(prompts, max_new_tokens=2)]


@pytest.mark.parametrize(
    ("kind", "limit", "context"),
    [("dynamic", 16, float("inf")), ("longrope, read again", 16, 128), ("plain", float("inf"), 128)],
)
def test_limits_come_from_the_config(kind: str, limit: float, context: float) -> None:
    assert (rope_limit(build(kind)), context_length(build(kind))) == (limit, context)


# Where contexts end


@pytest.mark.parametrize("speculative", [False, True])
@pytest.mark.parametrize("lengths", [(64, 16, 16), (16, 64, 64), (64, 64, 16)])
def test_a_fusion_reads_as_much_as_the_shortest_of_its_models(lengths: tuple[int, ...], speculative: bool) -> None:
    large, base, expert = (positions(length, seed) for seed, length in enumerate(lengths))
    lm = FusedLM(large, base, [expert], tokenizer=TOKENIZER, weights=1.0)
    assert lm.max_length == 16
    prompts = ["a" * 16, "b" * 10, "c"]
    found = lm.generate(prompts, max_new_tokens=9, speculative=speculative)
    ended = [len(one.token_ids) for one in found if one.finish_reason == "length"]
    assert len(found[0].token_ids) == 1
    assert len(found[1].token_ids) <= 7
    assert max(ended) <= 9
    alone = [lm.generate([prompt], max_new_tokens=9)[0].token_ids for prompt in prompts]
    assert [one.token_ids for one in found] == alone
    with pytest.raises(UserError, match="Prompt 1 has 17 tokens, and the models read at most 16"):
        lm.generate(["a", "a" * 17], max_new_tokens=1)
    with pytest.raises(UserError, match="Pair 0 has 17 tokens"):
        lm.score(["a" * 15], ["bcd"])
    assert lm.score(["a" * 15], ["bc"])[0][0] < 0
    with pytest.raises(UserError, match="Prompt 0 has 17 tokens"):
        lm.likelihood_gap(["a" * 17])


def test_the_last_token_need_not_be_read() -> None:
    model = positions(16)
    found = FusedLM(model, tokenizer=TOKENIZER).generate(["a" * 12], max_new_tokens=100)[0]
    ids = TOKENIZER.encode("a" * 12)
    with torch.no_grad():
        for token in found.token_ids:
            assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)
    assert len(ids) == 17 or found.finish_reason == "eos"


def test_a_limit_can_be_moved_where_positions_go_on() -> None:
    lm = FusedLM(build("plain", max_position_embeddings=16), tokenizer=TOKENIZER)
    fixed = FusedLM(positions(16), tokenizer=TOKENIZER)
    with pytest.raises(UserError, match="max_length of 20 is more than the 16 tokens that GPT2LMHeadModel"):
        fixed.extend(20)
    with pytest.raises(UserError, match="Pair 0 has 20 tokens"):
        lm.score(["a" * 20], ["b"])
    lm.extend(20)
    assert lm.score(["a" * 20], ["b"])[0][0] == pytest.approx(
        score_alone([build("plain", max_position_embeddings=16)], lm, "a" * 20, "b"), abs=1e-4
    )
