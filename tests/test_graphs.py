"""Steps in caches of a fixed length against decoding without them; a graph replays them, see ``test_cuda.py``."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import TOKENIZER, build
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from logitfusion.fusion import FusedLM, Generation
from logitfusion.fusion.caches import Batch, CachedModel
from logitfusion.fusion.graphs import StepGraphs, SteppedModel
from logitfusion.models.padding import left_pad
from logitfusion.models.static_shapes import static_shape

PROMPTS = ("hello there, you", "abc", "2 + 2 = ")  # of unequal lengths: rows are padded
LENGTH = "a cache of a fixed length changes its logits"
STATE = "it keeps something else than keys and values"


def eager(patience: float = 0) -> StepGraphs:
    return StepGraphs(patience, capture=False)


def decode(lm: FusedLM, prompts: tuple[str, ...] = PROMPTS, **options: Any) -> list[Generation]:
    return lm.generate(prompts, **{"max_new_tokens": 8} | options)


def same(found: list[Generation], expected: list[Generation]) -> bool:
    """Weights but for rounding."""
    for one, other in zip(found, expected, strict=True):
        assert one.weights == [pytest.approx(weights, abs=1e-5) for weights in other.weights]
        assert replace(one, weights=[]) == replace(other, weights=[])
    return True


def both(models: list[PreTrainedModel], graphs: StepGraphs, **options: Any) -> tuple[FusedLM, FusedLM]:
    """A fusion without and with graphs, or the large model alone."""
    large, *small = models
    given = (small[0], small[1:]) if small else ()
    return tuple(FusedLM(large, *given, tokenizer=TOKENIZER, graphs=one, **options) for one in (None, graphs))


@pytest.fixture(scope="module")
def llamas() -> list[PreTrainedModel]:
    return [build("llama", seed) for seed in range(4)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "gpt2", "mixtral", "bloom"])
def test_texts_are_the_same(family: str) -> None:
    """Windows are 4 tokens long here, so most of a text is outside of them."""
    graphs = eager()
    without, with_graphs = both([build(family, 0)], graphs)
    assert same(decode(with_graphs), decode(without))
    assert list(graphs.obstacles.values()) == [None]


@pytest.mark.parametrize(("family", "reason"), [("gpt_neo", LENGTH), ("mamba", STATE), ("bart", STATE)])
def test_what_cannot_go_on_so_decodes_as_before(family: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    graphs = eager()
    without, with_graphs = both([build(family, 0)], graphs)
    with caplog.at_level(logging.INFO, "logitfusion"):
        assert same(decode(with_graphs), decode(without))
    assert not graphs.steps
    said = [record.message for record in caplog.records if "graphs" in record.message]
    assert said == [f"the large model decodes without CUDA graphs: {reason}"]


@pytest.mark.parametrize(
    "options", [{}, {"weights": 1.0}, {"selection": "one_hot"}, {"familiar": 1.0}], ids=lambda options: str(options)
)
def test_a_fusion_steers_the_same(llamas: list[PreTrainedModel], options: dict[str, Any]) -> None:
    without, with_graphs = both(llamas, eager(), **options)
    assert same(decode(with_graphs), decode(without))


def test_a_model_at_two_places_has_a_cache_at_each(llamas: list[PreTrainedModel]) -> None:
    large, expert = llamas[:2]
    without, with_graphs = both([large, large, expert, expert], eager(), weights=0.5)
    assert same(decode(with_graphs), decode(without))


def test_a_model_that_cannot_leaves_the_others_to_it(llamas: list[PreTrainedModel]) -> None:
    graphs = eager()
    without, with_graphs = both([build("mamba", 0), *llamas[:2]], graphs)
    assert same(decode(with_graphs), decode(without))
    assert list(graphs.obstacles.values()) == [STATE, None, None]


def test_adapters_that_share_their_base(llamas: list[PreTrainedModel]) -> None:
    settings = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(0)
    base = get_peft_model(build("llama", 1), settings, "one").eval()
    base.add_adapter("two", settings)
    graphs = eager()
    without, with_graphs = (
        FusedLM(llamas[0], base, ["one", "two"], tokenizer=TOKENIZER, graphs=one) for one in (None, graphs)
    )
    assert same(decode(with_graphs), decode(without))
    assert len(graphs.steps) == 2


def test_rows_that_end_leave_the_others(llamas: list[PreTrainedModel]) -> None:
    lengths = [2, 8, 5]
    without, with_graphs = both(llamas[:1], eager())
    stop = {"stopping_criterion": lambda ids: len(ids) in lengths and hash(tuple(ids)) % 2 == 0}
    assert same(decode(with_graphs, **stop), decode(without, **stop))
    drawn = {"temperature": 1.0, "seed": 3}
    assert same(decode(with_graphs, **drawn), decode(without, **drawn))


def test_batches_of_like_shapes_share_a_step(llamas: list[PreTrainedModel]) -> None:
    graphs = eager()
    _, fusion = both(llamas[:1], graphs)
    decode(fusion)
    (first,) = graphs.steps.values()
    decode(fusion, PROMPTS[:2], max_new_tokens=20)  # fewer rows, and slots enough
    assert list(graphs.steps.values()) == [first]
    decode(fusion, PROMPTS, max_new_tokens=120)  # more slots
    (second,) = graphs.steps.values()
    assert second is not first
    assert (second.rows, second.length) == (3, 192)
    decode(fusion, PROMPTS[:1])  # of which it would waste most
    assert list(graphs.steps.values()) != [second]


def test_nothing_is_captured_before_it_has_paid(llamas: list[PreTrainedModel]) -> None:
    graphs = eager(patience=8)
    _, fusion = both(llamas[:1], graphs)
    decode(fusion, max_new_tokens=6)  # five steps behind the prompts
    assert not graphs.steps
    decode(fusion, max_new_tokens=6)
    assert graphs.steps


def test_scoring_gives_the_memory_back(llamas: list[PreTrainedModel]) -> None:
    graphs = eager()
    _, fusion = both(llamas[:1], graphs)
    decode(fusion)
    fusion.score(["a"], [" b"])
    assert not graphs.steps


def test_a_model_that_was_moved_is_captured_anew() -> None:
    graphs, model = eager(), build("llama", 0)
    _, fusion = both([model], graphs)
    decode(fusion)
    (first,) = graphs.steps.values()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone().neg())
    without, _ = both([model], graphs)
    assert same(decode(fusion), decode(without))
    assert list(graphs.steps.values()) != [first]


def test_graphs_give_way_where_the_memory_is_used_up(llamas: list[PreTrainedModel]) -> None:
    graphs = eager()
    without, fusion = both(llamas[:1], graphs)
    decode(fusion)
    tried: list[bool] = []

    def compute(rows: list[int]) -> int:
        tried.append(bool(graphs.steps))
        if graphs.steps:
            raise RuntimeError("CUDA out of memory.")
        return len(rows)

    assert graphs.give_way(compute, [1, 2]) == 2
    assert tried == [True, False]
    assert same(decode(fusion), decode(without))
    assert not graphs.steps


@torch.inference_mode()
def test_a_step_reads_what_the_model_reads(llamas: list[PreTrainedModel]) -> None:
    """Logits, token by token, with more rows than the batch has and rows that left."""
    model, graphs = llamas[0], eager()
    ids, mask, _ = left_pad([[5, 6, 7, 8], [9], [10, 11]], 0)
    batches = [Batch([CachedModel(model)], 3) for _ in range(2)]
    for batch in batches:
        batch.read(ids, mask)
    newest = torch.tensor([[3], [4], [12]])
    graphs.follow(batches[1], 5, newest, 9)
    assert isinstance(batches[1].models[0], SteppedModel)
    for _ in range(8):
        ones = torch.ones_like(newest)
        (expected,), (found,) = (batch.read(newest, ones) for batch in batches)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        newest = expected[0, :, 0].argmax(-1, keepdim=True)
        if len(newest) > 1:
            for batch in batches:
                batch.select_rows(torch.arange(1, len(newest)))
            newest = newest[1:]


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_shapes_are_rounded_up_to_few(rows: int, length: int) -> None:
    shape = static_shape(rows, length)
    assert rows <= shape[0] <= 1.25 * rows
    assert length <= shape[1] <= max(64, 1.25 * (length + 63))
    assert static_shape(*shape) == shape
    assert all(size.bit_count() <= 3 for size in shape)
