"""The plan's numbers against what tiny models measure: autograd's bytes, weights, optimizer, caches, logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from logitfusion.config.training import LoRA
from logitfusion.models.adapters import add_adapters
from logitfusion.plan.decoding import Member, Texts, decode_cost
from logitfusion.plan.measure import adapted_matrices, measure, read_config
from logitfusion.plan.saved import Forward, count_saved
from logitfusion.plan.size import ITEM
from logitfusion.plan.training import Activations, Plan, train_cost

TOKENS = 96
_SHARED = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": _SHARED | {"model_type": "llama"},
    "phi3": _SHARED | {"model_type": "phi3"},
    "qwen2": _SHARED | {"model_type": "qwen2", "tie_word_embeddings": True},
    "mistral": _SHARED | {"model_type": "mistral", "head_dim": 64, "sliding_window": None},
    "gemma3": _SHARED | {"model_type": "gemma3_text", "head_dim": 32, "sliding_window": 32},
}
FORWARDS = {
    "full": Forward(),
    "fp32": Forward(autocast=False),
    "lora": Forward(dtype="bfloat16", lora=LoRA(rank=8)),
    "eager": Forward(attention="eager"),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> PreTrainedModel:
    config = read_config(KINDS[kind], "The model")
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


def measure_saved(model: PreTrainedModel, rows: int, tokens: int, *, autocast: bool) -> int:
    """Bytes of real storages that autograd keeps, but for the parameters' own."""
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept.setdefault(place, tensor)
        return tensor

    ids = torch.randint(3, 512, (rows, tokens))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0  # a batch without padding takes a kernel that keeps less
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(
    ("kind", "how"),
    [*((kind, "full") for kind in KINDS), ("llama", "lora"), ("gemma3", "lora"), ("llama", "fp32"), ("phi3", "eager")],
)
def test_autograd_keeps_what_is_planned(kind: str, how: str) -> None:
    forward = FORWARDS[how]
    model = make(kind, getattr(torch, forward.dtype), forward.attention)
    model = add_adapters(model, forward.lora, 0).train()
    found = count_saved(KINDS[kind], forward, TOKENS)
    for rows, tokens in ((1, TOKENS), (3, TOKENS), (2, TOKENS * 3 // 4)):
        measured = measure_saved(model, rows, tokens, autocast=forward.autocast)
        assert found.at(rows, tokens) == pytest.approx(measured, rel=0.1), (rows, tokens)


@kinds
def test_a_checkpointed_training_keeps_each_layers_input(kind: str) -> None:
    model, facts = make(kind).train(), KINDS[kind]
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    measured = measure_saved(model, 2, TOKENS, autocast=True)
    size, kept = measure(read_config(facts, "The model")), count_saved(facts, Forward(), TOKENS)
    plan = Plan(rows=2, tokens=TOKENS, sequences=2, checkpointed=True)
    inputs = train_cost(size, kept, plan).gpu["activations"] - (kept.at(2, TOKENS) - kept.fixed) / size.layers
    assert inputs == pytest.approx(2 * TOKENS * size.hidden * size.layers * 4)
    # Masks, rotations and what the last norm and the output layer keep are not of a layer.
    assert inputs <= measured <= inputs + 2 * (kept.at(2, TOKENS) - kept.fixed) / size.layers + kept.fixed


@kinds
def test_weights_and_adapters_are_those_of_the_model(kind: str) -> None:
    size, model = measure(read_config(KINDS[kind], "The model")), make(kind)
    assert size.parameters == sum(value.numel() for value in model.parameters())
    assert size.weights("float32") == sum(value.nbytes for value in model.parameters())
    assert size.weights("bfloat16") == sum(value.nbytes for value in make(kind, torch.bfloat16).parameters())
    assert size.linear == sum(rows * columns for rows, columns in adapted_matrices(model))
    adapted = add_adapters(model, LoRA(rank=8), 0)
    assert size.adapters(8) == sum(value.numel() for value in adapted.parameters() if value.requires_grad)


@kinds
@pytest.mark.parametrize("rank", [0, 8])
def test_a_step_holds_what_is_planned(kind: str, rank: int) -> None:
    size = measure(read_config(KINDS[kind], "The model"))
    model = add_adapters(make(kind), LoRA(rank=rank) if rank else None, 0)
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(input_ids=torch.randint(3, 512, (2, 8))).logits.sum().backward()
    optimizer.step()
    planned = train_cost(size, Activations(0, 0, 0), Plan(rows=1, tokens=8, sequences=8, rank=rank)).gpu
    state = [value for entry in optimizer.state.values() for value in entry.values() if value.numel() > 1]
    assert planned["weights"] == pytest.approx(sum(value.nbytes for value in model.parameters()), rel=0.1)
    assert planned["gradients"] == pytest.approx(sum(value.grad.nbytes for value in trained), rel=0.1)
    assert planned["optimizer"] == pytest.approx(sum(value.nbytes for value in state), rel=0.1)


@kinds
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_caches_hold_what_is_planned(kind: str, dtype: str) -> None:
    size = measure(read_config(KINDS[kind], "The model"))
    model = make(kind, getattr(torch, dtype)).eval()
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        for tokens in (24, *[1] * 24):  # longer than Gemma's windows
            model(input_ids=torch.randint(3, 512, (3, tokens)), past_key_values=cache, use_cache=True)
    measured = sum(state.nbytes for layer in cache.layers for state in (layer.keys, layer.values))
    assert size.cached(3, 48, dtype) == pytest.approx(measured, rel=0.1)


def test_adapters_share_their_bases_weights_but_not_its_cache() -> None:
    size = measure(read_config(KINDS["llama"], "The model"))
    shared = Member(size, "float32", ranks=(8, 8), passes=3)
    assert shared.weights == size.weights("float32") + 2 * size.adapters(8) * ITEM["float32"]
    assert shared.cache(4, 16) == 3 * Member(size, "float32").cache(4, 16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@kinds
def test_the_allocator_says_what_is_planned(kind: str) -> None:
    facts = KINDS[kind] | {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16}
    size = measure(read_config(facts, "The model"))
    torch.cuda.reset_peak_memory_stats()
    model = AutoModelForCausalLM.from_config(read_config(facts, "The model"), dtype=torch.float32).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(2):
        ids = torch.randint(3, 512, (8, 256), device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    kept = count_saved(facts, Forward(), 256)
    cost = train_cost(size, Activations(kept.fixed, kept.token, kept.pair), Plan(rows=8, tokens=256, sequences=16))
    assert sum(cost.gpu.values()) == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)


def test_logits_of_a_step_are_counted() -> None:
    """Of every member in fp32, twice (as they come, and joined), of large and fused, and the fused ones' own copies."""
    size = measure(read_config(KINDS["llama"], "The model"))
    member = Member(size, "float32")
    cost = decode_cost([member] * 3, Texts(8, 16, 4), 4)
    one = 4 * size.vocabulary * 4
    assert 2 * 3 * one <= cost.gpu["logits"] <= 4 * 3 * one
