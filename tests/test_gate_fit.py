"""Fitting a gate: its evidence against whole distributions, a planted gate, and the choice of the simpler way."""

from __future__ import annotations

import pytest
import torch
from test_tuning import COMPLETIONS, PROMPTS
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.fusion import Tune
from logitfusion.config.gate import Gate, GateFeature
from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM, fuse_logits
from logitfusion.fusion.gate import evidence
from logitfusion.fusion.gate.choice import fit_gate
from logitfusion.fusion.gate.evidence import Evidence, collect, summarise
from logitfusion.fusion.gate.features import FEATURES
from logitfusion.fusion.gate.fit import Grouped, fit, fit_path, judge
from logitfusion.fusion.gate.weights import weigh
from logitfusion.fusion.tuning import tune
from logitfusion.fusion.ways import Way, as_rows, choose, compare, fold_of, mean


def draw_models(seed: int, rows: int, experts: int = 1, vocabulary: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    large, base = (2 * torch.randn(rows, vocabulary, generator=generator) for _ in range(2))
    # Some experts learned much and some little, so that features differ from token to token.
    strength = torch.rand(experts, rows, 1, generator=generator) * 3
    return large, base, base + strength * torch.randn(experts, rows, vocabulary, generator=generator)


def gather(large: Tensor, base: Tensor, experts: Tensor, targets: Tensor, kept: int = 256) -> Evidence:
    """Evidence of answers of one token each."""
    right = torch.zeros_like(large, dtype=torch.bool).scatter(1, targets[:, None], True)
    features, *logits, marked = summarise(large, base, experts, right, kept)
    return Evidence(features.double(), *(part.double() for part in logits), marked, torch.arange(len(targets)))


def plant(gate: Gate, seed: int, rows: int, experts: int = 1) -> Evidence:
    """Answers that are drawn from a fusion that a gate steers."""
    models = draw_models(seed, rows, experts)
    weights = weigh(gate, models[0], models[1], models[2] - models[1])
    fused = fuse_logits(*models, weights)
    return gather(*models, torch.multinomial(fused.softmax(-1), 1, generator=torch.Generator().manual_seed(seed))[:, 0])


PLANTED = Gate(
    bias=0.5,
    features={
        "expert_entropy": GateFeature(weight=1.5, mean=2.0, scale=0.8),
        "large_from_expert": GateFeature(weight=-1.0, mean=1.5, scale=0.4),
    },
)


# Evidence


@pytest.mark.parametrize("experts", [1, 3])
def test_evidence_of_few_entries_is_nearly_that_of_all(experts: int) -> None:
    """Ten of a hundred entries are kept; the others are two groups, known to the second cumulant."""
    models = draw_models(0, 50, experts, vocabulary=100)
    models = (models[0], models[1], models[1] + 0.3 * (models[2] - models[1]))
    targets = torch.randint(0, 100, (50,), generator=torch.Generator().manual_seed(1))
    for weight in (0.0, 0.5, 1.0):
        weights = torch.full((experts, 50), weight)
        exact = fuse_logits(*models, weights).double().log_softmax(-1)[torch.arange(50), targets]
        whole = gather(*models, targets).log_likelihood(weights.double())
        few = gather(*models, targets, kept=10).log_likelihood(weights.double())
        torch.testing.assert_close(whole, exact, rtol=0, atol=1e-4)
        torch.testing.assert_close(few, exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("kept", [10, 256])
def test_what_an_expert_excludes_is_gone_with_any_weight(kept: int) -> None:
    large, base, experts = draw_models(0, 50, 2, vocabulary=100)
    experts = base + 0.3 * (experts - base)
    experts[1, :, 60:] = -torch.inf
    targets = torch.randint(0, 60, (50,), generator=torch.Generator().manual_seed(1))
    found = gather(large, base, experts, targets, kept)
    for weight in (0.0, 0.5) if kept == 256 else (0.5,):
        weights = torch.full((2, 50), weight)
        exact = fuse_logits(large, base, experts, weights).double().log_softmax(-1)[torch.arange(50), targets]
        torch.testing.assert_close(found.log_likelihood(weights.double()), exact, rtol=0, atol=0.05)
    assert judge(fit([found], 0.1), found).isfinite().all()


def test_an_answer_that_the_large_model_excludes_is_told() -> None:
    large, base, experts = draw_models(0, 10)
    large[3, 7] = -torch.inf
    with pytest.raises(UserError, match=r"fitted on 'a': a right answer has a token that the large model excludes"):
        fit_gate({"a": gather(large, base, experts, torch.full((10,), 7))})


def test_evidence_of_a_fusion_is_what_tuning_finds(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fixed weights by two ways, with all ends; batches change nothing."""
    lm = FusedLM(loaded["large"], loaded["base"], [loaded["expert_a"]], tokenizer=tokenizer)
    options = {"stop": ["e"], "batch_size": 3}
    anchors = [0.0, 0.5, 1.5]
    found = collect(lm, PROMPTS, COMPLETIONS, **options)
    for candidate in tune(lm, PROMPTS, COMPLETIONS, trusts=[0.0], anchors=anchors, **options):
        mean = float(judge(Gate.constant(candidate.anchor), found).mean())
        assert mean == pytest.approx(candidate.log_likelihood, abs=1e-3)
    monkeypatch.setattr(evidence, "_BLOCK", 600)  # two tokens at a time
    alone = collect(lm, PROMPTS, COMPLETIONS, stop=["e"], batch_size=1)
    gate = fit([found], 1.0)
    torch.testing.assert_close(judge(gate, found), judge(gate, alone), rtol=0, atol=1e-3)


def test_evidence_needs_experts_and_examples(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(UserError, match="has none"):
        collect(FusedLM(loaded["large"], tokenizer=tokenizer), PROMPTS, COMPLETIONS)
    lm = FusedLM(loaded["large"], loaded["base"], [loaded["expert_a"]], tokenizer=tokenizer)
    with pytest.raises(UserError, match="validation examples"):
        collect(lm, [], [])


# Fits


def test_a_planted_gate_is_found_again() -> None:
    """Its weights on new tokens, and its likelihood there."""
    found = fit([plant(PLANTED, 0, 3000)], 1e-4)
    models = draw_models(9, 1000)
    given = (models[0], models[1], models[2] - models[1])
    error = (weigh(found, *given) - weigh(PLANTED, *given)).abs().mean()
    spread = weigh(PLANTED, *given).std()
    assert spread > 0.6
    assert error < 0.25 * spread
    new = plant(PLANTED, 5, 1000)
    fixed = max(float(judge(Gate.constant(w / 10), new).mean()) for w in range(30))
    mine, planted = float(judge(found, new).mean()), float(judge(PLANTED, new).mean())
    assert planted - mine < 0.2 * (planted - fixed)


def test_several_experts_share_one_gate_in_any_order() -> None:
    models = draw_models(3, 400, experts=3)
    targets = fuse_logits(*models, torch.tensor([1.0, 0.2, 0.0])[:, None].expand(3, 400)).argmax(-1)
    order = [2, 0, 1]
    found, permuted = (fit([gather(*models[:2], part, targets)], 0.1) for part in (models[2], models[2][order]))
    shift = models[2] - models[1]
    mine, theirs = (weigh(gate, *models[:2], part) for gate, part in ((found, shift), (permuted, shift[order])))
    torch.testing.assert_close(mine[order], theirs, rtol=1e-2, atol=1e-2)


def test_a_great_ridge_leaves_a_fixed_weight() -> None:
    task = plant(PLANTED, 1, 500)
    weights = judge(fit([task], 1e6), task)
    best = max((judge(Gate.constant(w / 100), task) for w in range(1, 300)), key=lambda found: float(found.mean()))
    torch.testing.assert_close(weights.mean(), best.mean(), rtol=0, atol=1e-3)


def test_groups_of_tasks_differ_in_their_biases() -> None:
    """Two groups with one planted gate, but for its bias: each finds its own, beside what they share."""
    biases = (-1.0, 2.0)
    gates = [PLANTED.model_copy(update={"bias": bias}) for bias in biases]
    tasks = [Grouped(plant(gate, seed, 3000), seed) for seed, gate in enumerate(gates)]
    found = fit_path(tasks, [1e-4])[0]
    assert [gate.features for gate in found.groups] == [found.gate.features] * 2
    assert found.groups[0].bias < found.gate.bias < found.groups[1].bias
    for place, gate in enumerate(gates):
        new = Grouped(plant(gate, 5, 1000), place)
        assert float(found.judge(new).mean()) > float(judge(found.gate, new.evidence).mean()) + 0.02
        assert float(found.judge(new).mean()) > float(judge(gate, new.evidence).mean()) - 0.02


def test_one_group_has_no_bias_of_its_own_and_a_great_ridge_leaves_none() -> None:
    tasks = [Grouped(plant(PLANTED, seed, 200)) for seed in range(2)]
    assert fit_path(tasks, [0.1])[0].groups == [fit([task.evidence for task in tasks], 0.1)]
    apart = fit_path([Grouped(task.evidence, place) for place, task in enumerate(tasks)], [1e6])[0]
    assert [gate.bias for gate in apart.groups] == pytest.approx([apart.gate.bias] * 2, abs=1e-3)


def test_the_file_holds_the_numbers_that_were_used() -> None:
    """They are rounded to six digits before anything is judged by them."""
    gate = fit([plant(PLANTED, 2, 200)], 0.1)
    numbers = [gate.bias, *(value for one in gate.features.values() for value in one.dump().values())]
    assert all(float(f"{number:.6g}") == number for number in numbers)
    assert gate.features.keys() <= FEATURES.keys()
    assert not gate.relative  # one expert has none


# The choice


def test_a_gate_is_chosen_where_it_is_better_and_a_fixed_weight_where_it_is_not() -> None:
    fixed = Gate.constant(1.0)
    tasks = {"gated": plant(PLANTED, 0, 400), "fixed": plant(fixed, 1, 400), "large": plant(Gate.constant(0), 2, 400)}
    found = fit_gate(tasks, groups=[["gated"], ["fixed"], ["large"]], tune=Tune(ridges=(0.1,)))
    chosen = [choose(ways) for ways in found.ways]
    assert [way.name for way in chosen] == ["gate", "fixed", "large"]
    assert [way.options for way in chosen[1:]] == [{"weights": 1.0}, {"weights": 0.0}]
    gate = Gate(**chosen[0].options["gate"])
    assert gate.features == found.file.gate.features
    assert gate.bias != found.file.gate.bias
    assert found.file.fitted.answers == dict.fromkeys(tasks, 400)
    for ways in found.ways:
        rows = as_rows(ways)
        assert [row["way"] for row in rows] == ["large", "fixed", "gate"]
        assert min(row["behind"] for row in rows) == 0


def test_noise_goes_to_the_simplest() -> None:
    """Experts that say nothing: whatever steers, the answers are as likely."""
    large, base, _ = draw_models(0, 100)
    targets = torch.multinomial(large.softmax(-1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    found = fit_gate({"task": gather(large, base, base[None], targets)})
    assert [choose(ways).name for ways in found.ways] == ["large"]


def test_held_out_answers_are_not_those_of_the_fit() -> None:
    """Twenty answers and a ridge of 0: what was fitted is far better on them than what was held out says."""
    task = plant(Gate.constant(1.0), 4, 20)
    found = fit_gate({"task": task}, tune=Tune(ridges=(0.0,)))
    gate = found.ways[0][2]
    assert mean(gate.likelihoods) < float(judge(found.file.gate, task).mean()) - 0.5
    for fold, one in enumerate(gate.without):
        mine = fold_of(task.answers) == fold
        torch.testing.assert_close(judge(one["gate"], task)[mine], gate.likelihoods["task"][mine])


LIKELY = torch.tensor([-1.0, -1.1, -0.9, -1.05] * 5)


@pytest.mark.parametrize(
    ("metric", "likelihood", "taken"),
    [
        (torch.ones(20), LIKELY - 1, "fixed"),  # it says more of them right
        (torch.tensor([0.0] * 17 + [-1.0, 1.0, 1.0]), LIKELY, "large"),  # two for one is noise
        (
            torch.tensor([0.0] * 17 + [-1.0, 1.0, 1.0]),
            LIKELY + 1,
            "fixed",
        ),  # and no worse, where right answers are likelier
        (torch.tensor([0.0] * 20), LIKELY + 1, "fixed"),
        (torch.tensor([-1.0] + [0.0] * 19), LIKELY + 1, "large"),  # likelier answers that it does not say
    ],
)
def test_where_texts_were_decoded_the_metric_has_the_first_word(metric: Tensor, likelihood: Tensor, taken: str) -> None:
    simple = Way("large", {}, [], {"task": LIKELY}, {"task": torch.zeros(20)})
    assert choose([simple, Way("fixed", {}, [], {"task": likelihood}, {"task": metric})]).name == taken


def test_differences_are_paired_and_tasks_count_equally() -> None:
    """Examples that differ much, and always by the same from way to way, have no error."""
    noise = torch.randn(30, generator=torch.Generator().manual_seed(0))
    found = compare({"a": noise + 1, "b": noise[:10] + 3}, {"a": noise, "b": noise[:10]})
    assert (found.mean, found.error) == (pytest.approx(2.0), pytest.approx(0.0, abs=1e-6))
    alone = compare({"a": noise}, {"a": torch.zeros(30)})
    assert alone.error == pytest.approx(float(noise.double().var() / 30) ** 0.5)


def test_test_data_and_too_few_answers_are_refused() -> None:
    task = plant(PLANTED, 0, 20)
    with pytest.raises(UserError, match="test split"):
        fit_gate({"task": task}, split="test")
    with pytest.raises(UserError, match="'few' has fewer"):
        fit_gate({"task": task, "few": plant(PLANTED, 0, 4)})


@pytest.mark.parametrize("groups", [[["a"]], [["a", "b"], ["b"]], [["a"], ["b"], ["c"]], [["a", "b"], []]])
def test_groups_that_leave_a_task_out_or_have_it_twice_are_refused(groups: list[list[str]]) -> None:
    """The file would name answers that the gate was not fitted on."""
    task = plant(PLANTED, 0, 10)
    with pytest.raises(UserError, match="each task once: those of a, b"):
        fit_gate({"a": task, "b": task}, groups=groups)
