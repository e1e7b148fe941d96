"""Reading images, and the feature cache: the right features, nothing stale, nothing twice, no fit to the test."""

from __future__ import annotations

import errno
import hashlib
import io
import random
import shutil
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional as F

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.images import UnreadableImageError, hash_image, read_image
from logitfusion.clip.features import compute
from logitfusion.clip.features.encode import Encoded, encode_images, join_features
from logitfusion.clip.features.files import pack_text, read_tensors, unpack_text, write_tensors
from logitfusion.clip.features.splits import read_features, write_features
from logitfusion.clip.features.views import READ_SIDE
from logitfusion.errors import UserError

RED, HALF_RED = (255, 0, 0), (255, 0, 0, 128)


class TinyEncoder:
    """The mean colours of an image's four quarters, turned by a fixed matrix; counts the views it has seen."""

    size = (4, 4)

    def __init__(self, fingerprint: str = "tiny", transform: str = "4x4; noise 0.1", scale: float = 3.0) -> None:
        self.fingerprint, self.transform, self.scale = fingerprint, transform, scale
        self.seen = self.most = 0
        self.matrix = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))

    def preprocess(self, image: Image.Image) -> Tensor:
        assert image.mode == "RGB"
        return torch.from_numpy(np.asarray(image.resize((4, 4)), np.float32).copy()).permute(2, 0, 1) / 255 + 0.1

    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        plain = self.preprocess(image)
        return plain + 0.1 * torch.randn(plain.shape, generator=generator)

    def encode_images(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        self.most = max(self.most, len(images))
        quarters = torch.nn.functional.avg_pool2d(images, 2).flatten(1)
        return self.scale * quarters @ self.matrix


class KilledError(BaseException):
    """What stops a computation in the middle."""


@pytest.fixture
def rows(tmp_path: Path) -> list[ImageRow]:
    """Eleven images of random colours."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(11):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(path)
        made.append(ImageRow(path.name, str(path), number % 3))
    return made


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "PIECE", 4)


def encode(rows: list[ImageRow], folder: Path | None, encoder: TinyEncoder | None = None, **options: Any) -> Encoded:
    return encode_images(rows, {"clip": encoder or TinyEncoder()}, folder, **{"split": "support", **options})


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    return str(caught.value)


# ---- the features -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_features_are_the_encoders_of_unit_norm(rows: list[ImageRow], tmp_path: Path, batch_size: int) -> None:
    read = encode(rows, tmp_path / "cache", batch_size=batch_size)
    encoder = TinyEncoder()
    for place, row in enumerate(rows):
        with Image.open(row.path) as image:
            raw = encoder.encode_images(encoder.preprocess(image)[None])[0].double()
        torch.testing.assert_close(read.clip[place, 0].double(), raw / raw.norm(), atol=1e-3, rtol=0)
        assert read.digests[place] == hashlib.sha256(Path(row.path).read_bytes()).hexdigest()
    assert read.clip.shape == (11, 1, 5)
    assert read.clip.dtype == torch.float32
    torch.testing.assert_close(read.clip.norm(dim=-1), torch.ones(11, 1))
    assert read.ids == [row.id for row in rows]
    assert read.labels.tolist() == [row.label for row in rows]
    assert read.auxiliary is None


def test_a_random_view_depends_on_seed_content_and_number_only(rows: list[ImageRow], tmp_path: Path) -> None:
    straight = encode(rows, None, views=3, seed=5, batch_size=64, workers=4).clip
    torch.rand(7)  # torch's own state has no say
    order = torch.randperm(11).tolist()[:8]
    renamed = [replace(rows[place], id=f"other {place}", label=2) for place in order]
    other = encode(renamed, None, views=4, seed=5, batch_size=5, workers=1).clip
    torch.testing.assert_close(other[:, :3], straight[order], atol=1e-3, rtol=0)
    views = straight.flatten(0, 1)
    assert (views @ views.T - torch.eye(33) * 2).max() < 0.999999  # no two views are equal
    seed_6 = encode(rows, None, views=3, seed=6).clip
    torch.testing.assert_close(seed_6[:, 0], straight[:, 0])
    assert (seed_6[:, 1:] - straight[:, 1:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_features_of_any_length_are_kept_as_unit_vectors(rows: list[ImageRow], tmp_path: Path, scale: float) -> None:
    """fp16 ends at 65,504 and has no digits left at 1e-8."""
    encode(rows, tmp_path / "cache", TinyEncoder(scale=scale))
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    values = read_tensors(path)[1]["values"]
    assert values.dtype == torch.float16
    torch.testing.assert_close(values.double().norm(dim=-1), torch.ones(11).double(), atol=2e-3, rtol=0)


def test_progress_counts_what_is_to_be_encoded(rows: list[ImageRow], tmp_path: Path, small_pieces: None) -> None:
    calls: list[tuple[int, int]] = []
    note: Callable[[int, int], None] = lambda done, total: calls.append((done, total))  # noqa: E731
    encode(rows[:5], tmp_path / "cache", batch_size=3)
    encode(rows, tmp_path / "cache", batch_size=3, progress=note)
    assert calls[0] == (0, 6)
    assert calls[-1] == (6, 6)
    assert calls == sorted(calls)
    calls.clear()
    encode(rows, tmp_path / "cache", progress=note)
    assert not calls


def test_rows_of_an_array_file_are_images(tmp_path: Path) -> None:
    grey = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
    np.save(tmp_path / "grey.npy", grey)
    row = ImageRow("g/1", str(tmp_path / "grey.npy"), 0, 1)
    assert np.array_equal(np.asarray(read_image(row)), np.stack([grey[1]] * 3, -1))
    assert hash_image(row) != hash_image(replace(row, index=2))
    assert hash_image(replace(row, index=3)) == "missing"
    with pytest.raises(UnreadableImageError):
        read_image(replace(row, index=3))


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_features_without_a_direction_are_refused(rows: list[ImageRow], tmp_path: Path, scale: float) -> None:
    assert "'0.png'" in refused(encode, rows, tmp_path / "cache", TinyEncoder(scale=scale))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("options", [{"views": 0}, {"batch_size": 0}, {"split": "train"}, {"split": "val"}])
def test_calls_that_make_no_sense_are_refused(rows: list[ImageRow], tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nothing to do"):
        encode(rows, tmp_path, **options)
    with pytest.raises(ValueError, match="twice"):
        encode([rows[0], rows[0]], tmp_path)


def test_joined_features_average_the_cosines() -> None:
    torch.manual_seed(0)
    parts = [F.normalize(torch.randn(4, size), dim=1) for size in (5, 9, 2)]
    joined = join_features(parts)
    mean = torch.stack([part @ part.T for part in parts]).mean(dim=0)
    torch.testing.assert_close(joined @ joined.T, mean)


# ---- each image once ----------------------------------------------------------------------------------------------


def test_an_image_is_read_once_for_all_encoders(
    rows: list[ImageRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    true_open = Image.open
    monkeypatch.setattr(Image, "open", lambda path, **more: opened.append(str(path)) or true_open(path, **more))
    encoders = {"clip": TinyEncoder(), "b": TinyEncoder("b"), "a": TinyEncoder("a", scale=-1.0)}
    read = encode_images(rows, encoders, tmp_path / "cache", split="support", views=3)
    assert sorted(opened) == sorted(row.path for row in rows)
    for name, encoder in encoders.items():
        assert encoder.seen == 33
        assert torch.equal(read.features[name], encode(rows, None, encoder, views=3).clip)
    assert torch.equal(read.auxiliary, join_features([read.features["b"], read.features["a"]]))
    opened.clear()
    new = encode_images(rows, {**encoders, "c": TinyEncoder("c")}, tmp_path / "cache", split="support", views=3)
    assert len(opened) == 11  # for the new one
    assert torch.equal(new.features["a"], read.features["a"])


def test_images_of_equal_content_are_encoded_once(rows: list[ImageRow], tmp_path: Path) -> None:
    shutil.copy(rows[2].path, tmp_path / "copy.png")
    copy = ImageRow("copy", str(tmp_path / "copy.png"), 1)
    encoder = TinyEncoder()
    read = encode([*rows, copy, replace(rows[4], id="again")], tmp_path / "cache", encoder, views=2)
    assert encoder.seen == 22
    assert read.ids[-2:] == ["copy", "again"]
    assert read.labels[-2:].tolist() == [1, rows[4].label]
    assert torch.equal(read.clip[-2:], read.clip[[2, 4]])
    assert read.digests[-2:] == [read.digests[2], read.digests[4]]


def extra(rows: list[ImageRow], folder: Path) -> list[ImageRow]:
    Image.new("RGB", (6, 6), RED).save(folder / "extra.png")
    return [*rows[:5], ImageRow("extra", str(folder / "extra.png"), 0), *rows[5:]]


@pytest.mark.parametrize(
    ("change", "options", "new"),
    [
        pytest.param(lambda rows, _: rows, {}, 0, id="the same"),
        pytest.param(lambda rows, _: rows[::-1], {}, 0, id="order"),
        pytest.param(lambda rows, _: rows[2:7], {}, 0, id="fewer"),
        pytest.param(lambda rows, _: [replace(row, id=f"new {row.id}") for row in rows], {}, 0, id="names"),
        pytest.param(lambda rows, _: [replace(row, label=0) for row in rows], {}, 0, id="labels"),
        pytest.param(lambda rows, _: rows, {"split": "test"}, 0, id="split"),
        pytest.param(lambda rows, _: rows, {"views": 1}, 0, id="fewer views"),
        pytest.param(lambda rows, _: rows, {"views": 1, "seed": 9}, 0, id="another seed, no random views"),
        pytest.param(lambda rows, _: rows, {"batch_size": 3, "workers": 3}, 0, id="batches"),
        pytest.param(extra, {}, 2, id="one image more"),
        pytest.param(lambda rows, _: rows, {"views": 5}, 33, id="more views"),
        pytest.param(lambda rows, _: rows, {"seed": 1}, 11, id="another seed"),
    ],
)
def test_only_what_no_one_has_encoded_is_encoded(
    rows: list[ImageRow],
    tmp_path: Path,
    change: Callable[[list[ImageRow], Path], list[ImageRow]],
    options: dict[str, Any],
    new: int,
) -> None:
    encode(rows, tmp_path / "cache", views=2)
    before = files(tmp_path / "cache")
    encoder, changed, options = TinyEncoder(), change(rows, tmp_path), {"views": 2, **options}
    read = encode(changed, tmp_path / "cache", encoder, **options)
    assert encoder.seen == new
    assert files(tmp_path / "cache").items() >= before.items()
    assert (files(tmp_path / "cache") == before) == (new == 0)
    fresh = encode(changed, None, **options)
    torch.testing.assert_close(read.clip, fresh.clip, atol=1e-3, rtol=0)
    assert (read.ids, read.digests, read.labels.tolist()) == (fresh.ids, fresh.digests, fresh.labels.tolist())


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        pytest.param(TinyEncoder("other"), {}, id="encoder"),
        pytest.param(TinyEncoder(transform="8x8"), {}, id="transform"),
        pytest.param(TinyEncoder(), {"max_megapixels": 1.0}, id="cap"),
    ],
)
def test_nothing_of_another_encoder_or_reading_is_used(
    rows: list[ImageRow], tmp_path: Path, encoder: TinyEncoder, options: dict[str, Any]
) -> None:
    encode(rows, tmp_path / "cache")
    encoder.seen = 0
    encode(rows, tmp_path / "cache", encoder, **options)
    assert encoder.seen == 11


def test_a_changed_pixel_is_another_image(rows: list[ImageRow], tmp_path: Path) -> None:
    encode(rows, tmp_path / "cache", views=2)
    image = Image.open(rows[3].path).convert("RGB")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(rows[3].path)
    encoder = TinyEncoder()
    read = encode(rows, tmp_path / "cache", encoder, views=2)
    assert encoder.seen == 2
    torch.testing.assert_close(read.clip, encode(rows, None, views=2).clip, atol=1e-3, rtol=0)


def test_a_file_that_changes_while_it_is_read_poisons_nothing(rows: list[ImageRow], tmp_path: Path) -> None:
    class Meddling(TinyEncoder):
        def preprocess(self, image: Image.Image) -> Tensor:
            shutil.copy(rows[0].path, rows[3].path)
            return super().preprocess(image)

    assert "changed while it was read" in refused(encode, rows, tmp_path / "cache", Meddling(), workers=1)
    read = encode(rows, tmp_path / "cache")
    torch.testing.assert_close(read.clip, encode(rows, None).clip)


def test_memory_is_bounded_by_the_batch(rows: list[ImageRow], tmp_path: Path) -> None:
    """At most so many views are encoded at a time, and no more than the next batch's are made meanwhile."""
    alive, most, lock = 0, 0, threading.Lock()

    class Counting(TinyEncoder):
        def preprocess(self, image: Image.Image) -> Tensor:
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)
            return super().preprocess(image)

        def encode_images(self, images: Tensor) -> Tensor:
            nonlocal alive
            with lock:
                alive -= len(images)
            return super().encode_images(images)

    encoder = Counting()
    encode(rows, tmp_path / "cache", encoder, batch_size=2)
    assert encoder.most == 2
    assert most <= 4
    encoder = TinyEncoder()
    encode(rows, None, encoder, batch_size=3, views=7)  # the views of one image are more than a batch
    assert encoder.most == 3


