"""FusedLM.score against a loop that reads every prefix alone, without a cache and without this project's solver."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from test_fusion_weights import brute_force
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM, scoring
from logitfusion.models.tiny import tiny_tokenizer

PAIRS = [("Hello world", ", again"), ("a", "b"), ("2 + 2 =", " 4"), ("2 + 2 =", " five"), ("Grüße", " →"), ("", "abc")]
FUSIONS = [
    ((), {}),
    (("expert_a",), {"weights": 1.0}),
    (("expert_a", "expert_b"), {"weights": [0.25, 0.75]}),
    (("expert_a",), {"weights": "dynamic", "selection": "one_hot"}),
    (("expert_a", "expert_b"), {"weights": "dynamic", "selection": "one_hot"}),
    (("expert_a", "expert_b"), {"weights": "dynamic", "selection": "matched"}),
]


def make_fusion(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, *experts: str, **options: object
) -> FusedLM:
    return FusedLM(loaded["large"], loaded["base"], [loaded[name] for name in experts], tokenizer=tokenizer, **options)


@pytest.fixture(scope="module")
def dynamic(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> FusedLM:
    return make_fusion(loaded, tokenizer, "expert_a", "expert_b")


@torch.inference_mode()
def logits_after(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().numpy()


def fused_logits(fusion: FusedLM, prefix: list[int], options: dict) -> np.ndarray:
    """Float64 logits of the next token by the definition of the method."""
    large = logits_after(fusion.large, prefix)
    if not fusion.experts:
        return large
    base = logits_after(fusion.base, prefix)
    experts = np.stack([logits_after(expert, prefix) for expert in fusion.experts])
    weights = options["weights"]
    if weights == "dynamic":
        weight, expert, _ = brute_force(large, base, experts, options["selection"])
        return large + weight * (experts[max(expert, 0)] - base)
    listed = np.broadcast_to(weights, len(experts))
    return large + sum(weight * (expert - base) for weight, expert in zip(listed, experts, strict=True))


def score_by_steps(
    fusion: FusedLM, context: list[int], continuation: list[int], options: dict
) -> tuple[float, bool, float]:
    """Log-likelihood, whether it is greedy, and how far the closest of its steps was from the other answer."""
    total, greedy, margin = 0.0, True, math.inf
    for step, token in enumerate(continuation):
        logits = fused_logits(fusion, context + continuation[:step], options)
        total += logits[token] - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        best = np.sort(logits)[::-1]
        greedy &= bool(logits[token] == best[0])
        margin = min(margin, best[0] - best[1])
    return total, greedy, margin


def encoded_pairs(tokenizer: PreTrainedTokenizerBase) -> list[tuple[list[int], list[int]]]:
    """Pairs of unequal lengths: shared contexts, one-token contexts, empty continuations."""
    texts = [(tokenizer.encode(context or "<s>"), tokenizer.encode(text)) for context, text in PAIRS]
    return [*texts, ([7], [9, 11, 13, 15]), ([7], [9]), ([1], []), (texts[0][0], [])]


# Values


@pytest.mark.parametrize(("experts", "options"), FUSIONS)
def test_scores_are_sums_of_steps(
    loaded: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    experts: tuple[str, ...],
    options: dict,
) -> None:
    fusion, pairs = make_fusion(loaded, tokenizer, *experts, **options), encoded_pairs(tokenizer)
    found = fusion.score([context for context, _ in pairs], [continuation for _, continuation in pairs], batch_size=4)
    for (context, continuation), (likelihood, greedy) in zip(pairs, found, strict=True):
        expected, wanted_greedy, margin = score_by_steps(fusion, context, continuation, options)
        assert likelihood == pytest.approx(expected, abs=1e-3)
        assert greedy == wanted_greedy or margin < 1e-4


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_the_batch_size_does_not_matter(dynamic: FusedLM, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
    pairs = encoded_pairs(tokenizer) * 2
    random.Random(batch_size).shuffle(pairs)
    contexts, continuations = zip(*pairs, strict=True)
    together = dynamic.score(contexts, continuations, batch_size=batch_size)
    for context, continuation, (likelihood, greedy) in zip(contexts, continuations, together, strict=True):
        alone = dynamic.score([context], [continuation])[0]
        assert (likelihood, greedy) == (pytest.approx(alone[0], abs=1e-3), alone[1])


@pytest.mark.parametrize("width", [1, 2, 5])
def test_long_continuations_are_read_in_columns(
    dynamic: FusedLM, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    contexts, continuations = zip(*encoded_pairs(tokenizer), strict=True)
    whole = dynamic.score(contexts, continuations)
    monkeypatch.setattr(scoring, "columns_at_once", lambda rows, vocabulary: width)
    parts = dynamic.score(contexts, continuations)
    assert [greedy for _, greedy in parts] == [greedy for _, greedy in whole]
    assert np.allclose([value for value, _ in parts], [value for value, _ in whole], atol=1e-3)


@pytest.mark.parametrize(("experts", "options"), FUSIONS)
def test_greedy_continuations_are_greedy(
    loaded: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    experts: tuple[str, ...],
    options: dict,
) -> None:
    fusion = make_fusion(loaded, tokenizer, *experts, **options)
    prompts = [tokenizer.encode(context) for context, _ in PAIRS if context]
    said = [row.token_ids for row in fusion.generate(prompts, max_new_tokens=8)]
    assert all(greedy for _, greedy in fusion.score(prompts, said))
    changed = [[*ids[:-1], (ids[-1] + 1) % fusion.vocabulary] for ids in said]
    assert not any(greedy for _, greedy in fusion.score(prompts, changed))


def test_likelihoods_of_all_next_tokens_sum_to_1(dynamic: FusedLM) -> None:
    scores = dynamic.score([[5, 6, 7]] * dynamic.vocabulary, [[token] for token in range(dynamic.vocabulary)])
    assert sum(math.exp(likelihood) for likelihood, _ in scores) == pytest.approx(1.0, abs=1e-5)
    assert sum(greedy for _, greedy in scores) == 1


def test_a_likelihood_is_the_sum_of_its_parts(dynamic: FusedLM, tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer.encode("The quick brown fox jumps")
    (whole, _), *parts = dynamic.score([ids[:3], ids[:3], ids[:9]], [ids[3:], ids[3:9], ids[9:]])
    assert whole == pytest.approx(sum(part for part, _ in parts), abs=1e-3)


def test_no_tokens_are_certain(dynamic: FusedLM) -> None:
    assert dynamic.score([[5], [5, 6]], [[], []]) == [(0.0, True)] * 2
    assert dynamic.score([], []) == []


def test_every_pair_is_counted(dynamic: FusedLM, tokenizer: PreTrainedTokenizerBase) -> None:
    counted: list[int] = []
    contexts, continuations = zip(*encoded_pairs(tokenizer), strict=True)
    dynamic.score(contexts, continuations, batch_size=4, on_batch=counted.append)
    assert sum(counted) == len(contexts)


# Texts


def make_beginner() -> PreTrainedTokenizerFast:
    """The tiny tokenizer, putting the begin-of-text token before each text as Llama's does."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


