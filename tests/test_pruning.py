"""Pruned and healed models of every layout: what is saved is what was cut, and healing sees the model's own logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from logitfusion.config.training import HealRecipe
from logitfusion.errors import UserError
from logitfusion.models.load import load_model, save_model
from logitfusion.models.source import prune
from logitfusion.models.tiny import tiny_tokenizer
from logitfusion.training.batches import TextCollator
from logitfusion.training.heal import HealingTrainer
from logitfusion.training.loop import trainer_arguments

TOKENIZER = tiny_tokenizer()
CPU = torch.device("cpu")
IDS = torch.tensor([TOKENIZER.encode("the quick brown fox")])
USUAL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
NARROW = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
LAYOUTS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4},
    "opt": NARROW | {"ffn_dim": 64, "word_embed_proj_dim": 16},
    "gpt_neox": NARROW | {"intermediate_size": 64},
    "falcon": NARROW,
    "bloom": {"hidden_size": 32, "n_layer": 4, "n_head": 4},
    "phi3": USUAL,
    "mixtral": USUAL | {"num_local_experts": 2},
    "qwen2": USUAL | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "gemma2": USUAL | {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 1.0},
    "gemma3_text": USUAL
    | {"head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "cohere": USUAL,
    "smollm3": USUAL | {"no_rope_layer_interval": 2},
    "qwen2_moe": USUAL
    | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "mlp_only_layers": [1]}
    | {"shared_expert_intermediate_size": 16},
}


def make(folder: Path, kind: str, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=len(TOKENIZER), pad_token_id=0, **LAYOUTS.get(kind, USUAL) | options)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    save_model(model, TOKENIZER, folder)
    return model


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model.eval()(input_ids=IDS, use_cache=False).logits


def layer_list(model: PreTrainedModel) -> tuple[torch.nn.Module, str, torch.nn.ModuleList]:
    """Where the layers are, found by their names rather than by how many they are."""
    for module in model.modules():
        for name in ("layers", "h"):
            if isinstance(found := getattr(module, name, None), torch.nn.ModuleList):
                return module, name, found
    raise AssertionError(type(model))


def cut_in_memory(model: PreTrainedModel, layers: list[int]) -> PreTrainedModel:
    """The oracle: the old layers themselves, called one after the other."""
    parent, name, old = layer_list(model)
    setattr(parent, name, torch.nn.ModuleList([old[layer] for layer in layers]))
    model.config.num_hidden_layers = len(layers)
    if kinds := getattr(model.config, "layer_types", None):
        model.config.layer_types = [kinds[layer] for layer in layers]
    return model


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_pruned_model_of_any_layout_is_its_layers(tmp_path: Path, kind: str) -> None:
    whole = make(tmp_path / "whole", kind)
    same = prune(tmp_path / "whole", [0, 1, 2, 3])
    torch.testing.assert_close(logits(same), logits(whole), rtol=1e-5, atol=1e-6)
    cut = prune(tmp_path / "whole", [3, 1])
    save_model(cut, TOKENIZER, tmp_path / "cut")
    again = load_model(tmp_path / "cut", device=CPU)
    torch.testing.assert_close(logits(again), logits(cut), rtol=1e-5, atol=1e-6)
    expected = logits(cut_in_memory(whole, [3, 1]))
    torch.testing.assert_close(logits(cut), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(cut), logits(same), atol=1e-3)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    rows = [again.generate(IDS, attention_mask=torch.ones_like(IDS), use_cache=use, **options) for use in (True, False)]
    assert torch.equal(*rows)


def test_layers_that_depend_on_their_places_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "gpt2", "gpt2", scale_attn_by_inverse_layer_idx=True)
    types = {"attention_types": [[["global", "local"], 2]], "num_layers": 4, "num_heads": 4, "hidden_size": 32}
    shared = {"vocab_size": len(TOKENIZER), "pad_token_id": 0}
    neo = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neo", **shared | types))
    save_model(neo, TOKENIZER, tmp_path / "neo")
    for name, words in (("gpt2", "GPT2LMHeadModel.*scaling"), ("neo", "GPTNeoForCausalLM.*attention_layers")):
        with pytest.raises(UserError, match=words):
            prune(tmp_path / name, [1, 2])


def test_layers_that_share_keys_are_refused(tmp_path: Path) -> None:
    types = ["sliding_attention", "full_attention"] * 2
    few = {"num_kv_shared_layers": 2, "intermediate_size": [64] * 4, "head_dim": 8, "sliding_window": 4}
    sizes = {"vocab_size_per_layer_input": len(TOKENIZER), "hidden_size_per_layer_input": 8, "layer_types": types}
    make(tmp_path, "gemma3n_text", activation_sparsity_pattern=None, **few | sizes)
    with pytest.raises(UserError, match=r"Gemma3nForCausalLM .* share keys and values"):
        prune(tmp_path, [0, 1])


# ---- healing ---------------------------------------------------------------------------------------------------------


def expected_loss(student: PreTrainedModel, teacher: PreTrainedModel, rows: list[list[int]]) -> float:
    """From each model's own logits at every token, one unpadded row at a time, and its last hidden states."""
    found, target, kl, count = [], [], 0.0, 0
    for row in rows:
        parts = [
            model(input_ids=torch.tensor([row]), output_hidden_states=True, use_cache=False)
            for model in (student, teacher)
        ]
        for kept, part in zip((found, target), parts, strict=True):
            kept.append(part.hidden_states[-1][0])
        ours, theirs = (part.logits[0].float().log_softmax(-1) for part in parts)
        kl += float((theirs.exp() * (theirs - ours)).sum())
        count += len(row)
    found, target = torch.cat(found), torch.cat(target)
    return kl / count + float((found - target).square().mean() / target.var())


@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "gpt_neox", "gpt2", "falcon", "phi3"])
@torch.no_grad()
def test_healing_compares_what_the_models_themselves_say(tmp_path: Path, kind: str) -> None:
    teacher = make(tmp_path / "whole", kind)
    student = prune(tmp_path / "whole", [0, 2])
    rows = [TOKENIZER.encode(text) for text in ("one", "a longer text", "x")]
    recipe = HealRecipe(
        steps=1,
        batch_size=4,
        micro_batch=4,
        learning_rate=1e-3,
        weight_decay=0.0,
        max_tokens=64,
        checkpoint_minutes=60,
        precision="fp32",
        seed=0,
        logit_share=1.0,
    )
    trainer = HealingTrainer(
        model=student,
        teacher=teacher,
        logit_share=1.0,
        args=trainer_arguments(recipe, tmp_path / "checkpoints"),
        train_dataset=[{"input_ids": row} for row in rows],
        data_collator=TextCollator(TOKENIZER.pad_token_id),
    )
    batch = trainer.data_collator([{"input_ids": row} for row in rows])
    expected = expected_loss(student, teacher, rows)
    assert float(trainer.compute_loss(student.eval(), batch)) == pytest.approx(expected, rel=1e-3)
    assert expected > 1e-3