# ---- never half, never damaged ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [0, 3, 4, 8, 9])
def test_a_killed_computation_goes_on_to_the_same_features(
    rows: list[ImageRow], tmp_path: Path, small_pieces: None, stop_after: int
) -> None:
    Path(rows[1].path).write_bytes(b"broken")
    whole = encode(rows, None, views=2, batch_size=2, max_skipped=0.1)

    class Dying(TinyEncoder):
        def encode_images(self, images: Tensor) -> Tensor:
            if self.seen >= 2 * stop_after:
                raise KilledError
            return super().encode_images(images)

    with pytest.raises(KilledError):
        encode(rows, tmp_path / "cache", Dying(), views=2, batch_size=2, max_skipped=0.1)
    second = TinyEncoder()
    resumed = encode(rows, tmp_path / "cache", second, views=2, batch_size=2, max_skipped=0.1)
    in_pieces = (3, 7, 10)  # images that were encoded at the end of each piece
    assert second.seen == 2 * (10 - max((done for done in in_pieces if done <= stop_after), default=0))
    assert torch.equal(resumed.clip, whole.clip)
    assert resumed.skipped == whole.skipped


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    match how:
        case "cut":
            path.write_bytes(content[:-5])
        case "empty":
            path.write_bytes(b"")
        case "flip":
            content[-20] ^= 1
            path.write_bytes(content)
        case "text":
            path.write_text("no features")