TEXTS = [
    ("Hello", " world"),
    ("Hello ", "world"),
    ("Hello \n", " world"),
    ("<s>Hello", " world"),
    ("x", "<s>y"),
    ("Grüße ", "→"),
]


@pytest.mark.parametrize("adds_begin", [False, True])
@pytest.mark.parametrize("pair", [*TEXTS, ("", "abc"), ("", " abc"), ("", "<s>abc")])
def test_texts_are_split_as_the_harness_splits_them(
    loaded: dict[str, PreTrainedModel], pair: tuple[str, str], adds_begin: bool
) -> None:
    tokenizer = make_beginner() if adds_begin else tiny_tokenizer()
    harness, told = HFLM(pretrained=loaded["large"], tokenizer=tokenizer), []
    harness._loglikelihood_tokens = lambda requests, **_: told.extend(requests)
    harness.loglikelihood([type("Request", (), {"args": pair})], disable_tqdm=True)
    found = FusedLM(loaded["large"], tokenizer=tokenizer).encode_pair(*pair)
    assert [list(part) for part in found] == [list(part) for part in told[0][1:]]


def test_texts_and_their_tokens_score_alike(dynamic: FusedLM, tokenizer: PreTrainedTokenizerBase) -> None:
    texts = dynamic.score(["2 + 2 = "], ["4"])[0]
    tokens = dynamic.score([tokenizer.encode("2 + 2 =")], [tokenizer.encode(" 4")])[0]
    assert texts == tokens


def test_prompts_may_be_tokens(dynamic: FusedLM, tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [context for context, _ in PAIRS if context]
    tokens = [tokenizer.encode(text) for text in texts]
    assert dynamic.generate(tokens, max_new_tokens=4) == dynamic.generate(texts, max_new_tokens=4)
    with pytest.raises(UserError, match="Prompt 1 "):
        dynamic.generate([[5], []], max_new_tokens=1)


def test_a_text_begins_once(loaded: dict[str, PreTrainedModel]) -> None:
    """Chat templates write the begin-of-text token that the tokenizer would add."""
    fusion = FusedLM(loaded["large"], tokenizer=make_beginner())
    assert fusion.encode("<s>ab") == fusion.encode("ab") == [1, *tiny_tokenizer().encode("ab")]
    found = fusion.generate(["<s>ab", "ab"], max_new_tokens=4)
    assert found[0] == found[1]


# Errors


@pytest.mark.parametrize(
    ("contexts", "continuations"),
    [(["a"], []), ("a", "b"), (["a"], "b"), (["a"], [[5]]), ([[5]], ["a"])],
)
def test_pairs_that_do_not_fit_are_refused(dynamic: FusedLM, contexts: object, continuations: object) -> None:
    with pytest.raises(UserError):
        dynamic.score(contexts, continuations)


def test_an_empty_batch_is_refused(dynamic: FusedLM) -> None:
    with pytest.raises(UserError, match="batch_size"):
        dynamic.score(["a"], ["b"], batch_size=0)


def test_an_empty_context_needs_a_first_token(loaded: dict[str, PreTrainedModel]) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(UserError, match="begin-of-text"):
        FusedLM(loaded["large"], tokenizer=tokenizer).score([""], ["a"])
