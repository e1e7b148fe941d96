"""Rows of fused logits that are no numbers: never solved, scored or sampled from; and tokens that models lack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fusion_finite import USES, poison
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM, fuse_logits, solve_weights
from logitfusion.fusion.sampling import draw, filter_logits, pick_tokens
from logitfusion.fusion.scoring import judge_logits
from logitfusion.models.forward import check_texts

INF, NAN = torch.inf, torch.nan
BROKEN = (NAN, INF, -INF)
SMALL = settings(max_examples=40, deadline=None, derandomize=True)


def draw_logits(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def models(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Large, base and two experts, three rows of eleven entries."""
    return draw_logits(3, 11, seed=seed), draw_logits(3, 11, seed=seed + 1), draw_logits(2, 3, 11, seed=seed + 2)


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("place", ["base", "expert"])
def test_whatever_has_weight_0_has_no_effect(place: str, value: float) -> None:
    large, base, experts = models()
    expected = fuse_logits(large, base, experts, torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]]))
    (base[1] if place == "base" else experts[0, 1])[4] = value
    found = fuse_logits(large, base, experts, torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]]))
    assert torch.equal(found, expected)
    assert torch.equal(found[1], large[1])


@pytest.mark.parametrize("selection", ["one_hot", "matched", "pooled", "judged"])
@pytest.mark.parametrize("rule", ["grid", "newton"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_weights_of_what_is_no_number_are_not_solved_for(place: int, rule: str, selection: str) -> None:
    for value in (NAN, INF):
        given_ = models()
        given_[place].view(-1, 11)[1, 4] = value
        with pytest.raises(ValueError, match="some are NaN or infinite"):
            solve_weights(*given_, rule=rule, selection=selection)
    far = models()
    far[1][1, 4], far[2][:, 1, 4] = -3e38, 3e38
    with pytest.raises(ValueError, match="differences are numbers of fp32"):
        solve_weights(*far, rule=rule, selection=selection)


@pytest.mark.parametrize("selection", ["one_hot", "matched", "pooled", "judged"])
@pytest.mark.parametrize("rule", ["grid", "newton"])
def test_a_row_in_which_nothing_is_left_gets_no_expert(rule: str, selection: str) -> None:
    large, base, experts = models()
    plain = solve_weights(large, base, experts, rule=rule, selection=selection)
    for one, rows in ((large, slice(None)), (base, slice(None)), (experts, 0)):
        spoiled = [part.clone() for part in (large, base, experts)]
        next(part for part, own in zip(spoiled, (large, base, experts), strict=True) if own is one)[rows][
            ..., 1, :
        ] = -INF
        found = solve_weights(*spoiled, rule=rule, selection=selection)
        assert found.weights[:, 1].tolist() == [0, 0]
        assert (float(found.loss[1]), int(found.expert[1])) == (0, -1)
        torch.testing.assert_close(found.weights[:, [0, 2]], plain.weights[:, [0, 2]])
        torch.testing.assert_close(found.loss[[0, 2]], plain.loss[[0, 2]])


@SMALL
@given(
    seed=st.integers(0, 10**6),
    spoil=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 10), st.sampled_from(BROKEN)), max_size=4),
    temperature=st.sampled_from([0.0, 1e-300, 1e-40, 1e-5, 1.0, 30.0]),
    top_k=st.sampled_from([0, 1, 3]),
    top_p=st.sampled_from([1e-9, 0.5, 1.0]),
)
def test_a_token_is_one_that_the_row_allows_or_refused(
    seed: int, spoil: list[tuple[int, int, float]], temperature: float, top_k: int, top_p: float
) -> None:
    logits = draw_logits(3, 11, seed=seed)
    for row, entry, value in spoil:
        logits[row, entry] = value
    generators = [torch.Generator().manual_seed(seed + row) for row in range(3)]
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    if not logits.amax(-1).isfinite().all():
        with pytest.raises(UserError, match="not finite, or exclude every token"):
            pick_tokens(logits, generators, **options)
        return
    tokens = pick_tokens(logits, generators, **options)
    assert logits.gather(1, tokens[:, None]).isfinite().all()
    if temperature < 1e-30:
        assert torch.equal(tokens, logits.argmax(-1))


def test_a_row_without_a_token_is_never_sampled_from() -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(UserError, match="exclude every token"):
            pick_tokens(torch.full((1, 5), -INF), [torch.Generator()], temperature=temperature, top_k=0, top_p=1.0)