@pytest.mark.parametrize("how", ["cut", "empty", "flip", "text"])
def test_a_damaged_file_is_told_removed_and_computed_again(
    rows: list[ImageRow], tmp_path: Path, small_pieces: None, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = encode(rows, tmp_path / "cache")
    paths = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(paths) == 3
    lost = len(read_tensors(paths[1])[1]["views"])
    damage(paths[1], how)
    encoder = TinyEncoder()
    assert torch.equal(encode(rows, tmp_path / "cache", encoder).clip, whole.clip)
    assert encoder.seen == lost
    assert [record.getMessage() for record in caplog.records] == [
        f"The features in {paths[1]} are damaged, and computed again."
    ]
    assert not paths[1].exists()
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 3


def test_a_damaged_file_that_can_not_be_removed_is_only_told(
    rows: list[ImageRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode(rows, tmp_path / "cache")
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    damage(path, "flip")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert torch.equal(encode(rows, tmp_path / "cache").clip, whole.clip)


def test_a_file_in_another_encoders_folder_is_not_used(rows: list[ImageRow], tmp_path: Path) -> None:
    encode(rows, tmp_path / "cache")
    (mine,) = (tmp_path / "cache").rglob("*.safetensors")
    encode(rows, tmp_path / "cache", TinyEncoder("other", scale=-1.0))
    (other,) = set((tmp_path / "cache").rglob("*.safetensors")) - {mine}
    other.replace(mine)
    encoder = TinyEncoder()
    assert torch.equal(encode(rows, tmp_path / "cache", encoder).clip, encode(rows, None).clip)
    assert encoder.seen == 11


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "gone.safetensors" in refused(read_features, tmp_path / "gone.safetensors", purpose="fit")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1), unique=True, max_size=5))
def test_texts_and_tensors_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str]
) -> None:
    path = tmp_path_factory.mktemp("stored") / "file"
    tensors = {"ids": pack_text(ids), "values": torch.randn(len(ids), 4).half()}
    write_tensors(path, tensors, {"split": "test"})
    first = path.read_bytes()
    facts, read = read_tensors(path)
    assert unpack_text(read["ids"]) == ids
    assert torch.equal(read["values"], tensors["values"])
    assert facts == {"split": "test"}
    write_tensors(path, tensors, {"split": "test"})
    assert path.read_bytes() == first


