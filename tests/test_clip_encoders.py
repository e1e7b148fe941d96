"""Encoders: what is loaded is what was saved, pictures are seen as they are, and bad files end in a sentence."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import open_clip
import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from logitfusion.cli._encoder_specs import parse_clip
from logitfusion.clip.encoders import load
from logitfusion.clip.encoders.hub import check_torchvision
from logitfusion.clip.encoders.load import draw_crop, flatten, load_auxiliary, load_clip
from logitfusion.clip.encoders.tiny import make_random_clip
from logitfusion.clip.encoders.towers import read_package
from logitfusion.errors import UserError
from logitfusion.fetch.hub import Download, HubFile
from logitfusion.files import sha256
from logitfusion.stages._clip import write_entry

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of a tiny CLIP that open_clip knows as ``tiny`` (GELU) and ``tiny-quickgelu``."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    (folder / "tiny-quickgelu.json").write_text(json.dumps({**TINY, "quick_gelu": True}))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    save_file(open_clip.create_model("tiny").state_dict(), folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


@pytest.fixture
def openai_tag(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint as the tag ``openai`` of both, as open_clip lists OpenAI's own: trained with QuickGELU."""
    tag = {"url": "", "hf_hub": "owner/clip/", "quick_gelu": True}
    for name in ("tiny", "tiny-quickgelu"):
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"openai": tag})
    file = HubFile("open_clip_model.safetensors", tiny_clip, tiny_clip.stat().st_size, "")
    found = Download("model", "owner/clip", "main", "0" * 40, tiny_clip.parent, (file,))
    monkeypatch.setattr(load, "fetch_weights", lambda *_: found)


def picture(seed: int = 0, size: tuple[int, int] = (40, 56)) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(256, (*size, 3), generator=generator, dtype=torch.uint8).numpy())


def activations(model: torch.nn.Module) -> set[str]:
    return {type(part).__name__ for part in model.modules() if isinstance(part, torch.nn.GELU | QuickGELU)}


def test_features_and_classifier_by_hand(tiny_clip: Path) -> None:
    clip = load_clip({"source": "path", "model": "tiny", "path": tiny_clip, "quick_gelu": False}, device=CPU)
    batch = torch.stack([clip.preprocess(picture(seed)) for seed in range(3)])
    assert batch.shape == (3, 3, 32, 32)
    features = clip.encode_images(batch)
    raw = clip.model.visual(batch).detach()
    torch.testing.assert_close(features, raw / raw.norm(dim=1, keepdim=True))

    templates = ("a photo of a {}.", "{}", "art of {}")
    weights = clip.classifier(["dog", "cat"], templates)
    assert weights.shape == (16, 2)
    for column, name in enumerate(("dog", "cat")):
        embedded = clip.model.encode_text(clip.tokenizer([template.format(name) for template in templates])).detach()
        mean = (embedded / embedded.norm(dim=1, keepdim=True)).mean(dim=0)
        torch.testing.assert_close(weights[:, column], mean / mean.norm())
    assert clip.scale == pytest.approx(1 / 0.07)
    assert not clip.model.training


def test_openai_weights_bring_quickgelu(
    openai_tag: None, tiny_clip: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    caplog.set_level(logging.INFO)
    named = load_clip({"source": "open_clip", "model": "tiny-quickgelu", "pretrained": "openai"}, device=CPU)
    assert "QuickGELU" not in caplog.text
    forced = load_clip({"source": "open_clip", "model": "tiny", "pretrained": "openai"}, device=CPU)
    assert "the weights openai were trained with QuickGELU" in caplog.text
    assert activations(named.model) == activations(forced.model) == {"QuickGELU"}
    plain = load_clip({"source": "path", "model": "tiny", "path": tiny_clip, "quick_gelu": False}, device=CPU)
    asked = load_clip({"source": "path", "model": "tiny", "path": tiny_clip, "quick_gelu": True}, device=CPU)
    assert activations(plain.model) == {"GELU"}
    assert named.fingerprint == forced.fingerprint == asked.fingerprint
    assert plain.fingerprint != forced.fingerprint, "the same weights, another function"
    batch = torch.stack([plain.preprocess(picture())])
    assert not torch.allclose(plain.encode_images(batch), forced.encode_images(batch), atol=1e-4)
    assert not [warning for warning in recwarn if "QuickGELU mismatch" in str(warning.message)]


@pytest.mark.parametrize("model", ["tiny", "tiny-quickgelu"])
def test_a_tag_is_what_open_clip_makes_of_it(
    openai_tag: None, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """Weights, activation and preprocessing, though open_clip is given the file of a revision that it can't name."""
    tag = open_clip.get_pretrained_cfg(model, "openai")
    seen = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "interpolation": "bilinear", "resize_mode": "squash"}
    for name, value in {**seen, "size": 9}.items():
        monkeypatch.setitem(tag, name, value)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(tiny_clip))
    theirs = open_clip.create_model(model, pretrained="openai", force_quick_gelu=True)
    ours = load_clip({"source": "open_clip", "model": model, "pretrained": "openai"}, device=CPU).model
    assert ours.visual.preprocess_cfg == theirs.visual.preprocess_cfg
    assert repr(ours) == repr(theirs.eval())
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())


