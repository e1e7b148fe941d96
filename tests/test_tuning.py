"""Tuning against a loop that scores every combination by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fusion_lm import logits_after
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.load import resolve_config
from logitfusion.config.methods import tuning_groups
from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.fusion.steering import draw_to_anchor
from logitfusion.fusion.tuning import Candidate, choose, make_ways, tune
from logitfusion.stages.decode import choice_for

PROMPTS = ["Hello world", "a", "2 + 2 =", "The quick brown fox"]
COMPLETIONS = [" and", "bc", " 4", " jumps over"]


def make(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, **options: object) -> FusedLM:
    experts = [loaded["expert_a"], loaded["expert_b"]]
    return FusedLM(loaded["large"], loaded["base"], experts, tokenizer=tokenizer, **options)


@pytest.mark.parametrize("selection", ["one_hot", "judged"])
def test_every_combination_is_scored_as_if_alone(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, selection: str
) -> None:
    found = tune(
        make(loaded, tokenizer, selection=selection),
        PROMPTS,
        COMPLETIONS,
        trusts=[0.0, 0.5, 1.0],
        anchors=[0.0, 0.7],
        stop=["e"],
        batch_size=3,
    )
    assert [(row.trust, row.anchor) for row in found] == [(0, 0), (0, 0.7), (0.5, 0), (0.5, 0.7), (1, 0)]
    for row in found:
        alone = make(loaded, tokenizer, selection=selection, trust=row.trust, anchor=row.anchor)
        judged = [follow(alone, prompt, text, stop="e") for prompt, text in zip(PROMPTS, COMPLETIONS, strict=True)]
        assert row.log_likelihood == pytest.approx(sum(value for value, _ in judged) / 4, abs=1e-3)
        assert row.exact == sum(greedy for _, greedy in judged) / 4


def follow(fusion: FusedLM, prompt: str, completion: str, stop: str) -> tuple[float, bool]:
    """Token by token without a cache: the completion's likelihood and that of any end, and whether greedy says so."""
    ids = fusion.tokenizer.encode(prompt)
    ends = [2] + [token for token in range(259) if fusion.tokenizer.decode([token]).startswith(stop)]
    total, greedy = 0.0, True
    for token in [*fusion.tokenizer.encode(completion, add_special_tokens=False), None]:
        models = (fusion.large, fusion.base, *fusion.experts)
        large, *small = (logits_after(model, ids)[None] for model in models)
        logits = fusion.steering.fuse(large, torch.stack(small)).logits[0]
        expected = ends if token is None else [token]
        total += float(logits.softmax(-1)[expected].sum().log())
        greedy &= int(logits.argmax()) in expected
        ids = [*ids, token]
    return total, greedy