# ---- the test stays shut ------------------------------------------------------------------------------------------


def test_who_fits_cannot_open_test_features(rows: list[ImageRow], tmp_path: Path) -> None:
    seen = encode(rows, None, views=2)
    test, support = (tmp_path / f"{split}.safetensors" for split in ("test", "support"))
    write_features(test, seen, "clip", "test")
    write_features(support, seen, "clip", "support")
    assert "test features" in refused(read_features, test, purpose="fit")
    for path, purpose in ((test, "evaluate"), (support, "evaluate"), (support, "fit")):
        read = read_features(path, purpose=purpose)
        assert (read.ids, read.digests, read.skipped) == (seen.ids, seen.digests, {})
        torch.testing.assert_close(read.values, seen.clip)
    test.replace(support)
    assert "test features" in refused(read_features, support, purpose="fit")
    with pytest.raises(ValueError, match="to fit or to evaluate"):
        read_features(support, purpose="train")  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["cut", "empty", "flip", "text"])
def test_a_damaged_split_is_refused(rows: list[ImageRow], tmp_path: Path, how: str) -> None:
    path = tmp_path / "clip.safetensors"
    write_features(path, encode(rows, None), "clip", "support")
    damage(path, how)
    assert str(path) in refused(read_features, path, purpose="fit")


