"""A checkpoint that does not fit its architecture is refused; what transformers itself maps or leaves out is not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Llama4Config,
    Llama4ForConditionalGeneration,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from logitfusion.artefact import write_artefact
from logitfusion.config.models import HubModel, PathModel
from logitfusion.errors import UserError
from logitfusion.fetch.hub import Download, HubFile
from logitfusion.files import sha256
from logitfusion.fusion import FusedLM
from logitfusion.integrity import as_rows, record_files
from logitfusion.models import source
from logitfusion.models.load import describe, load_model, load_tokenizer, save_model
from logitfusion.models.merge import merge_experts
from logitfusion.models.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
Weights = dict[str, Tensor]
TEXT = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose output layer is its own."""
    folder = tmp_path_factory.mktemp("checkpoint") / "whole"
    torch.manual_seed(0)
    save_model(AutoModelForCausalLM.from_config(LlamaConfig(**TEXT)), TOKENIZER, folder)
    return folder


def changed(
    whole: Path,
    folder: Path,
    weights: Callable[[Weights], Weights] | None = None,
    **config: object,
) -> Path:
    """A copy with other weights, or another config."""
    shutil.copytree(whole, folder)
    if weights is not None:
        stored = weights(load_file(folder / "model.safetensors"))
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(folder)
    sentence = str(caught.value)
    assert str(folder) in sentence
    assert "\n" not in sentence
    assert "delete" not in sentence  # it is the user's own
    return sentence


def prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: value for name, value in weights.items()}


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


def beside(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: torch.ones(4) for name in names}


@pytest.mark.parametrize(
    ("weights", "config", "words"),
    [
        (prefixed("_orig_mod."), {}, "21 tensors are missing .* compiled module"),
        (prefixed("module."), {}, "DataParallel"),
        (prefixed("_fsdp_wrapped_module."), {}, "training wrapper"),
        (prefixed("base_model.model."), {}, "adapter in it"),
        (without("lm_head"), {}, r"1 tensor is missing \(such as lm_head.weight\).*without its output layer"),
        (without("layers.1."), {}, "9 tensors are missing"),
        (beside("v_head.summary.weight"), {}, "value head"),
        (beside("score.weight"), {}, "classifier or reward model"),
        (beside("model.layers.0.self_attn.q_proj.bias"), {}, r"not part of it \(such as .*q_proj.bias"),
        (beside("model.layers.0.mlp.up_proj.qweight"), {}, "quantised"),
        (without("lm_head"), {"model_type": "qwen2"}, "are missing"),
        (lambda weights: {name: torch.empty(0) for name in weights}, {}, "without gathering its weights"),
        (None, {"num_hidden_layers": 3}, "9 tensors are missing"),
        (None, {"num_hidden_layers": 1}, "9 tensors are not part of it"),
        (None, {"vocab_size": 300}, r"\[259, 32\], not \[300, 32\]"),
        (None, {"intermediate_size": 128}, "6 tensors are of another shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    whole: Path, tmp_path: Path, weights: Callable[[Weights], Weights] | None, config: dict, words: str
) -> None:
    sentence = refused(changed(whole, tmp_path / "other", weights, **config))
    assert "does not fit its architecture" in sentence
    assert re.search(words, sentence)


def rotary(weights: Weights) -> Weights:
    """What checkpoints of old kept of the position encoding, layer by layer."""
    return weights | {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in (0, 1)}


@pytest.mark.parametrize(
    ("weights", "config"),
    [
        (None, {}),
        (rotary, {}),
        (without("lm_head"), {"tie_word_embeddings": True}),
        (beside("vision_tower.patches.weight", "multi_modal_projector.linear.weight"), {}),
    ],
    ids=["same", "rotary", "tied", "towers"],
)
def test_what_an_architecture_leaves_out_is_no_fault(
    whole: Path, tmp_path: Path, weights: Callable[[Weights], Weights] | None, config: dict
) -> None:
    folder = changed(whole, tmp_path / "other", weights, **config)
    assert_reads_alike(load_model(folder), AutoModelForCausalLM.from_pretrained(folder))


@torch.no_grad()
def assert_reads_alike(found: PreTrainedModel, expected: PreTrainedModel) -> None:
    ids = torch.tensor([TOKENIZER.encode("a text")], device=found.device)
    assert torch.equal(found(input_ids=ids).logits, expected.eval().to(found.device)(input_ids=ids).logits)


def test_shards_are_read_and_must_all_be_there(whole: Path, tmp_path: Path) -> None:
    model = load_model(whole)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert_reads_alike(load_model(tmp_path), model)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    shards[1].unlink()
    assert f"1 of its {len(shards)} files of weights are not there (such as {shards[1].name})" in refused(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "tf_model.h5", "model.gguf"])
def test_weights_of_another_format_are_named(whole: Path, tmp_path: Path, name: str) -> None:
    folder = changed(whole, tmp_path / "other")
    (folder / "model.safetensors").rename(folder / name)
    sentence = refused(folder)
    assert name in sentence
    assert "only safetensors" in sentence
    assert "safe_serialization=True" in sentence


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised \(gptq\)"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "a.B", "AutoModelForCausalLM": "a.C"}}, "never run"),
        ({"model_type": "mine"}, "`mine`"),
        ({"model_type": "t5"}, "can't be read"),
    ],
)
def test_what_transformers_can_not_load_is_one_sentence(whole: Path, tmp_path: Path, config: dict, words: str) -> None:
    assert re.search(words, refused(changed(whole, tmp_path / "other", **config)))