def test_fingerprint_knows_weights_and_preprocessing_but_no_path(tiny_clip: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.safetensors"
    copy.write_bytes(tiny_clip.read_bytes())
    entry = {"source": "path", "model": "tiny", "quick_gelu": False}
    first, second = (load_clip({**entry, "path": path}, device=CPU).fingerprint for path in (tiny_clip, copy))
    assert first == second

    torch.manual_seed(0)
    trunk = timm.create_model("test_efficientnet", num_classes=0)
    state = trunk.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    name = next(iter(state))
    state[name] = state[name].clone()
    state[name].view(-1)[0] += 1e-3
    save_file(state, tmp_path / "b.safetensors")
    entry = {"source": "checkpoint", "model": "test_efficientnet", "path": tmp_path / "a.safetensors"}
    one = load_auxiliary(entry, device=CPU).fingerprint
    assert one == load_auxiliary(entry, device=CPU).fingerprint
    assert one != load_auxiliary({**entry, "path": tmp_path / "b.safetensors"}, device=CPU).fingerprint
    assert one != load_auxiliary({**entry, "preprocess": {"crop_pct": 0.5}}, device=CPU).fingerprint


PREFIXES = ["", "module.", "backbone.", "module.backbone.", "base_encoder.", "module.base_encoder."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("container", [None, "state_dict", "teacher"])
def test_checkpoint_prefixes(prefix: str, container: str | None, tmp_path: Path) -> None:
    torch.manual_seed(1)
    trunk = timm.create_model("test_resnet", num_classes=0).eval()
    other = timm.create_model("test_resnet", num_classes=0)
    state = {prefix + name: value for name, value in trunk.state_dict().items()}
    state[prefix + "fc.0.weight"] = torch.zeros(3, 3)  # a projector in the head's place
    if prefix.endswith("base_encoder."):
        momentum = prefix.replace("base_encoder", "momentum_encoder")
        state |= {momentum + name: value for name, value in other.state_dict().items()}
    torch.save(state if container is None else {container: state, "epoch": 3}, tmp_path / "checkpoint.pth")
    entry = {"source": "checkpoint", "model": "test_resnet", "path": tmp_path / "checkpoint.pth"}
    encoder = load_auxiliary(entry, device=CPU)
    batch = torch.stack([encoder.preprocess(picture())])
    raw = trunk(batch).detach()
    torch.testing.assert_close(encoder.encode_images(batch), raw / raw.norm(dim=1, keepdim=True))


def test_torchvision_checkpoint_without_its_head(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = torchvision.models.get_model("squeezenet1_1", weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "squeeze.pth")
    entry = {"source": "checkpoint", "model": "squeezenet1_1", "path": tmp_path / "squeeze.pth"}
    encoder = load_auxiliary(entry, device=CPU)
    batch = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder.encode_images(batch), F.normalize(model.features(batch).flatten(1), dim=1))


def test_package_tensors_are_mapped_by_order(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("test_efficientnet").eval()
    foreign = {f"tensor_{place}": value for place, value in enumerate(model.state_dict().values())}
    torch.save(foreign, tmp_path / "weights.pth")
    wheel = tmp_path / "some-0.1-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "weights.pth", "some/weights.pth")
    entry = {"source": "package", "model": "test_efficientnet", "file": "some/weights.pth", "sha256": sha256(wheel)}
    encoder = load_auxiliary(entry, wheel=wheel, device=CPU)
    batch = torch.stack([encoder.preprocess(picture())])
    raw = model.forward_head(model.forward_features(batch), pre_logits=True).detach()
    torch.testing.assert_close(encoder.encode_images(batch), F.normalize(raw, dim=1))
    with pytest.raises(UserError, match="not the expected one"):
        load_auxiliary({**entry, "sha256": "0" * 64}, wheel=wheel, device=CPU)
    with pytest.raises(UserError, match="does not hold test_resnet"):
        read_package("test_resnet", wheel, "some/weights.pth")
    with pytest.raises(UserError, match="has no file"):
        read_package("test_efficientnet", wheel, "some/other.pth")


def test_lite_models_see_what_the_packages_were_trained_on() -> None:
    data = timm.data.resolve_model_data_config(timm.create_model("tf_efficientnet_lite2", num_classes=0))
    assert data["mean"] == data["std"] == (0.5, 0.5, 0.5)


def test_torchvision_settings_are_those_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(type(chosen), "get_state_dict", lambda *_, **__: state)
    encoder = load_auxiliary({"source": "torchvision", "model": "resnet18", "weights": "IMAGENET1K_V1"}, device=CPU)
    image = picture(0, (250, 300))
    torch.testing.assert_close(encoder.preprocess(image), chosen.transforms()(image), atol=0.02, rtol=0)
    assert encoder.encode_images(torch.randn(1, 3, 32, 32)).shape == (1, 512)


def test_transparent_pixels_are_white() -> None:
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image.putpixel((3, 3), (1, 2, 3, 255))
    seen = flatten(image)
    assert seen.mode == "RGB"
    assert seen.getpixel((0, 0)) == (255, 255, 255)
    assert seen.getpixel((3, 3)) == (1, 2, 3)
    encoder = load_auxiliary({"source": "timm", "model": "test_resnet", "pretrained": False}, device=CPU)
    white = (1 - torch.tensor(encoder.mean)) / torch.tensor(encoder.std)
    nothing = Image.new("LA", (40, 40), (0, 0))
    for shown in (encoder.preprocess(nothing), encoder.augment(nothing, torch.Generator())):
        torch.testing.assert_close(shown.mean(dim=(1, 2)), white, atol=1e-4, rtol=1e-4)


def test_a_random_view_is_a_function_of_its_generator() -> None:
    encoder = load_auxiliary({"source": "timm", "model": "test_resnet", "pretrained": False}, device=CPU)
    made = [encoder.augment(picture(), torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    torch.manual_seed(99)
    assert torch.equal(made[0], encoder.augment(picture(), torch.Generator().manual_seed(5)))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert made[0].shape == (3, *encoder.size)


def test_crops_are_distributed_as_torchvisions() -> None:
    generator, image = torch.Generator().manual_seed(0), torch.zeros(3, 60, 90)
    mine = torch.tensor([draw_crop(90, 60, generator) for _ in range(4000)]).double()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        scale, ratio = [0.5, 1.0], [3 / 4, 4 / 3]
        drawn = [torchvision.transforms.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(4000)]
    theirs = torch.tensor([(left, top, width, height) for top, left, height, width in drawn]).double()
    error = (mine.var(dim=0) / 4000 + theirs.var(dim=0) / 4000).sqrt()
    assert ((mine.mean(dim=0) - theirs.mean(dim=0)).abs() < 5 * error).all()
    assert (mine.std(dim=0) / theirs.std(dim=0)).sub(1).abs().max() < 0.08


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_a_crop_lies_in_its_picture(width: int, height: int, seed: int) -> None:
    left, top, wide, high = draw_crop(width, height, torch.Generator().manual_seed(seed))
    assert wide >= 1
    assert high >= 1
    assert 0 <= left <= width - wide
    assert 0 <= top <= height - high


class Evil:
    """A pickle that would run code when it is read."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("evil"),))


def test_errors_are_one_sentence(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"conv": Evil()}}, tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    torch.save({k: v for k, v in state.items() if k != "conv1.0.weight"}, tmp_path / "lacking.pth")
    torch.save({**state, "layer9.weight": torch.zeros(2)}, tmp_path / "more.pth")
    torch.save({**state, "conv1.0.weight": torch.zeros(2)}, tmp_path / "shape.pth")

    def auxiliary(**entry: Any) -> dict[str, Any]:
        return {"source": "checkpoint", "model": "test_resnet", **entry}

    cases = [
        (auxiliary(path="evil.pth"), "can't be read safely"),
        (auxiliary(path="text.pth"), "can't be read safely"),
        (auxiliary(path="empty.pth"), "holds no weights"),
        (auxiliary(path="absent.pth"), "absent.pth is not there"),
        (auxiliary(path="lacking.pth"), r"lacks conv1\.0\.weight;"),
        (auxiliary(path="more.pth"), r"unknown layer9\.weight"),
        (auxiliary(path="shape.pth"), r"other shapes for conv1\.0\.weight"),
        (auxiliary(model="no_net", path="more.pth"), "no_net"),
        ({"source": "timm", "model": "no_net", "pretrained": False}, "no_net"),
        ({"source": "torchvision", "model": "no_net", "weights": None}, "no_net"),
        ({"source": "torchvision", "model": "resnet18", "weights": "IMAGENET9"}, "IMAGENET9"),
        ({"source": "moon", "model": "resnet18"}, "moon"),
    ]
    for entry, words in cases:
        with pytest.raises(UserError, match=words) as caught:
            load_auxiliary(entry, device=CPU)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()
    assert pickle.dumps(Evil()), "the trap is a trap"

    tiny = {"source": "path", "model": "tiny", "quick_gelu": False}
    cases = [
        ({"source": "moon"}, "moon"),
        ({**tiny, "path": "absent.pt"}, "absent.pt is not there"),
        ({**tiny, "path": "evil.pth"}, "can't be read safely"),
        ({**tiny, "path": "more.pth"}, "does not fit open_clip's tiny"),
        ({**tiny, "model": "no-clip", "path": tiny_clip}, "no model 'no-clip'"),
        ({"source": "open_clip", "model": "no-clip", "pretrained": "openai"}, "no model 'no-clip'"),
        ({"source": "open_clip", "model": "RN50", "pretrained": "moon"}, "no weights 'moon' for RN50 .it has openai"),
        ({"source": "built", "path": "absent"}, "does not exist"),
    ]
    for entry, words in cases:
        with pytest.raises(UserError, match=words) as caught:
            load_clip(entry, device=CPU)
        assert "\n" not in str(caught.value)
    clip = load_clip({**tiny, "path": tiny_clip}, device=CPU)
    for names, templates in (([], ["{}"]), (["a"], []), (["a"], ["a photo"])):
        with pytest.raises(UserError, match="class"):
            clip.classifier(names, templates)


def test_a_failing_download_is_one_sentence(openai_tag: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(open_clip, "create_model", refuse)
    with pytest.raises(UserError, match=r"'openai' of tiny could not be loaded .*no route") as caught:
        load_clip({"source": "open_clip", "model": "tiny", "pretrained": "openai"}, device=CPU)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(UserError, match=r"timm's test_resnet could not be loaded .no route"):
        load_auxiliary({"source": "timm", "model": "test_resnet", "pretrained": True}, device=CPU)


def test_a_clip_is_found_in_the_folder_that_holds_it(tiny_clip: Path, tmp_path: Path) -> None:
    """One that the workflow built, by its path; and a folder that only says where its weights are."""
    (tmp_path / "built").mkdir()
    make_random_clip(tmp_path / "built", 0)
    built = load_clip({"source": "built", "path": tmp_path / "built"}, device=CPU)
    folder = {"source": "path", "path": str(tmp_path / "built"), "model": None}
    for name, entry in (
        ("one", folder),
        ("two", {"source": "path", "path": str(tmp_path / "one"), "model": None}),
        ("file", {"source": "path", "model": "tiny", "path": str(tiny_clip), "quick_gelu": False}),
    ):
        (tmp_path / name).mkdir()
        write_entry(tmp_path / name, entry)
    for name in ("built", "one", "two"):
        again = load_clip({"source": "path", "path": str(tmp_path / name)}, device=CPU)
        assert again.fingerprint == built.fingerprint
        assert parse_clip(str(tmp_path / name))["path"] == str(tmp_path / "built")
    assert load_clip({"source": "path", "path": str(tmp_path / "file")}, device=CPU).name == "tiny"
    for path, words in ((tmp_path, "holds no CLIP"), ("absent", "no CLIP at absent"), (tiny_clip, "add the key model")):
        with pytest.raises(UserError, match=words):
            load_clip({"source": "path", "path": str(path), "model": None}, device=CPU)


def test_cached_weights_of_torchvision_are_what_their_name_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch looks at the digest in the name while it downloads, and at nothing once the file is there."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    place = tmp_path / "checkpoints" / url.rpartition("/")[2]
    place.parent.mkdir()
    place.write_bytes(b"other bytes")
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth are damaged"):
        load_auxiliary({"source": "torchvision", "model": "resnet18", "weights": "IMAGENET1K_V1"}, device=CPU)
    content = b"the bytes"
    named = f"https://somewhere/x-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (place.parent / named.rpartition("/")[2]).write_bytes(content)
    check_torchvision(named)
    check_torchvision("https://somewhere/unnamed.pth")