# ---- images -------------------------------------------------------------------------------------------------------


def save(tmp_path: Path, image: Image.Image, name: str = "image.png", **options: Any) -> ImageRow:
    path = tmp_path / name
    image.save(path, **options)
    return ImageRow(name, str(path), 0)


def colour(row: ImageRow, place: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = read_image(row)
    assert image.mode == "RGB"
    return image.getpixel(place)


def test_transparency_is_on_white(tmp_path: Path) -> None:
    assert colour(save(tmp_path, Image.new("RGBA", (2, 2), (0, 0, 0, 0)))) == (255, 255, 255)
    half = colour(save(tmp_path, Image.new("RGBA", (2, 2), HALF_RED)))
    assert half[0] == 255
    assert abs(half[1] - 127) <= 1
    assert colour(save(tmp_path, Image.new("LA", (2, 2), (0, 0)))) == (255, 255, 255)


def test_palettes_keep_their_colours_and_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    assert colour(save(tmp_path, image)) == RED
    row = save(tmp_path, image, transparency=0)
    assert colour(row) == (255, 255, 255)
    assert colour(row, (1, 0)) == (0, 255, 0)


@pytest.mark.parametrize(("mode", "value"), [("1", 1), ("L", 255), ("RGB", (255, 255, 255))])
def test_plain_modes_become_rgb(tmp_path: Path, mode: str, value: Any) -> None:
    assert colour(save(tmp_path, Image.new(mode, (2, 2), value))) == (255, 255, 255)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    red = colour(save(tmp_path, Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "c.jpg", quality=95))
    assert red[0] > 240
    assert max(red[1:]) < 15


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bits_are_scaled_not_cut(tmp_path: Path, name: str) -> None:
    deep = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    row = save(tmp_path, Image.fromarray(deep), name)
    assert [colour(row, (x, 0))[0] for x in range(5)] == [0, 0, 1, 128, 255]


def test_exif_orientation_is_obeyed(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    row = save(tmp_path, image, exif=exif)
    assert read_image(row).size == (2, 4)
    assert colour(row, (1, 0)) == RED


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    whole = save(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)))
    content = Path(whole.path).read_bytes()
    for name, broken in {"cut.png": content[: len(content) // 2], "text.png": b"hello", "empty.png": b""}.items():
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(UnreadableImageError):
            read_image(ImageRow(name, str(tmp_path / name), 0))
    with pytest.raises(UnreadableImageError):
        read_image(ImageRow("gone", str(tmp_path / "gone.png"), 0))
    with pytest.raises(UnreadableImageError, match="32-bit"):
        read_image(save(tmp_path, Image.new("F", (2, 2), 0.5), "float.tif"))
    assert hash_image(ImageRow("gone", str(tmp_path / "gone.png"), 0)) == "missing"


def test_huge_images_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = save(tmp_path, Image.new("1", (1500, 1000)))
    assert read_image(row, max_megapixels=1.5).size == (1500, 1000)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UnreadableImageError, match="megapixels"):
        read_image(row, max_megapixels=1.49)


def test_what_pillow_would_hand_on_to_a_program_is_no_image(tmp_path: Path) -> None:
    """Ghostscript runs what is in a file of PostScript, whatever the file is called."""
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) print\n%%EOF\n"
    (tmp_path / "photo.png").write_bytes(page)
    with Image.open(tmp_path / "photo.png") as image:
        assert image.format == "EPS"
    with pytest.raises(UnreadableImageError, match="no image"):
        read_image(ImageRow("photo", str(tmp_path / "photo.png"), 0))


