"""Every kind of adapter is computed as peft computes it, or refused by name."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.models.adapter_kinds import IN_PLACE, REFUSED, is_plain
from logitfusion.models.adapters import load_adapted
from logitfusion.models.load import load_model, save_model
from logitfusion.models.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CPU = torch.device("cpu")
IDS = torch.tensor([TOKENIZER.encode("The quick brown fox")])
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 32, "intermediate_size": 64} | HEADS,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "mixtral": {"hidden_size": 32, "intermediate_size": 32, "num_local_experts": 4} | HEADS,
    "jamba": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_experts": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_dt_rank": 4,
    }
    | HEADS,
    "opt": {"hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 4, "word_embed_proj_dim": 32},
    "mamba": {"hidden_size": 32, "state_size": 8},
    "phi3": {  # whose keys are made anew behind the text that the tests read
        "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 128,
        "original_max_position_embeddings": IDS.shape[1],
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4,
        },
    } | HEADS,
}  # fmt: skip
NEEDS: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 4},
    "FOURIERFT": {"n_frequency": 10},
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 4, "r": 0},
    "PVERA": {"r": 4},
    "ROAD": {"group_size": 4},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"token_indices": IDS[0, 2:4].tolist(), "target_modules": None},
    "VBLORA": {"num_vectors": 8, "vector_length": 4, "topk": 2},
    "WAVEFT": {"n_frequency": 10},
}


def make(folder: Path, kind: str = "llama", seed: int = 0, **options: Any) -> Path:
    """A random model with spread logits."""
    shared = {"vocab_size": len(TOKENIZER), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if kind != "gpt2":
        shared["num_hidden_layers"] = 2
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shared | SIZES[kind] | options))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    save_model(model, TOKENIZER, folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("kinds")
    folders = {kind: make(root / kind, kind, 1) for kind in SIZES}
    tied = make(root / "tied", "llama", 1, tie_word_embeddings=True)
    return {**folders, "tied": tied, "large": make(root / "large", "llama", 0, intermediate_size=48)}


@cache
def load_once(folder: Path) -> PreTrainedModel:
    return load_model(folder, device=CPU)


def train(base: Path, config: PeftConfig, folder: Path, seed: int = 3, tokens: int | None = None) -> Path:
    """An adapter with random weights, as peft saves it, of a base that may have got more tokens first."""
    model = copy.deepcopy(load_once(base))
    if tokens is not None:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    adapted = get_peft_model(model, config)
    torch.manual_seed(seed)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
    adapted.save_pretrained(folder)
    return folder


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options)


def alone(base: Path, adapter: Path, tokens: int | None = None) -> PreTrainedModel:
    """The oracle: peft's own."""
    model = copy.deepcopy(load_once(base))
    if tokens is not None:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    return PeftModel.from_pretrained(model, adapter).eval()


@torch.no_grad()
def logits(model: PreTrainedModel, entries: int = len(TOKENIZER)) -> Tensor:
    return model(input_ids=IDS).logits[0, :, :entries]


def assert_fuses(
    models: dict[str, Path], base: str, experts: Sequence[Path], oracles: Sequence[PreTrainedModel]
) -> FusedLM:
    """The fused score and the fused continuation are those of peft's models, one plain forward each."""
    weights = [1.0, -0.5, 0.7][: len(experts)]
    lm = FusedLM.from_folders(models["large"], models[base], experts, weights=weights)
    large, small = load_once(models["large"]), load_once(models[base])

    @torch.no_grad()
    def fuse(ids: Tensor) -> Tensor:
        parts = [model(input_ids=ids).logits[0, :, : len(TOKENIZER)] for model in (large, small, *oracles)]
        return parts[0] + sum(weight * (part - parts[1]) for weight, part in zip(weights, parts[2:], strict=True))

    expected = fuse(IDS).log_softmax(-1)[14:-1].gather(1, IDS[0, 15:, None]).sum()
    assert lm.score(["The quick brown"], [" fox"])[0][0] == pytest.approx(float(expected), abs=1e-3)
    ids = IDS
    for _ in range(2):
        ids = torch.cat([ids, fuse(ids)[-1:].argmax(-1, keepdim=True)], dim=-1)
    found = lm.generate([IDS[0].tolist()], max_new_tokens=2)[0].token_ids
    assert found == ids[0, IDS.shape[1] :].tolist()[: len(found)]
    assert len(found) == 2 or found[-1] == TOKENIZER.eos_token_id
    return lm


# ---- every kind that peft has --------------------------------------------------------------------------------------


def test_every_kind_of_peft_is_computed_or_refused_by_name() -> None:
    assert set(IN_PLACE).isdisjoint(REFUSED)
    assert IN_PLACE | REFUSED.keys() == {kind.value for kind in PeftType}