def test_a_likelier_end_is_a_likelier_answer(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Every stop string adds ends, so nothing becomes less likely."""
    few, many = (tune(make(loaded, tokenizer), PROMPTS, COMPLETIONS, stop=stop) for stop in ((), ("a", "e", " ")))
    assert all(a.log_likelihood < b.log_likelihood for a, b in zip(few, many, strict=True))


def test_trust_0_and_anchor_0_is_the_large_model(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    alone = FusedLM(loaded["large"], tokenizer=tokenizer).generate(PROMPTS, max_new_tokens=8)
    found = make(loaded, tokenizer, trust=0.0, anchor=0.0).generate(PROMPTS, max_new_tokens=8)
    assert [row.token_ids for row in found] == [row.token_ids for row in alone]


def test_trust_0_with_one_expert_is_a_fixed_weight(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    models = (loaded["large"], loaded["base"], [loaded["expert_a"]])
    fixed = FusedLM(*models, tokenizer=tokenizer, weights=0.6).generate(PROMPTS, max_new_tokens=8)
    found = FusedLM(*models, tokenizer=tokenizer, trust=0.0, anchor=0.6).generate(PROMPTS, max_new_tokens=8)
    assert [row.token_ids for row in found] == [row.token_ids for row in fixed]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(weights=st.lists(st.floats(0, 2), min_size=1, max_size=4), trust=st.floats(0, 1), anchor=st.floats(0, 3))
def test_shares_stay_and_the_sum_moves_to_the_anchor(weights: list[float], trust: float, anchor: float) -> None:
    solved = torch.tensor(weights)[:, None]
    drawn = draw_to_anchor(solved, trust, anchor)
    total = float(solved.sum())
    if total < 1e-6:
        return
    assert float(drawn.sum()) == pytest.approx(trust * total + (1 - trust) * anchor, abs=1e-4)
    assert torch.allclose(drawn / drawn.sum().clamp(min=1e-9) * drawn.sum(), solved / total * drawn.sum(), atol=1e-4)


def test_where_nobody_steers_nobody_is_made_to() -> None:
    assert (draw_to_anchor(torch.zeros(3, 5), 0.0, 1.0) == 0).all()


def test_the_choice_is_the_likeliest_on_average_and_never_below_the_best_fixed_weight() -> None:
    ways = [(0.0, 0.5), (0.0, 1.0), (0.5, 1.0), (1.0, 0.5)]
    tasks = [
        [Candidate(*way, 0.5, value) for way, value in zip(ways, values, strict=True)]
        for values in ((-1.0, -3.0, -2.0, -9.0), (-5.0, -3.0, -3.5, -9.0))
    ]
    assert (choose(tasks[:1]).trust, choose(tasks[:1]).anchor) == (0.0, 0.5)
    assert choose(tasks) == Candidate(0.5, 1.0, 0.5, pytest.approx(-2.75))
    fixed = choose([[row for row in rows if row.trust == 0] for rows in tasks])
    assert choose(tasks).log_likelihood >= fixed.log_likelihood


def test_what_a_metric_compares_is_the_best_of_each_kind() -> None:
    """Ten answers, of which the first five like a weight of 1 and the others that the solved one is trusted."""
    ways = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)]
    answers = [(-3.0,) * 10, (-1.0,) * 5 + (-2.0,) * 5, (-2.0,) * 5 + (-0.5,) * 5]
    tried = [Candidate(*way, 0.0, sum(each) / 10, each) for way, each in zip(ways, answers, strict=True)]
    large, fixed, tuned = make_ways({"task": tried})
    assert [way.name for way in (large, fixed, tuned)] == ["large", "fixed", "tuned"]
    assert [(way.options["trust"], way.options["anchor"]) for way in (large, fixed, tuned)] == ways
    assert fixed.likelihoods["task"].tolist() == list(answers[1])
    assert [way.name for way in make_ways({"task": tried[:2]})] == ["large", "fixed"]
    assert [way.name for way in make_ways({"task": tried[1:2]})] == ["fixed"]


def test_fixed_weights_and_missing_examples_are_refused(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(UserError, match="dynamic"):
        tune(make(loaded, tokenizer, weights=1.0), PROMPTS, COMPLETIONS)
    with pytest.raises(UserError, match="validation examples"):
        tune(make(loaded, tokenizer), [], [])


def test_a_completion_that_no_weight_makes_possible_is_refused(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    """All ways would be alike, on average over the other examples as well, and the first of them be taken."""
    excluded = tokenizer.encode(COMPLETIONS[2])[-1]

    def exclude(module: object, given: object, output: Any) -> Any:
        output.logits[..., excluded] = -torch.inf
        return output

    hook = loaded["large"].register_forward_hook(exclude)
    try:
        with pytest.raises(UserError, match="completion of example 2 has a token that the models exclude"):
            tune(make(loaded, tokenizer), PROMPTS, COMPLETIONS)
    finally:
        hook.remove()


@pytest.mark.parametrize("options", [{"trust": 1.1}, {"trust": -0.1}, {"anchor": -1.0}, {"anchor": float("inf")}])
def test_trust_and_anchor_have_ranges(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, options: dict
) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        make(loaded, tokenizer, **options)


# In the workflow


def small_config() -> dict:
    model = {"source": "random"}
    task = {"harness": "sums", "train": 8, "validation": 4, "test": 4}
    expert = {"base": "small", "tasks": ["a"], "steps": 1}
    return {
        "run": "x",
        "models": {"large": model, "small": model},
        "tasks": {"a": task, "b": task, "unseen": task | {"train": 0}},
        "experts": {"a": expert, "b": expert | {"tasks": ["b"]}, "both": {"base": "small", "merge": ["a", "b"]}},
        "fusion": {
            "large": "large",
            "base": "small",
            "methods": {
                "large": {"model": "large"},
                "own": {"experts": ["{task}"], "tune": {}},
                "all": {"experts": ["a", "b"], "tune": {}},
                "merged": {"experts": ["both"], "tune": {}},
                "hub": {"experts": ["large"], "tune": {}},
            },
        },
        "evaluate": {"ceiling": "large"},
    }


def test_who_is_tuned_on_what() -> None:
    """The unseen task's validation split is nobody's, unless nothing is known of the experts' training."""
    config = resolve_config(small_config())
    assert tuning_groups(config, "own") == [["a"], ["b"]]
    assert tuning_groups(config, "all") == tuning_groups(config, "merged") == [["a", "b"]]
    assert tuning_groups(config, "hub") == [["a", "b", "unseen"]]


def test_tuning_needs_validation_examples_and_solved_weights() -> None:
    config = small_config()
    config["tasks"]["b"] = config["tasks"]["b"] | {"validation": 0}
    with pytest.raises(UserError, match=r"'own' is tuned on task 'b'.*validation"):
        resolve_config(config)
    config = small_config()
    config["fusion"]["methods"]["all"]["weights"] = 1.0
    with pytest.raises(UserError, match=r"'fusion.methods.all' has fixed weights"):
        resolve_config(config)


def test_a_choice_is_the_tasks_own_or_that_of_all() -> None:
    chosen = {"trust": 0.5, "anchor": 1.0, "exact": 0.3, "log_likelihood": -2.0}
    assert choice_for("a", {"a": chosen}) == {"trust": 0.5, "anchor": 1.0}
    assert choice_for("unseen", {"*": chosen}) == {"trust": 0.5, "anchor": 1.0}
    assert choice_for("a", {}) == {}