def test_a_picture_in_a_picture_is_bounded_too(tmp_path: Path) -> None:
    """An icon says that it is small, and holds a PNG that is not."""
    inner = io.BytesIO()
    Image.new("1", (9000, 9000)).save(inner, "PNG")
    entry = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner.getvalue()), 22)
    (tmp_path / "small.ico").write_bytes(entry + inner.getvalue())
    with pytest.raises(UnreadableImageError, match="megapixels"):
        read_image(ImageRow("small", str(tmp_path / "small.ico"), 0))


def test_words_about_a_picture_are_no_place_for_a_bomb(tmp_path: Path) -> None:
    words = PngInfo()
    words.add_text("words", "\0" * 2**26, zip=True)
    row = save(tmp_path, Image.new("RGB", (4, 4), RED), pnginfo=words)
    assert Path(row.path).stat().st_size < 2**18
    assert colour(row) == RED


@pytest.mark.parametrize("kind", [np.float32, np.complex64, np.bool_, np.int64, "U1", [("a", np.uint8)]])
@pytest.mark.parametrize("shape", [(2, 4, 4), (2,), (2, 4, 0), (2, 4, 4, 4), (0, 4, 4)])
def test_arrays_of_other_kinds_are_no_images(tmp_path: Path, kind: Any, shape: tuple[int, ...]) -> None:
    path = tmp_path / "array.npy"
    np.save(path, np.zeros(shape, np.uint8 if shape != (2, 4, 4) else kind))
    with pytest.raises(UnreadableImageError):
        read_image(ImageRow("1", str(path), 0, 1))
    assert hash_image(ImageRow("1", str(path), 0, 1)) == "missing"


def test_damaged_arrays_are_no_images(tmp_path: Path) -> None:
    path, draw = tmp_path / "array.npy", random.Random(0)
    np.save(path, np.zeros((2, 4, 4), np.uint8))
    whole = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 2, 5))):
            damaged[draw.randrange(128)] = draw.randrange(256)
        path.write_bytes(damaged)
        row = ImageRow("1", str(path), 0, 1)
        hash_image(row)
        with suppress(UnreadableImageError):
            read_image(row)