@pytest.mark.parametrize("temperature", [1e-320, 1e-300, 1e-45, 1e-38, 1e-20, 1e-5])
def test_the_lower_the_temperature_the_nearer_to_greedy(temperature: float) -> None:
    logits = torch.tensor([[-900.0, 5.0, 5.0, 4.0], [3e38, -3e38, 1.0, -INF], [-5.0, -7.0, -INF, -6.0]])
    found = filter_logits(logits, temperature=temperature).exp()
    expected = torch.tensor([[0.0, 0.5, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected)


def test_ordinary_temperatures_divide() -> None:
    logits = draw_logits(4, 13)
    assert torch.equal(filter_logits(logits, temperature=0.7), (logits / 0.7).log_softmax(-1))


def test_draws_follow_their_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([draw(torch.tensor([0.0, 3.0, 1.0]), generator) for _ in range(4000)]).bincount(minlength=3)
    assert drawn[0] == 0
    assert abs(float(drawn[1]) / 4000 - 0.75) < 0.03


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_position_that_is_no_number_is_not_scored(value: float) -> None:
    logits = draw_logits(3, 11)
    logits[1, 4] = value
    with pytest.raises(UserError, match="not finite"):
        judge_logits(logits, torch.tensor([1, 2, 3]))
    with pytest.raises(UserError, match="exclude every token"):
        judge_logits(torch.full((1, 3), -INF), torch.tensor([1]))


OVERFLOWS = {1.0: "The fused logits of a text are not finite", "dynamic": "The weights can't be solved for"}


@pytest.mark.parametrize(
    ("use", "weights"), [(use, one) for use in USES for one in OVERFLOWS if use != "tune" or one == "dynamic"]
)
def test_a_fusion_that_overflows_is_refused(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, use: str, weights: Any
) -> None:
    """Finite logits of all models, and a difference that no fp32 number holds."""
    base, expert = poison(loaded["base"], -3e38), poison(loaded["expert_a"], 3e38)
    with pytest.raises(UserError, match=OVERFLOWS[weights]):
        USES[use](FusedLM(loaded["large"], base, [expert], tokenizer=tokenizer, weights=weights))


TOKENS: list[Any] = [[3, 10**6], [-1, 3], [3, 2**70]]
ODD: list[Any] = [[1.5, 3], ["a", "b"], None, 7, [None], [[3]], torch.tensor([1.5]), torch.tensor([[3, 4]])]


@pytest.mark.parametrize("ids", TOKENS)
def test_tokens_that_the_models_lack_are_refused(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, ids: Any
) -> None:
    lm = FusedLM(loaded["large"], tokenizer=tokenizer)
    with pytest.raises(UserError, match=r"number -?\d+, and the models have only"):
        lm.generate([ids], max_new_tokens=1)
    for pair in ((ids, [3]), ([3], ids)):
        with pytest.raises(UserError, match=r"number -?\d+, and the models have only"):
            lm.score(*([part] for part in pair))
    with pytest.raises(UserError, match=r"Text 2 has the token number .* and the model of test has only"):
        check_texts(loaded["large"], [[3], ids], "the model of test", "max_tokens")


@pytest.mark.parametrize("ids", ODD, ids=map(str, ODD))
def test_what_is_neither_a_text_nor_tokens_is_refused(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, ids: Any
) -> None:
    lm = FusedLM(loaded["large"], tokenizer=tokenizer)
    with pytest.raises(UserError, match="Prompt 0 is a text or a list of token numbers"):
        lm.generate([ids], max_new_tokens=1)
    with pytest.raises(UserError, match=r"The pair|Pair 0"):
        lm.score([ids], [[3]])


def test_tokens_may_be_numbers_of_any_library(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    lm = FusedLM(loaded["large"], tokenizer=tokenizer)
    given_ = [[3, 4, 5], (3, 4, 5), np.array([3, 4, 5]), torch.tensor([3, 4, 5]), range(3, 6)]
    first, *others = lm.generate(given_, max_new_tokens=3)
    assert all(other == first for other in others)


def test_what_reads_prompts_refuses_tokens_that_the_models_lack(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = FusedLM(loaded["large"], loaded["base"], [loaded["expert_a"]], tokenizer=tokenizer)
    monkeypatch.setattr(lm, "encode", lambda text: [3, lm.vocabulary])
    for use in (lm.likelihood_gap, lm.generate):
        with pytest.raises(UserError, match="the models share only"):
            use(["any"])
