"""Models in half precision: how they are loaded, and that their logits are fused as if they were exact."""

from __future__ import annotations

import gc
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import build
from commands import refuse, run
from safetensors.torch import load_file, save_file
from test_fusion_weights import as_rows, brute_force, is_tied_with_the_best
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.artefact import write_artefact
from logitfusion.config.models import RandomModel
from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.fusion.caches import CachedModel
from logitfusion.fusion.steering import Steered, Steering
from logitfusion.models.forward import refuse_not_causal
from logitfusion.models.load import count_bytes, load_model, load_tokenizer, save_model
from logitfusion.models.precision import choose_dtype, own_dtype
from logitfusion.models.source import make_random

HALF = (torch.bfloat16, torch.float16)
PROMPTS = ["Hello world", "a", "2 + 2 =", "The quick brown fox jumps over the lazy dog.", "Grüße"]


@pytest.fixture(scope="module")
def half_models(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models, stored in bf16."""
    root = tmp_path_factory.mktemp("half")
    for name, folder in tiny_models.items():
        save_model(load_model(folder), load_tokenizer(folder), _made(root / name), torch.bfloat16)
    return {name: root / name for name in tiny_models}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


# How models are loaded


def test_auto_is_the_checkpoints_own_precision(tiny_models: dict[str, Path], half_models: dict[str, Path]) -> None:
    assert load_model(half_models["base"], dtype="auto").dtype == torch.bfloat16
    assert load_model(tiny_models["base"], dtype="auto").dtype == torch.float32
    assert load_model(half_models["base"]).dtype == torch.float32  # what trains does not ask for auto
    stored = load_file(half_models["base"] / "model.safetensors")
    loaded = load_model(half_models["base"], dtype="auto").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in stored.items())


def test_a_checkpoint_that_names_no_precision_has_that_of_most_of_its_weights(
    tiny_models: dict[str, Path], half_models: dict[str, Path], tmp_path: Path
) -> None:
    """Also where the first of them is a norm in fp32."""
    for source, expected in ((tiny_models["base"], torch.float32), (half_models["base"], torch.bfloat16)):
        folder = shutil.copytree(source, tmp_path / str(expected))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps({key: value for key, value in config.items() if "dtype" not in key})
        )
        weights = load_file(folder / "model.safetensors")
        weights = {name: value.float() if "norm" in name else value for name, value in weights.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        assert own_dtype(folder) == expected
        assert load_model(folder, dtype="auto").dtype == expected


def test_the_models_entry_in_the_config_comes_before_the_checkpoint(
    half_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(half_models["base"], tmp_path / "base")
    for record, expected in (
        ({"config": {"dtype": "auto"}}, torch.bfloat16),
        ({"config": {"dtype": "float32"}}, torch.float32),
        ({"config": {}}, torch.bfloat16),
    ):
        write_artefact(folder / "record.json", record)
        assert choose_dtype(folder, "auto") == expected
        assert choose_dtype(folder, "float16") == torch.float16  # and what a use asks for comes before both
    with pytest.raises(UserError, match="dtype 'float8' does not exist"):
        choose_dtype(folder, "float8")
    with pytest.raises(UserError, match="dtype 'int8' does not exist"):
        choose_dtype(folder, torch.int8)


def test_files_that_are_made_here_have_the_precision_of_their_entry(tmp_path: Path) -> None:
    for dtype, expected in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        make_random(RandomModel(source="random", dtype=dtype), _made(tmp_path / dtype))
        stored = load_file(tmp_path / dtype / "model.safetensors")
        assert {value.dtype for value in stored.values()} == {expected}
        assert own_dtype(tmp_path / dtype) == expected


def test_fp32_weights_of_a_file_arrive_in_every_bit(tiny_models: dict[str, Path]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(tiny_models["large"], dtype=torch.float32)
    for dtype in (torch.float32, "auto", "float32"):
        loaded = load_model(tiny_models["large"], device=torch.device("cpu"), dtype=dtype)
        assert not hasattr(loaded, "_hf_hook")
        for name, value in plain.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name


def _resident() -> int:
    """Bytes of this process in memory, those of mapped files too."""
    kinds = re.findall(r"Rss(?:Anon|File|Shmem):\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * sum(map(int, kinds))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_is_in_memory_once_while_it_is_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    """One of 120 MB, which is watched every millisecond."""
    config = LlamaConfig(vocab_size=4000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=2)
    LlamaForCausalLM(config).to(dtype).save_pretrained(tmp_path)
    gc.collect()
    before, found, ended = _resident(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.001):
            found.append(_resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = load_model(tmp_path, device=torch.device("cpu"), dtype="auto")
    ended.set()
    watcher.join()
    assert model.dtype == dtype
    assert 0.5 < (max(found) - before) / count_bytes(model) < 1.3


# Attention


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_computed_as_it_is_asked_for(tiny_models: dict[str, Path], attention: str) -> None:
    assert load_model(tiny_models["base"], attention=attention).config._attn_implementation == attention
    lm = FusedLM.from_folders(tiny_models["large"], attn_implementation=attention)
    assert lm.large.config._attn_implementation == attention


def test_attention_that_is_not_there_is_refused_before_the_weights_are_read(
    half_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(UserError, match="attention 'flash' does not exist: use one of auto, sdpa"):
        load_model(half_models["base"], attention="flash")
    with pytest.raises(UserError, match="flash_attention_2, which needs an NVIDIA GPU; use attention: auto"):
        load_model(half_models["base"], dtype="auto", attention="flash_attention_2")
    on_card = {"dtype": "auto", "attention": "flash_attention_2", "device_map": {"": 0}}
    with pytest.raises(UserError, match="flash_attention_2 in float32; set dtype: bfloat16"):
        load_model(half_models["base"], **on_card | {"dtype": "float32"})
    with pytest.raises(UserError, match="flash-attn is not installed here"):
        load_model(half_models["base"], **on_card)
    build("openai-gpt", 0).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"OpenAIGPTLMHeadModel.*flash_attention_2, which its architecture does not have"
    ):
        load_model(tmp_path, **on_card)
    with pytest.raises(UserError, match="sdpa, which its architecture does not have; use attention: eager"):
        load_model(tmp_path, attention="sdpa")


# What is made of their logits


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_large_model_alone_continues_as_transformers_does(
    tiny_models: dict[str, Path], tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
) -> None:
    large = load_model(tiny_models["large"], dtype=dtype)
    lm = FusedLM(large, tokenizer=tokenizer)
    for prompt in PROMPTS:
        ids = lm.encode(prompt)
        expected = large.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
        (found,) = lm.generate([prompt], max_new_tokens=12)
        assert found.token_ids == expected.tolist()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("speculative", [False, True])
def test_the_solver_takes_the_models_own_logits_in_fp32_and_fuses_them_exactly(
    tiny_models: dict[str, Path], dtype: torch.dtype, speculative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the paper's search in float64, on what the models gave."""
    seen: list[tuple[Tensor, Tensor, Steered]] = []
    fuse = Steering.fuse

    def noting(self: Steering, large: Tensor, small: Tensor, steered: Tensor | None = None) -> Steered:
        found = fuse(self, large, small, steered)
        seen.append((large, small, found))
        return found

    monkeypatch.setattr(Steering, "fuse", noting)
    folders = [tiny_models[name] for name in ("large", "base", "expert_a", "expert_b")]
    lm = FusedLM.from_folders(*folders[:2], folders[2:], dtype=dtype, selection="one_hot")
    assert {model.dtype for model in lm.models} == {dtype}
    lm.generate(PROMPTS[:2], max_new_tokens=4, speculative=speculative)
    assert len(seen) > 1
    for large, small, steered in seen:
        assert large.dtype == small.dtype == steered.logits.dtype == torch.float32
        assert torch.equal(large, large.to(dtype).float())  # nothing was computed between model and solver
        assert torch.equal(small, small.to(dtype).float())
        rows = as_rows(large, small[0], small[1:])
        weights = steered.weights.double().flatten(1)
        for place, (one, base, experts) in enumerate(rows):
            _, _, lowest = brute_force(one, base, experts)
            expert = int(weights[:, place].argmax())
            assert is_tied_with_the_best(one, base, experts, float(weights[expert, place]), expert, lowest)
            oracle = one + (weights[:, place].numpy()[:, None] * (experts - base)).sum(0)
            found = steered.logits.reshape(-1, steered.logits.shape[-1])[place].double().numpy()
            assert np.abs(found - oracle).max() <= 1e-5 * np.abs(oracle).max()


def test_keys_and_values_are_kept_in_the_models_precision(loaded: dict[str, PreTrainedModel]) -> None:
    for dtype in (torch.float32, *HALF):
        cached = CachedModel(build("llama", 0).to(dtype))
        ids = torch.tensor([[5, 6, 7]])
        logits = cached.read(ids, torch.ones_like(ids), torch.arange(3)[None], keep=1)
        assert logits.dtype == torch.float32
        assert {(layer.keys.dtype, layer.values.dtype) for layer in cached.cache.layers} == {(dtype, dtype)}


def test_scores_are_fp32_sums_over_the_models_own_logits(
    tiny_models: dict[str, Path], tokenizer: PreTrainedTokenizerBase
) -> None:
    """bf16 would keep three digits of a log-likelihood."""
    large = load_model(tiny_models["large"], dtype="bfloat16")
    lm = FusedLM(large, tokenizer=tokenizer)
    context, continuation = lm.encode_pair("The quick brown fox", " jumps over the lazy dog")
    ids = torch.tensor([[*context, *continuation]])
    with torch.no_grad():
        logits = large(ids).logits[0, len(context) - 1 : -1].double()
    expected = logits.log_softmax(-1)[range(len(continuation)), list(continuation)].sum()
    ((found, _),) = lm.score([list(context)], [list(continuation)])
    # Two ways to mask round a bf16 product differently, which is the model's own precision and not that of the sum.
    assert found == pytest.approx(float(expected), rel=2e-3)
    assert torch.tensor(found).bfloat16().double() != found


def test_a_model_that_reads_in_both_directions_is_refused_in_half_precision_too() -> None:
    """Its logits move by less than rounding may move those of a mixture."""
    for dtype in (torch.float32, *HALF):
        with pytest.raises(UserError, match="not a causal language model"):
            refuse_not_causal(build("xlnet", 0).to(dtype))
        refuse_not_causal(build("mixtral", 0).to(dtype))


# The command line


def test_the_command_line_says_how_models_are_loaded(
    tiny_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--large", tiny_models["large"], "--base", tiny_models["base"], "--expert", tiny_models["expert_a"]]
    options = ["--dtype", "bfloat16", "--attention", "eager", "--device-map", "cpu", "--batch-size", "auto"]
    prompts = [*PROMPTS[:3]]
    printed = run(capsys, "generate", *folders, *options, "--max-new-tokens", 6, "--prompt", *prompts)
    lm = FusedLM.from_folders(
        tiny_models["large"],
        tiny_models["base"],
        [tiny_models["expert_a"]],
        dtype="bfloat16",
        attn_implementation="eager",
    )
    expected = lm.generate(prompts, max_new_tokens=6)
    assert [json.loads(line)["text"] for line in printed.splitlines()] == [one.text for one in expected]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dtype", "bf17"], "--dtype must be one of auto, float32, bfloat16, float16"),
        (["--attention", "fast"], "--attention must be one of auto, sdpa, flash_attention_2, eager"),
        (["--device-map", "moon"], "can't be put on 'moon'"),
        (["--batch-size", "automatic"], "--batch-size must be an integer or auto"),
    ],
)
def test_options_of_loading_that_mean_nothing_are_refused(
    tiny_models: dict[str, Path], capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert words in refuse(capsys, "generate", "--large", tiny_models["large"], "--prompt", "a", *options)