@pytest.mark.parametrize("kind", sorted(IN_PLACE))
def test_a_kind_is_computed_as_peft_does(models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    options = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]} | NEEDS.get(kind, {})
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
    if "target_modules" not in config.__dataclass_fields__ or options["target_modules"] is None:
        del options["target_modules"]
    adapter = train(models["llama"], config(**options), tmp_path / "adapter")
    base, found = load_once(models["llama"]), load_adapted(models["llama"], adapter).to(CPU)
    torch.testing.assert_close(logits(found), logits(alone(models["llama"], adapter)), rtol=1e-4, atol=1e-4)
    assert (logits(found) - logits(base)).abs().max() > 1e-2
    assert is_plain(adapter) == (kind == "LORA")


def fake(folder: Path, **config: Any) -> Path:
    """An adapter folder of which nothing but the config can be right."""
    folder.mkdir()
    save_file({"base_model.model.x.lora_A.weight": torch.ones(4, 4)}, folder / "adapter_model.safetensors")
    given = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"]} | config
    (folder / "adapter_config.json").write_text(json.dumps(given))
    return folder


def refused(models: dict[str, Path], adapter: Path, base: str = "llama") -> str:
    with pytest.raises(UserError) as caught:
        FusedLM.from_folders(models["large"], models[base], [adapter])
    sentence = str(caught.value)
    assert str(adapter) in sentence
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_a_kind_that_is_not_computed_is_refused_by_name(models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    sentence = refused(models, fake(tmp_path / "adapter", peft_type=kind))
    assert kind in sentence
    assert REFUSED[kind] in sentence


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "NEWEST"}, "NEWEST"),
        ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
        ({"alora_invocation_tokens": [5, 6]}, "aLoRA"),
        ({"use_what_is_new": True}, "use_what_is_new"),
        ({"init_lora_weights": "pissa_niter_4"}, "random decomposition"),
    ],
)
def test_an_option_that_can_not_be_followed_is_refused(
    models: dict[str, Path], tmp_path: Path, config: dict, words: str
) -> None:
    assert words in refused(models, fake(tmp_path / "adapter", **config))


# ---- LoRA's own options --------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"lora_dropout": 0.3, "use_rslora": True},
    "pattern": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 7}},
    "layers": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "lora_bias": {"target_modules": ["q_proj"], "lora_bias": True},
    "dora": {"use_dora": True},
    "bias": {"bias": "all", "target_modules": ["q_proj"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "tying": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved one": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "norm": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": IDS[0, 2:4].tolist()},
    "pissa": {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
    "replication": {"target_modules": ["q_proj"], "layer_replication": [[0, 2], [1, 2]]},
}
SHARING = {"plain", "pattern", "layers", "lora_bias"}


@pytest.mark.parametrize("name", OPTIONS)
def test_lora_with_any_option_fuses_as_peft_computes_it(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    """On tied embeddings, where a merged adapter of one end would leak into the other."""
    adapters = [train(models["tied"], lora(**OPTIONS[name]), tmp_path / str(seed), seed) for seed in (3, 4)]
    oracles = [alone(models["tied"], adapter) for adapter in adapters]
    shared = assert_fuses(models, "tied", adapters, oracles)
    assert all(isinstance(expert, str) for expert in shared.experts) == (name in SHARING)
    if name in SHARING | {"embedding"}:
        assert_fuses(models, "tied", [adapters[0], models["llama"]], [oracles[0], load_once(models["llama"])])


@pytest.mark.parametrize(
    ("kind", "options", "shared"),
    [
        ("gpt2", {"target_modules": ["c_attn", "c_proj", "wte"], "fan_in_fan_out": True}, True),
        ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True, "use_dora": True}, False),
        ("jamba", {}, False),  # it reads the weights of a layer past its adapter
        ("opt", {}, None),  # its layers may see the tokens of all rows in one list
        ("mamba", {"target_modules": ["in_proj"]}, False),
        (
            "mamba",
            {"target_modules": ["dt_proj"], "lora_alpha": 1024},
            False,
        ),  # whose weights the model reads past peft
        ("phi3", {}, False),
        ("mixtral", {"target_modules": ["q_proj", "gate"]}, None),
        ("mixtral", {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}, False),
    ],
)
def test_lora_on_another_layout_fuses_as_peft_computes_it(
    models: dict[str, Path], tmp_path: Path, kind: str, options: dict, shared: bool | None
) -> None:
    adapters = [train(models[kind], lora(**options), tmp_path / str(seed), seed) for seed in (3, 4)]
    lm = assert_fuses(models, kind, adapters, [alone(models[kind], adapter) for adapter in adapters])
    assert shared is None or all(isinstance(expert, str) for expert in lm.experts) == shared


def test_plain_lora_beside_another_kind_is_a_model_of_its_own(models: dict[str, Path], tmp_path: Path) -> None:
    adapters = [
        train(models["llama"], lora(), tmp_path / "a"),
        train(models["llama"], lora(use_dora=True), tmp_path / "b"),
    ]
    assert_fuses(models, "llama", adapters, [alone(models["llama"], adapter) for adapter in adapters])