def test_only_what_a_stage_wrote_is_to_be_deleted(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path / "other")
    (folder / "tokenizer.json").write_text("{")
    (folder / "config.json").write_text("{")
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match="it needs"):
            load(folder)
    write_artefact(folder / "record.json", {"files": as_rows(record_files(folder))})
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match="delete the folder and run again"):
            load(folder)


def test_a_classifier_and_an_encoder_decoder_are_refused(tmp_path: Path) -> None:
    LlamaForSequenceClassification(LlamaConfig(**TEXT)).save_pretrained(tmp_path / "reward")
    assert "classifier or reward model" in refused(tmp_path / "reward")
    t5 = T5Config(vocab_size=64, d_model=32, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    assert "encoder-decoder" in refused(tmp_path / "t5")


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "camembert", "xlm", "xlnet", "ernie", "cpmant"])
def test_models_that_read_both_sides_are_refused(tmp_path: Path, kind: str) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    others = {
        "xlm": {"emb_dim": 32, "n_layers": 1, "n_heads": 4},
        "xlnet": {"d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 32},
        "cpmant": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "dim_head": 8, "dim_ff": 32},
    }
    config = AutoConfig.for_model(kind, vocab_size=64, pad_token_id=0, **others.get(kind, sizes))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert "both directions" in refused(tmp_path)


def test_the_same_model_as_a_decoder_is_loaded(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    model = BertLMHeadModel(BertConfig(vocab_size=len(TOKENIZER), is_decoder=True, **sizes))
    model.save_pretrained(tmp_path)
    assert_reads_alike(load_model(tmp_path), model)


def test_a_decoder_of_speech_is_refused(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    config = AutoConfig.for_model("whisper", vocab_size=64, encoder_layers=1, **sizes, **special)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert "speech" in refused(tmp_path)


# ---- multimodal ---------------------------------------------------------------------------------------------------


def gemma3(folder: Path) -> None:
    torch.manual_seed(0)
    tokens = {"image_token_index": 258, "boi_token_index": 257, "eoi_token_index": 256}
    config = Gemma3Config(
        text_config=TEXT | {"sliding_window": 4}, vision_config=VISION, mm_tokens_per_image=4, **tokens
    )
    model = Gemma3ForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)


def llama4(folder: Path) -> None:
    text = TEXT | {"intermediate_size_mlp": 64, "num_local_experts": 2}
    vision = VISION | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}
    torch.manual_seed(0)
    config = Llama4Config(text_config=text, vision_config=vision, image_token_index=250)
    Llama4ForConditionalGeneration(config).save_pretrained(folder)


@pytest.mark.parametrize("make", [gemma3, llama4])
def test_a_multimodal_model_continues_a_text_as_transformers_does(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([TOKENIZER.encode("hi there")])
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :].tolist()
    lm = FusedLM.from_folders(tmp_path)
    found = lm.generate(["hi there"], max_new_tokens=6)[0].token_ids
    ends = [place for place, token in enumerate(expected) if token == TOKENIZER.eos_token_id]
    assert found == (expected[: ends[0] + 1] if ends else expected)
    facts = describe(lm.large)
    assert (facts["layers"], facts["vocabulary"]) == (2, len(TOKENIZER))


