"""Weights of NaN or infinity are refused when they are read, by file and tensor, in every precision."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.models.finite import find_not_finite
from logitfusion.models.load import load_model, load_tokenizer, save_model
from logitfusion.models.merge import merge_experts
from logitfusion.tensors import is_finite

CPU = torch.device("cpu")
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
NORM = "model.layers.0.input_layernorm.weight"
MATRIX = "model.layers.1.mlp.down_proj.weight"


def damage(folder: Path, to: Path, name: str, value: float, dtype: torch.dtype = torch.float32) -> Path:
    """A copy of a model's folder with one number of one tensor changed, and no record that would tell."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*record.json", ".seen.json"))
    path = next(to.glob("*model.safetensors"))
    tensors = {key: tensor.to(dtype) for key, tensor in load_file(path).items()}
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path, metadata={"format": "pt"})
    return to


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_number_of_a_tensor_is_looked_at(dtype: torch.dtype) -> None:
    tensor = torch.linspace(-3, 3, 77, dtype=dtype).view(7, 11)
    extremes = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype)
    assert is_finite(tensor)
    assert is_finite(extremes)
    for place in range(77):
        for value in (torch.nan, torch.inf, -torch.inf):
            broken = tensor.clone()
            broken.view(-1)[place] = value
            assert not is_finite(broken)
            assert is_finite(broken, excluding=True) == (value == -torch.inf)
    both = torch.tensor([-torch.inf, torch.nan], dtype=dtype)
    assert not is_finite(both, excluding=True)


def test_what_has_no_infinity_is_finite() -> None:
    for tensor in (torch.tensor([7]), torch.tensor([True]), torch.empty(0), torch.empty(2, device="meta")):
        assert is_finite(tensor)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [NORM, MATRIX])
def test_a_model_is_refused_by_file_and_tensor(
    tiny_models: dict[str, Path], tmp_path: Path, name: str, stored: torch.dtype, value: float
) -> None:
    folder = damage(tiny_models["base"], tmp_path / "broken", name, value, stored)
    with pytest.raises(UserError) as caught:
        load_model(folder, device=CPU, dtype="auto")
    assert str(caught.value) == (
        f"The weights in {folder / 'model.safetensors'} hold NaN or infinity (in {name}), so they are damaged;"
        " it needs a sound copy of that file."
    )


def test_weights_that_overflow_in_the_precision_asked_for_are_refused(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = damage(tiny_models["base"], tmp_path / "large", MATRIX, 1e6)
    load_model(folder, device=CPU, dtype="bfloat16")
    with pytest.raises(
        UserError, match=rf"float16 \(in {MATRIX}\), where they overflow; read it as bfloat16 or float32"
    ):
        load_model(folder, device=CPU, dtype="float16")
    with pytest.raises(UserError, match="not finite in float16"):
        save_model(load_model(folder, device=CPU), load_tokenizer(folder), tmp_path, torch.float16)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("role", ["large", "base", "expert_a"])
def test_each_model_of_a_fusion_is_named(tiny_models: dict[str, Path], tmp_path: Path, role: str) -> None:
    folders = {name: tiny_models[name] for name in ("large", "base", "expert_a")}
    folders[role] = damage(folders[role], tmp_path / role, MATRIX, torch.nan)
    with pytest.raises(UserError, match=f"{role}/model.safetensors hold NaN"):
        FusedLM.from_folders(folders["large"], folders["base"], [folders["expert_a"]], device_map="cpu")


def test_an_adapter_is_refused_by_file_and_tensor(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(load_model(tiny_models["base"], device=CPU), config).save_pretrained(tmp_path / "sound")
    name = next(key for key in load_file(tmp_path / "sound" / "adapter_model.safetensors") if "lora_B" in key)
    folder = damage(tmp_path / "sound", tmp_path / "broken", name, torch.inf)
    with pytest.raises(UserError, match=rf"broken/adapter_model.safetensors hold NaN or infinity \(in {name}\)"):
        FusedLM.from_folders(tiny_models["large"], tiny_models["base"], [folder], device_map="cpu")


def test_experts_that_are_merged_are_looked_at(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = damage(tiny_models["expert_a"], tmp_path / "expert", MATRIX, torch.nan)
    with pytest.raises(UserError, match=r"expert/model.safetensors hold NaN"):
        merge_experts(tiny_models["base"], [folder], 1.0)


def test_an_output_bias_may_exclude_tokens(loaded: dict[str, PreTrainedModel]) -> None:
    from transformers import GPTJConfig, GPTJForCausalLM

    model = GPTJForCausalLM(GPTJConfig(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2, rotary_dim=4))
    assert not find_not_finite(model)
    model.lm_head.bias.data[3] = -torch.inf
    assert not find_not_finite(model)
    model.lm_head.bias.data[3] = torch.inf
    assert find_not_finite(model) == ["lm_head.bias"]
    model.lm_head.bias.data[3] = 0
    model.transformer.ln_f.bias.data[3] = -torch.inf
    assert find_not_finite(model) == ["transformer.ln_f.bias"]


def test_tied_weights_are_named_once(loaded: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    import copy

    model = copy.deepcopy(loaded["base"])
    model.get_input_embeddings().weight.data[0, 0] = torch.nan
    assert len(find_not_finite(model)) == 1