# ---- more tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "options"),
    [
        ("llama", {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("tied", {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("tied", {"modules_to_save": ["embed_tokens"]}),
        ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
        ("tied", {"target_modules": ["q_proj", "lm_head"]}),
        ("tied", {"trainable_token_indices": [int(IDS[0, 2]), 259]}),
        ("llama", {}),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_with_tokens_of_its_own_predicts_those_of_all(
    models: dict[str, Path], tmp_path: Path, base: str, options: dict
) -> None:
    tokens = len(TOKENIZER) + 3
    adapter = train(models[base], lora(**{"target_modules": ["q_proj"]} | options), tmp_path / "a", tokens=tokens)
    added = copy.deepcopy(TOKENIZER)
    added.add_special_tokens({"additional_special_tokens": ["<t1>", "<t2>", "<t3>"]})
    added.save_pretrained(adapter)
    assert_fuses(models, base, [adapter], [alone(models[base], adapter, tokens)])


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_what_a_trainer_leaves_beside_an_adapter_does_not_matter(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = train(models["llama"], lora(), tmp_path / "a")
    shutil.copy(models["llama"] / "config.json", adapter)
    TOKENIZER.save_pretrained(adapter)
    (adapter / "training_args.bin").write_bytes(b"")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "no/such-model"}))
    assert_fuses(models, "llama", [adapter], [alone(models["llama"], adapter)])


def test_special_tokens_beside_an_adapter_are_no_tokenizer(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = train(models["llama"], lora(), tmp_path / "a")
    (adapter / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    assert_fuses(models, "llama", [adapter], [alone(models["llama"], adapter)])


def test_a_folder_of_named_adapters_names_them(models: dict[str, Path], tmp_path: Path) -> None:
    adapted = get_peft_model(copy.deepcopy(load_once(models["llama"])), lora(), adapter_name="mathematics")
    adapted.add_adapter("code", lora())
    adapted.save_pretrained(tmp_path / "both")
    assert "code, mathematics in it do: give the one that is meant" in refused(models, tmp_path / "both")


def test_an_adapter_that_can_not_read_a_text_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    """peft gives the mask to an adapter of OPT's positions as if it were a text."""
    config = lora(target_modules=["embed_positions"])
    assert "can't read a plain text" in refused(models, train(models["opt"], config, tmp_path / "a"), "opt")


def test_a_folder_with_an_adapter_and_a_model_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = train(models["llama"], lora(), tmp_path / "a")
    save_model(load_model(models["llama"]), TOKENIZER, adapter)
    assert "can't be told which" in refused(models, adapter)


@pytest.mark.parametrize("place", ["large", "base", "expert alone"])
def test_an_adapter_in_the_place_of_a_model_is_refused(models: dict[str, Path], tmp_path: Path, place: str) -> None:
    adapter = train(models["llama"], lora(), tmp_path / "a")
    TOKENIZER.save_pretrained(adapter)
    folders = {
        "large": (adapter, None, []),
        "base": (models["large"], adapter, [models["llama"]]),
        "expert alone": (models["large"], None, [adapter]),
    }
    with pytest.raises(UserError, match="holds an adapter, not a model: give it as an expert beside its base"):
        FusedLM.from_folders(*folders[place])


def rename(change: Callable[[str], str], adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({change(name): value for name, value in weights.items()}, adapter / "adapter_model.safetensors")


def keep(part: str, adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    chosen = {name: value for name, value in weights.items() if part not in name}
    save_file(chosen, adapter / "adapter_model.safetensors")


def empty(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: torch.empty(0) for name in weights}, adapter / "adapter_model.safetensors")


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "compiled": (partial(rename, lambda name: name.replace("model.model", "model._orig_mod.model")), "meet nothing"),
    "other names": (partial(rename, lambda name: name.replace("layers", "blocks")), "meet nothing"),
    "more layers": (partial(rename, lambda name: name.replace("layers.1", "layers.7")), "layers.7"),
    "fewer layers": (partial(keep, "layers.1"), "are missing, such as .*layers.1"),
    "one half": (partial(keep, "lora_B"), "are missing, such as .*lora_B"),
    "not gathered": (empty, "empty, as DeepSpeed"),
    "cut off": (lambda adapter: (adapter / "adapter_model.safetensors").write_bytes(b"x"), "can't be read"),
    "pickled": (
        lambda adapter: (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin"),
        "adapter_model.bin, and only adapter_model.safetensors",
    ),
    "no weights": (lambda adapter: (adapter / "adapter_model.safetensors").unlink(), "no weights"),
    "no config": (lambda adapter: (adapter / "adapter_config.json").write_text("{"), "can't be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_that_does_not_fit_is_refused(models: dict[str, Path], tmp_path: Path, damage: str) -> None:
    adapter = train(models["llama"], lora(), tmp_path / "a")
    change, words = DAMAGES[damage]
    change(adapter)
    for others in ([], [models["llama"]]):
        with pytest.raises(UserError, match=words) as caught:
            FusedLM.from_folders(models["large"], models["llama"], [adapter, *others])
        assert str(adapter) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_adapter_of_a_wider_base_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    wide = make(tmp_path / "wide", hidden_size=64)
    sentence = refused(models, train(wide, lora(), tmp_path / "a"))
    assert "size mismatch" in sentence
    assert "trained from this base" in sentence