# ---- the hub, merging ---------------------------------------------------------------------------------------------


def from_hub(monkeypatch: pytest.MonkeyPatch, folder: Path, target: Path) -> PreTrainedModel:
    """The model of a stage that downloaded this folder."""
    names = source.choose_known(sorted(path.name for path in folder.iterdir()), folder.joinpath)
    files = [HubFile(name, folder / name, (folder / name).stat().st_size, sha256(folder / name)) for name in names]
    found = Download("model", "owner/name", "main", "0" * 40, folder, tuple(files))
    monkeypatch.setattr(source, "download_recorded", lambda *_, **__: found)
    source.from_hub(HubModel(source="hub", id="owner/name", revision="main"), target)
    return load_model(target)


def test_what_comes_from_the_hub_must_fit_as_well(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_reads_alike(from_hub(monkeypatch, whole, tmp_path / "kept"), load_model(whole))
    with pytest.raises(UserError, match="without its output layer"):
        from_hub(monkeypatch, changed(whole, tmp_path / "bare", without("lm_head")), tmp_path / "not")
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "a.B", "AutoModelForCausalLM": "a.C"}}
    with pytest.raises(UserError, match="needs Python code that comes with it, which is never run"):
        from_hub(monkeypatch, changed(whole, tmp_path / "own", **own), tmp_path / "not")
    adapter = changed(whole, tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    with pytest.raises(UserError, match="a whole model and an adapter"):
        from_hub(monkeypatch, adapter, tmp_path / "not")
    quantised = changed(whole, tmp_path / "gptq", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UserError, match=r"quantised \(gptq\).*; use its weights before quantisation"):
        from_hub(monkeypatch, quantised, tmp_path / "not")
    assert not (tmp_path / "not").exists()


def test_an_expert_of_another_shape_is_not_merged(whole: Path, tmp_path: Path) -> None:
    save_model(AutoModelForCausalLM.from_config(LlamaConfig(**TEXT | {"vocab_size": 260})), TOKENIZER, tmp_path)
    with pytest.raises(UserError, match=r"can't be merged .* \[260, 32\], not \[259, 32\]"):
        merge_experts(whole, [tmp_path], 1.0)


def test_an_expert_that_unties_what_its_base_ties_is_not_merged(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**TEXT | {"tie_word_embeddings": True}))
    save_model(model, TOKENIZER, tmp_path / "base")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight + 1)
    save_model(model, TOKENIZER, tmp_path / "expert")
    with pytest.raises(UserError, match=r"which ties lm_head\.weight to model\.embed_tokens\.weight"):
        merge_experts(tmp_path / "base", [tmp_path / "expert"], 1.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="quantised weights stay so on a GPU")
def test_a_quantised_model_is_copied_in_full_precision(whole: Path, tmp_path: Path) -> None:
    """Where transformers can dequantise it; later stages read the copy as any other model."""
    shutil.copytree(whole, tmp_path / "fp8")
    weights: Weights = {}
    for name, value in load_file(whole / "model.safetensors").items():
        weights[name] = value
        if "proj" in name:
            scales = 0.5 + torch.rand(value.shape[0] // 16, value.shape[1] // 16)
            weights[name] = (value / spread(scales)).to(torch.float8_e4m3fn)
            weights[f"{name}_scale_inv"] = scales
    save_file(weights, tmp_path / "fp8" / "model.safetensors")
    config = json.loads((whole / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (tmp_path / "fp8" / "config.json").write_text(json.dumps(config))
    (tmp_path / "copy").mkdir()
    source.from_path(PathModel(source="path", path=str(tmp_path / "fp8")), tmp_path / "copy")
    for name, value in load_model(tmp_path / "copy").state_dict().items():
        expected = weights[name].float()
        if "proj" in name:
            expected = expected * spread(weights[f"{name}_scale_inv"])
        torch.testing.assert_close(value, expected)


def spread(scales: Tensor) -> Tensor:
    """Each scale over its block of weights."""
    return scales.repeat_interleave(16, 0).repeat_interleave(16, 1)