def test_pillows_guard_stays_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = save(tmp_path, Image.new("1", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImageError, match="Bomb"):
        read_image(row, max_megapixels=1e6)


def test_skipped_images_are_named_left_out_and_counted(
    rows: list[ImageRow], tmp_path: Path, small_pieces: None
) -> None:
    for place in (0, 5):
        Path(rows[place].path).write_bytes(f"broken {place}".encode())
    twice = [*rows, replace(rows[5], id="5 again")]
    for _ in range(2):  # what is broken is not known to the cache, and told again
        read = encode(twice, tmp_path / "cache", max_skipped=0.25, views=2)
        kept = [row for place, row in enumerate(rows) if place not in (0, 5)]
        assert read.ids == [row.id for row in kept]
        assert read.labels.tolist() == [row.label for row in kept]
        assert set(read.skipped) == {"0.png", "5.png", "5 again"}
        torch.testing.assert_close(read.clip, encode(kept, None, views=2).clip, atol=1e-3, rtol=0)


def test_too_many_skipped_images_are_an_error_that_names_some(
    rows: list[ImageRow], tmp_path: Path, small_pieces: None
) -> None:
    for row in rows[:8]:
        Path(row.path).unlink()
    message = refused(encode, rows, tmp_path / "cache", max_skipped=0.2)
    assert all(part in message for part in ("0.png", "of 11", "max_skipped"))
    assert encode(rows, tmp_path / "cache", max_skipped=0.8).ids == [row.id for row in rows[8:]]
    assert "0.png" in refused(encode, rows, tmp_path / "cache", max_skipped=0.2)


def test_no_readable_image_is_no_support_but_a_test_without_answers(rows: list[ImageRow], tmp_path: Path) -> None:
    for row in rows:
        Path(row.path).write_bytes(b"broken")
    assert "None of the images" in refused(encode, rows, tmp_path / "cache", max_skipped=1.0)
    read = encode(rows, tmp_path / "cache", split="test", max_skipped=1.0)
    assert read.clip.shape == (0, 1, 5)
    assert set(read.skipped) == {row.id for row in rows}


# ---- photos at the scale that is read -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> ImageRow:
    """Something as smooth and as rough as a photo: noise of all scales, and edges."""
    width, height, rng = 2400, 1600, np.random.default_rng(0)
    image = np.full((height, width), 128, np.float32)
    for scale in (2, 8, 32, 128):
        levels = rng.normal(0, 20, (height // scale, width // scale)).astype(np.float32)
        image += np.asarray(Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC))
    image[height // 3 : height // 2, width // 4 : width // 2] += 60
    colours = [np.clip(image * share, 0, 255).astype(np.uint8) for share in (1.0, 0.9, 0.7)]
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(np.stack(colours, -1)).save(path, quality=90)
    return ImageRow(path.name, str(path), 0)


@pytest.mark.parametrize(
    ("size", "read"),
    [((6000, 4000), (1500, 1000)), ((3200, 2400), (1600, 1200)), ((1535, 2000), (1535, 2000)), ((40, 30), (40, 30))],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_is_enough(
    tmp_path: Path, size: tuple[int, int], read: tuple[int, int]
) -> None:
    row = save(tmp_path, Image.new("L", size), "photo.jpg")
    found = read_image(row, side=READ_SIDE).size
    assert min(found) >= min(READ_SIDE, *size)
    assert found == read


@pytest.mark.parametrize("size", [224, 384])
def test_encoders_see_the_same_pixels_at_that_scale(photo: ImageRow, size: int) -> None:
    """The difference is below a grey level on average, and below that between two usual ways to resize."""
    box = (400, 100, 1900, 1500)
    full, scaled = read_image(photo), read_image(photo, side=READ_SIDE)
    share = scaled.width / full.width
    assert share == 0.5

    def resized(image: Image.Image, scale: float, how: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
        part = image.resize((size, size), how, tuple(scale * side for side in box))
        return np.asarray(part, np.float32)

    difference = np.abs(resized(full, 1) - resized(scaled, share))
    other_way = np.abs(resized(full, 1) - resized(full, 1, Image.Resampling.BILINEAR))
    assert difference.mean() < min(1, other_way.mean())
    assert difference.max() < 12


def test_scale_keeps_what_the_file_says_of_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    row = save(tmp_path, Image.new("RGB", (3200, 1600)), "turned.jpg", exif=exif)
    assert read_image(row, side=READ_SIDE).size == (800, 1600)
    square = (1600, 1600)
    grey = save(tmp_path, Image.new("L", square, 77), "grey.jpg")
    assert read_image(grey, side=READ_SIDE).getpixel((5, 5)) == (77, 77, 77)
    ink = save(tmp_path, Image.new("CMYK", square, (0, 255, 255, 0)), "ink.jpg", quality=95)
    red = read_image(ink, side=READ_SIDE).getpixel((5, 5))
    assert red[0] > 240
    assert max(red[1:]) < 15
    assert read_image(save(tmp_path, Image.new("L", square)), side=READ_SIDE).size == square  # a PNG
