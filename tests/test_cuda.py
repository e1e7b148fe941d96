"""On a GPU as on the CPU: solver, gate, decoding, losses and a training; skipped where torch sees none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from architectures import TOKENIZER, build
from peft import LoraConfig, get_peft_model
from test_fusion_lm import PROMPTS
from test_gate import draw_gate
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.fusion_options import SelectionName
from logitfusion.config.training import LoRA, Recipe
from logitfusion.distill import gld_loss, uld_loss
from logitfusion.fusion import FusedLM, fuse_logits, solve_weights
from logitfusion.fusion.graphs import StepGraphs
from logitfusion.models.load import load_model
from logitfusion.training.finetune import finetune

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROWS, VOCABULARY = 32, 8_000
SELECTIONS = get_args(SelectionName)
MODELS = ("large", "base", "expert_a", "expert_b")
STEERINGS: dict[str, dict[str, Any]] = {
    "proxy": {"weights": 1.0},
    "grid": {"selection": "one_hot"},
    "judged": {},
    "newton": {"rule": "newton"},
    "gate": {"rule": "gate", "gate": draw_gate(3)},
}


@pytest.fixture(scope="module")
def logits() -> tuple[Tensor, Tensor, Tensor]:
    """Of a large model, a base and two experts, with entries that are left out."""
    generator = torch.Generator().manual_seed(0)
    large, base = (3 * torch.randn(ROWS, VOCABULARY, generator=generator) for _ in range(2))
    experts = base + 0.7 * torch.randn(2, ROWS, VOCABULARY, generator=generator)
    for part in (large, base, *experts):
        part[:, -9:] = -torch.inf
    return large, base, experts


# Solver


@pytest.mark.parametrize("rule", ["grid", "newton"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_search_is_as_good(logits: tuple[Tensor, Tensor, Tensor], rule: str, selection: str) -> None:
    """By its loss: where two weights are as good to rounding, either may be taken."""
    expected = solve_weights(*logits, rule=rule, selection=selection)
    found = solve_weights(*(part.to(CUDA) for part in logits), rule=rule, selection=selection)
    assert {part.device.type for part in (found.weights, found.loss, found.expert)} == {"cuda"}
    torch.testing.assert_close(found.loss.cpu(), expected.loss, rtol=1e-3, atol=1e-5)
    same = (found.weights.cpu() - expected.weights).abs().amax(0) < 1e-3
    assert same.float().mean() > 0.9


def test_a_gate_weighs_alike(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    gate = draw_gate(1, 0.3)
    expected = solve_weights(*logits, rule="gate", gate=gate)
    found = solve_weights(*(part.to(CUDA) for part in logits), rule="gate", gate=gate)
    torch.testing.assert_close(found.weights.cpu(), expected.weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_of_every_precision_are_fused_in_fp32(logits: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> None:
    halves = [part.to(dtype) for part in logits]
    weights = torch.full((2, ROWS), 0.7)
    expected = fuse_logits(*halves, weights)
    found = fuse_logits(*(part.to(CUDA) for part in halves), weights.to(CUDA))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected)


# Decoding

Make = Callable[..., FusedLM]


@pytest.fixture(scope="module")
def make(tiny_models: dict[str, Path], tokenizer: PreTrainedTokenizerBase) -> Make:
    """A fusion of the tiny models on a device, in some precision."""
    kept: dict[tuple[torch.device, torch.dtype], list[PreTrainedModel]] = {}

    def make(device: torch.device, dtype: torch.dtype = torch.float32, **options: Any) -> FusedLM:
        if (device, dtype) not in kept:
            kept[device, dtype] = [load_model(tiny_models[name], device=device, dtype=dtype) for name in MODELS]
        large, base, *experts = kept[device, dtype]
        return FusedLM(large, base, experts, tokenizer=tokenizer, **options)

    return make


@pytest.mark.parametrize("options", STEERINGS.values(), ids=STEERINGS)
def test_texts_and_likelihoods_are_the_same(make: Make, options: dict[str, Any]) -> None:
    here, there = (make(device, **options) for device in (CPU, CUDA))
    expected, *found = (
        [row.token_ids for row in fusion.generate(PROMPTS, max_new_tokens=10, speculative=speculative)]
        for fusion, speculative in ((here, False), (there, False), (there, True))
    )
    assert found == [expected, expected]
    scores = [fusion.score(PROMPTS, [" and more"] * len(PROMPTS)) for fusion in (here, there)]
    assert [chance for chance, _ in scores[1]] == pytest.approx([chance for chance, _ in scores[0]], abs=1e-3)


def test_adapters_steer_as_they_do_on_the_cpu(
    tiny_models: dict[str, Path], loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = []
    settings = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    for device in (CPU, CUDA):
        torch.manual_seed(0)
        base = get_peft_model(load_model(tiny_models["base"], device=CPU), settings, "one").eval().to(device)
        large = loaded["large"] if device == CPU else load_model(tiny_models["large"], device=device)
        fusion = FusedLM(large, base, ["one"], tokenizer=tokenizer)
        texts.append([row.token_ids for row in fusion.generate(PROMPTS, max_new_tokens=6)])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_decodes_near_fp32(make: Make, dtype: torch.dtype) -> None:
    whole, half = make(CUDA), make(CUDA, dtype)
    scores = [fusion.score(PROMPTS, [" and more"] * len(PROMPTS)) for fusion in (whole, half)]
    assert [chance for chance, _ in scores[1]] == pytest.approx([chance for chance, _ in scores[0]], rel=0.02)
    made = half.generate(PROMPTS, max_new_tokens=6, temperature=1.0, seed=0, speculative=True)
    assert all(row.token_ids for row in made)


# Steps as CUDA graphs


@pytest.mark.parametrize("options", [{"weights": 1.0}, {"selection": "one_hot"}, {}], ids=str)
def test_graphs_replay_the_same_tokens(make: Make, options: dict[str, Any]) -> None:
    graphs = StepGraphs(patience=0)
    without, fusion = (make(CUDA, graphs=one, **options) for one in (StepGraphs(math.inf), graphs))
    expected = [row.token_ids for row in without.generate(PROMPTS, max_new_tokens=20)]
    assert [row.token_ids for row in fusion.generate(PROMPTS, max_new_tokens=20)] == expected
    assert len(graphs.steps) == 4
    assert all(step.graph is not None for step in graphs.steps.values())


def test_batches_share_a_capture(make: Make) -> None:
    graphs = StepGraphs(patience=0)
    without, fusion = (make(CUDA, graphs=one) for one in (StepGraphs(math.inf), graphs))
    fusion.generate(PROMPTS, max_new_tokens=20)
    held = dict(graphs.steps)
    for prompts in (PROMPTS[:2], PROMPTS[::-1]):
        expected = [row.token_ids for row in without.generate(prompts, max_new_tokens=12)]
        assert [row.token_ids for row in fusion.generate(prompts, max_new_tokens=12)] == expected
    assert graphs.steps == held


def test_a_forward_that_waits_for_the_gpu_goes_without(
    tiny_models: dict[str, Path], tokenizer: PreTrainedTokenizerBase
) -> None:
    model, graphs = load_model(tiny_models["large"], device=CUDA), StepGraphs(patience=0)
    without, fusion = (FusedLM(model, tokenizer=tokenizer, graphs=one) for one in (StepGraphs(math.inf), graphs))
    expected = [row.token_ids for row in without.generate(PROMPTS, max_new_tokens=8)]
    model.register_forward_hook(lambda module, given, output: print(output.logits.sum().item()))
    assert [row.token_ids for row in fusion.generate(PROMPTS, max_new_tokens=8)] == expected
    assert "synchronizing" in next(iter(graphs.obstacles.values()))


@pytest.mark.parametrize("family", ["gemma3_text", "gpt2", "mixtral", "qwen2", "bloom"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_families_decode_the_same_by_graphs(family: str, dtype: torch.dtype) -> None:
    """A mixture of experts may fall back, if its forward waits for the GPU."""
    model, graphs = build(family, 0).to(CUDA, dtype), StepGraphs(patience=0)
    expected, found = (
        FusedLM(model, tokenizer=TOKENIZER, graphs=one).generate(PROMPTS, max_new_tokens=12)
        for one in (StepGraphs(math.inf), graphs)
    )
    print(family, dtype, graphs.obstacles)
    assert graphs.steps or family == "mixtral"
    if dtype == torch.float32:
        assert [row.token_ids for row in found] == [row.token_ids for row in expected]


def test_adapters_are_captured(tiny_models: dict[str, Path], tokenizer: PreTrainedTokenizerBase) -> None:
    settings = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(0)
    base = get_peft_model(load_model(tiny_models["base"], device=CPU), settings, "one").eval().to(CUDA)
    large, graphs = load_model(tiny_models["large"], device=CUDA), StepGraphs(patience=0)
    expected, found = (
        FusedLM(large, base, ["one"], tokenizer=tokenizer, graphs=one).generate(PROMPTS, max_new_tokens=12)
        for one in (StepGraphs(math.inf), graphs)
    )
    assert [row.token_ids for row in found] == [row.token_ids for row in expected]
    assert list(graphs.obstacles.values()) == [None, None]


# Losses and training


@pytest.mark.parametrize("loss", [gld_loss, uld_loss])
def test_a_loss_and_its_gradient_are_the_same(loss: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = 3 * torch.randn(2, 7, 500, generator=generator), 3 * torch.randn(2, 9, 700, generator=generator)
    found = []
    for device in (CPU, CUDA):
        student = drawn[0].to(device).requires_grad_()
        value = loss(student, drawn[1].to(device), k=20)
        (gradient,) = torch.autograd.grad(value, student)
        found.append((value.detach().cpu(), gradient.cpu()))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("lora", [None, LoRA(rank=4, alpha=8)], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_lowers_its_loss(
    tiny_models: dict[str, Path], tokenizer: PreTrainedTokenizerBase, tmp_path: Path, precision: str, lora: LoRA | None
) -> None:
    model = load_model(tiny_models["base"], device=CUDA)
    examples = [{"prompt": "2 + 2 =" * length, "completion": " 4"} for length in (1, 30)]  # in padded rows
    recipe = Recipe(steps=20, batch_size=4, micro_batch=2, learning_rate=1e-2, precision=precision, seed=0)

    trained, curve = finetune(
        model, tokenizer, examples * 4, recipe, lora=lora, checkpoints=tmp_path, fingerprint="", name="one"
    )
    assert trained.device.type == "cuda"
    losses = [row["loss"] for row in curve if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]
