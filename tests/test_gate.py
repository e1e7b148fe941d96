"""The rule gate: its features against their formulas in float64, its weights, its file."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import commands
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from test_fusion_lm import PROMPTS
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.artefact import write_artefact
from logitfusion.config.fusion import SteeredMethod
from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.gate import FeatureName, Gate, GateFeature
from logitfusion.errors import UserError
from logitfusion.formats.json import read_json
from logitfusion.formats.jsonl import read_rows
from logitfusion.fusion import FusedLM, solve_weights
from logitfusion.fusion.gate.features import FEATURES, measure
from logitfusion.fusion.gate.file import Fitted, GateFile, read_gate, write_gate
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.fusion.steering import Steering
from logitfusion.models.load import load_model
from logitfusion.stages.decode import choice_for

SMALL = settings(max_examples=20, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)


def draw(seed: int, experts: int = 3, rows: int = 6, vocabulary: int = 23) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    large, base = (3 * torch.randn(rows, vocabulary, generator=generator) for _ in range(2))
    return large, base, base + torch.randn(experts, rows, vocabulary, generator=generator)


def draw_gate(seed: int, scale: float = 1.0) -> Gate:
    generator = torch.Generator().manual_seed(seed)

    def features() -> dict[str, GateFeature]:
        values = torch.randn(len(FEATURES), 2, generator=generator).tolist()
        return {name: GateFeature(weight=scale * w, mean=m) for name, (w, m) in zip(FEATURES, values, strict=True)}

    return Gate(bias=scale * 0.3, features=features(), relative=features())


def formulas(large: Tensor, base: Tensor, expert: Tensor) -> dict[str, float]:
    """The features of one position, each as it is defined."""
    p, q, e = (logits.double().softmax(-1) for logits in (large, base, expert))

    def divergence(one: Tensor, other: Tensor) -> float:
        return float((one * (one / other).log()).sum())

    def margin(one: Tensor) -> float:
        first, second, *_ = sorted(one.tolist(), reverse=True)
        return first - second

    return {
        "large_entropy": float(-(p * p.log()).sum()),
        "expert_entropy": float(-(e * e.log()).sum()),
        "large_top": float(p.max()),
        "expert_top": float(e.max()),
        "large_margin": margin(p),
        "expert_margin": margin(e),
        "same_token": float(int(p.argmax()) == int(e.argmax())),
        "large_of_expert": float(p[e.argmax()].log()),
        "expert_of_large": float(e[p.argmax()].log()),
        "expert_from_base": float(torch.tensor(divergence(e, q)).log1p()),
        "base_from_expert": float(torch.tensor(divergence(q, e)).log1p()),
        "expert_from_large": float(torch.tensor(divergence(e, p)).log1p()),
        "large_from_expert": float(torch.tensor(divergence(p, e)).log1p()),
    }


# Features


@SMALL
@given(seed=SEEDS)
def test_features_are_their_formulas(seed: int) -> None:
    large, base, experts = draw(seed)
    found = measure(large, base, experts - base)
    assert tuple(FEATURES) == get_args(FeatureName)
    for row in range(len(large)):
        for number, expert in enumerate(experts):
            expected = formulas(large[row], base[row], expert[row])
            for place, name in enumerate(FEATURES):
                assert float(found[place, number, row]) == pytest.approx(expected[name], abs=2e-5), name


def test_an_excluded_entry_is_as_one_that_is_not_there() -> None:
    large, base, experts = draw(1)
    gate, gone = draw_gate(1), [3, 7]
    kept = [token for token in range(large.shape[-1]) if token not in gone]
    without = solve_weights(large[:, kept], base[:, kept], experts[..., kept], rule="gate", gate=gate).weights
    for part in (large, experts[1]):
        part[:, gone[0]] = -torch.inf
    base[:, gone[1]] = -torch.inf
    found = solve_weights(large, base, experts, rule="gate", gate=gate).weights
    torch.testing.assert_close(found, without, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("vocabulary", [1, 2])
def test_the_smallest_vocabularies_have_features(vocabulary: int) -> None:
    found = solve_weights(*draw(0, vocabulary=vocabulary), rule="gate", gate=draw_gate(0))
    assert found.weights.isfinite().all()
    assert found.loss is None


# Weights


@SMALL
@given(seed=SEEDS)
def test_weights_are_the_sigmoid_of_what_the_features_add(seed: int) -> None:
    large, base, experts = draw(seed)
    gate = draw_gate(seed, 0.3)
    found = solve_weights(large, base, experts, rule="gate", gate=gate).weights
    for row in range(len(large)):
        values = [formulas(large[row], base[row], expert[row]) for expert in experts]
        for number, mine in enumerate(values):
            score = gate.bias
            for name in FEATURES:
                mean = sum(one[name] for one in values) / len(values)
                own, relative = gate.features[name], gate.relative[name]
                score += own.weight * (mine[name] - own.mean) / own.scale
                score += relative.weight * (mine[name] - mean - relative.mean) / relative.scale
            expected = gate.largest * float(torch.tensor(score).sigmoid())
            assert float(found[number, row]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 2.5])
def test_without_theta_it_is_a_fixed_weight(weight: float) -> None:
    zero = {name: GateFeature(weight=0.0) for name in FEATURES}
    for gate in (Gate.constant(weight), Gate(largest=2 * weight, features=zero, relative=zero)):
        found = solve_weights(*draw(0), rule="gate", gate=gate)
        assert (found.weights == torch.tensor(weight)).all()
    assert (found.expert == (-1 if weight == 0 else 0)).all()


@SMALL
@given(seed=SEEDS, order=st.permutations(range(3)))
def test_permuted_experts_permute_the_weights(seed: int, order: list[int]) -> None:
    large, base, experts = draw(seed)
    gate = draw_gate(seed)
    found = solve_weights(large, base, experts, rule="gate", gate=gate).weights
    permuted = solve_weights(large, base, experts[order], rule="gate", gate=gate).weights
    torch.testing.assert_close(permuted, found[order], rtol=1e-4, atol=1e-5)


@SMALL
@given(seed=SEEDS)
def test_constants_and_the_order_of_the_vocabulary_change_nothing(seed: int) -> None:
    large, base, experts = draw(seed)
    gate = draw_gate(seed, 0.3)
    found = solve_weights(large, base, experts, rule="gate", gate=gate).weights
    order = torch.randperm(large.shape[-1], generator=torch.Generator().manual_seed(seed))
    moved = solve_weights(large + 5, base - 3, experts + 2, rule="gate", gate=gate).weights
    permuted = solve_weights(large[:, order], base[:, order], experts[..., order], rule="gate", gate=gate).weights
    torch.testing.assert_close(moved, found, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(permuted, found, rtol=1e-4, atol=1e-4)


def test_a_position_alone_has_the_weights_that_it_has_among_others() -> None:
    large, base, experts = draw(2)
    gate = draw_gate(2)
    found = solve_weights(large.view(2, 3, -1), base.view(2, 3, -1), experts.view(3, 2, 3, -1), rule="gate", gate=gate)
    assert found.weights.shape == (3, 2, 3)
    for row in range(6):
        alone = solve_weights(large[row], base[row], experts[:, row], rule="gate", gate=gate).weights
        torch.testing.assert_close(found.weights.view(3, 6)[:, row], alone, rtol=1e-4, atol=1e-5)


def test_a_gate_and_its_rule_come_together() -> None:
    for options in ({"rule": "gate"}, {"rule": "grid", "gate": Gate()}):
        with pytest.raises(ValueError, match="the rule gate goes by a gate"):
            solve_weights(*draw(0), **options)


def test_logits_that_leave_fp32_are_refused() -> None:
    large, base, experts = draw(0)
    base[0, 0], experts[0, 0, 0] = 3e38, -3e38
    with pytest.raises(ValueError, match="fp32"):
        solve_weights(large, base, experts, rule="gate", gate=draw_gate(0))


# As a fusion's rule


def make(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, **options: object) -> FusedLM:
    experts = [loaded["expert_a"], loaded["expert_b"]]
    return FusedLM(loaded["large"], loaded["base"], experts, tokenizer=tokenizer, **options)


@pytest.fixture
def gate_file(tmp_path: Path) -> Path:
    write_gate(tmp_path / "gate.json", draw_gate(5), Fitted(answers={"sums": 60}, ridge=0.1))
    return tmp_path / "gate.json"


def test_drafts_and_batches_change_nothing(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, gate_file: Path
) -> None:
    fusion = make(loaded, tokenizer, rule="gate", gate=str(gate_file))
    alone = fusion.generate(PROMPTS, max_new_tokens=10, batch_size=1)
    assert len({tuple(weights) for row in alone for weights in row.weights}) > 10  # they are not fixed
    for options in ({"batch_size": 8}, {"speculative": True, "draft_tokens": 3}):
        found = fusion.generate(PROMPTS, max_new_tokens=10, **options)
        assert [row.token_ids for row in found] == [row.token_ids for row in alone]
        for mine, theirs in zip(found, alone, strict=True):
            torch.testing.assert_close(torch.tensor(mine.weights), torch.tensor(theirs.weights), rtol=1e-3, atol=1e-3)


def test_scores_are_those_of_its_weights_token_by_token(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    fusion = make(loaded, tokenizer, rule="gate", gate=draw_gate(5))
    texts = fusion.generate(PROMPTS, max_new_tokens=6)
    contexts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    scores = fusion.score(contexts, [row.token_ids for row in texts], batch_size=3)
    assert all(greedy for _, greedy in scores)


def test_adapters_of_one_base_are_weighed_as_models_of_their_own(
    tiny_models: dict[str, Path], loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    base = load_model(tiny_models["base"], device=torch.device("cpu"))
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(0)
    shared = get_peft_model(base, config, "one").eval()
    lone = load_model(tiny_models["base"], device=torch.device("cpu"))
    torch.manual_seed(0)
    merged = get_peft_model(lone, config, "one").merge_and_unload().eval()
    options = {"tokenizer": tokenizer, "rule": "gate", "gate": draw_gate(5)}
    found = FusedLM(loaded["large"], shared, ["one"], **options).generate(PROMPTS, max_new_tokens=6)
    expected = FusedLM(loaded["large"], loaded["base"], [merged], **options).generate(PROMPTS, max_new_tokens=6)
    assert [row.token_ids for row in found] == [row.token_ids for row in expected]


def test_the_harness_takes_the_file(tiny_models: dict[str, Path], gate_file: Path) -> None:
    folders = {name: str(tiny_models[name]) for name in ("large", "base")}
    model = FusedLMEval(**folders, expert=str(tiny_models["expert_a"]), rule="gate", gate=str(gate_file))
    assert model.lm.steering.gate == read_gate(gate_file)


# Files and options


def test_a_file_is_read_as_it_was_written(tmp_path: Path, gate_file: Path) -> None:
    assert read_gate(gate_file) == draw_gate(5)
    shown = read_json(gate_file)
    assert shown["gate"]["features"]["large_entropy"].keys() == {"weight", "mean", "scale"}
    write_gate(tmp_path / "again.json", read_gate(gate_file), Fitted(answers={"sums": 60}, ridge=0.1))
    assert (tmp_path / "again.json").read_bytes() == gate_file.read_bytes()


def test_what_the_workflow_tuned_is_the_file_of_a_gate(tmp_path: Path) -> None:
    """The choice for each task is in it too, and its own gate; one whose choice is that of all changes no option."""
    tuned = GateFile(gate=draw_gate(5), fitted=Fitted(answers={"a": 60, "b": 60}, ridge=0.1)).dump()
    chosen = {"a": {}, "b": {"weights": 0.5, "familiar": 1.0}, "c": {"gate": draw_gate(6).dump()}}
    write_artefact(tmp_path / "tuned.json", tuned | {"chosen": chosen, "candidates": {"a": []}})
    assert read_gate(tmp_path / "tuned.json") == draw_gate(5)
    given = {"rule": "gate", "gate": str(tmp_path / "tuned.json")}
    a, b, c = (Steering(FusionOptions(**given | choice_for(task, chosen)), 1) for task in chosen)
    assert (c.solves, c.gate) == (True, draw_gate(6))
    assert (a.solves, a.gate) == (True, draw_gate(5))
    assert (b.solves, b.fixed, b.options.familiar) == (False, (0.5,), 1.0)


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        ({"*": {}}, None),
        ({"*": {"familiar": 1.0}}, None),
        ({"*": {"weights": 0.0}}, "for all tasks"),
        ({"a": {}, "b": {"weights": 0.5}, "c": {"gate": {"bias": 1.0}}}, "for b, c"),
    ],
)
def test_a_gate_that_the_workflow_did_not_use_everywhere_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, chosen: dict, named: str | None
) -> None:
    """What it said on a task can't be had by naming the file alone."""
    tuned = GateFile(gate=draw_gate(5), fitted=Fitted(answers={"a": 60}, ridge=0.1)).dump()
    write_artefact(tmp_path / "tuned.json", tuned | {"chosen": chosen})
    assert read_gate(tmp_path / "tuned.json") == draw_gate(5)
    assert [named in record.getMessage() for record in caplog.records] == ([True] if named else [])


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"bias": 0.3', '"bias": 0.4', "gate.json is damaged"),
        (None, None, "gate.json does not exist"),
    ],
)
def test_files_that_are_damaged_or_missing_are_refused(
    gate_file: Path, before: str | None, after: str | None, words: str
) -> None:
    text = gate_file.read_text()
    gate_file.unlink()
    if before is not None:
        assert before in text
        gate_file.write_text(text.replace(before, after))
    with pytest.raises(UserError, match=words):
        read_gate(gate_file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "gate.json holds a gate of another version than 1, which is read here; fit it again."),
        ({"version": None}, "holds a gate of another version"),
        ({"gate": None}, "gate.json holds no gate; name a file that the rule gate was fitted into."),
        ({"gate": {"features": {"mood": {"weight": 1.0}}}}, "its key 'gate.features' must be one of large_entropy"),
    ],
)
def test_files_of_something_else_are_refused(gate_file: Path, change: dict, words: str) -> None:
    """As that of what was tuned with another rule."""
    held = read_json(gate_file) | change
    write_artefact(gate_file, {name: value for name, value in held.items() if name != "digest" and value is not None})
    with pytest.raises(UserError) as caught:
        read_gate(gate_file)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "gate"}, "give its file as the option gate"),
        ({"gate": "gate.json"}, "gate is for rule gate alone"),
        ({"rule": "gate", "gate": Gate(), "selection": "pooled"}, "selection is about a search"),
        ({"rule": "gate", "gate": Gate(), "step": 0.2}, "step is about a search"),
        ({"rule": "gate", "gate": {"largest": -1.0}}, "gate must be at least 0"),
        ({"rule": "gate", "gate": {"features": {"mood": {"weight": 1.0}}}}, "mood"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, options: dict, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        make(loaded, tokenizer, **options)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rule": "gate"}, "needs the file of a gate or tune"),
        ({"rule": "gate", "gate": "g.json", "tune": {}}, "and not both"),
        ({"rule": "gate", "gate": "g.json", "weights": 1.0}, "and they are fixed"),
        ({"rule": "gate", "tune": {"trusts": [0.0]}}, "about weights that are searched"),
        ({"tune": {"ridges": [0.0]}}, "about rule gate"),
    ],
)
def test_a_method_fits_a_gate_or_is_given_one(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SteeredMethod(experts=["a"], **given)
    assert SteeredMethod(experts=["a"], rule="gate", tune={}).part(FusionOptions).gate is None


# On the command line


def test_generating_and_scoring_take_the_file(
    tiny_models: dict[str, Path], gate_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--large", tiny_models["large"], "--base", tiny_models["base"], "--expert", tiny_models["expert_a"]]
    gated = [*folders, "--rule", "gate", "--gate", gate_file]
    generate = ["generate", *gated, "--prompt", "Hello", "--max-new-tokens", 4, "--trace", tmp_path / "trace.jsonl"]
    said = commands.run(capsys, *generate)
    lm = FusedLM.from_folders(
        tiny_models["large"], tiny_models["base"], [tiny_models["expert_a"]], rule="gate", gate=gate_file
    )
    (expected,) = lm.generate(["Hello"], max_new_tokens=4)
    assert said == f"{expected.text}\n"
    traced = [row["weights"]["expert_a"] for _, row in read_rows(tmp_path / "trace.jsonl")]
    assert traced == pytest.approx([weight for (weight,) in expected.weights], abs=1e-4)
    assert "rule gate" in commands.refuse(capsys, "generate", *folders, "--gate", gate_file, "--prompt", "Hello")
    assert "option gate" in commands.refuse(capsys, "generate", *folders, "--rule", "gate", "--prompt", "Hello")
    gone = commands.refuse(capsys, "generate", *gated[:-1], tmp_path / "none.json", "--prompt", "Hello")
    assert "none.json does not exist" in gone
    clash = commands.refuse(capsys, "generate", *gated, "--prompt", "Hello", "--output", gate_file)
    assert "--gate" in clash
