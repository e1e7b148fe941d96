"""Reading images, and the feature cache: the right features, nothing stale, nothing half, no fit to the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.images import UnreadableImageError, check_skipped, hash_image, read_image
from logitfusion.clip.features import cache as features
from logitfusion.clip.features.cache import cache_features, read_features
from logitfusion.clip.features.files import Stored, read_stored, write_stored
from logitfusion.errors import UserError

RED, HALF_RED = (255, 0, 0), (255, 0, 0, 128)


class TinyEncoder:
    """The mean colours of an image's four quarters, turned by a fixed matrix; counts the images it has seen."""

    def __init__(self, fingerprint: str = "tiny", transform: str = "4x4; noise 0.1", scale: float = 3.0) -> None:
        self.fingerprint, self.transform, self.scale = fingerprint, transform, scale
        self.seen = 0
        self.matrix = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))

    def preprocess(self, image: Image.Image) -> Tensor:
        assert image.mode == "RGB"
        return torch.from_numpy(np.asarray(image.resize((4, 4)), np.float32).copy()).permute(2, 0, 1) / 255 + 0.1

    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        plain = self.preprocess(image)
        return plain + 0.1 * torch.randn(plain.shape, generator=generator)

    def encode_images(self, images: Tensor) -> Tensor:
        self.seen += len(images)
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
    monkeypatch.setattr(features, "PIECE", 4)


def cache(rows: list[ImageRow], folder: Path, encoder: TinyEncoder | None = None, **options: Any) -> Path:
    return cache_features(rows, encoder or TinyEncoder(), folder, **{"split": "support", **options})


def refused(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    return str(caught.value)


# ---- the features -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_features_are_the_encoders_of_unit_norm_in_fp16(rows: list[ImageRow], tmp_path: Path, batch_size: int) -> None:
    read = read_features(cache(rows, tmp_path / "cache", batch_size=batch_size), purpose="fit")
    encoder = TinyEncoder()
    for place, row in enumerate(rows):
        with Image.open(row.path) as image:
            raw = encoder.encode_images(encoder.preprocess(image)[None])[0].double()
        torch.testing.assert_close(read.values[place, 0].double(), raw / raw.norm(), atol=1e-3, rtol=0)
    assert read.values.shape == (11, 1, 5)
    assert read.values.dtype == torch.float32
    torch.testing.assert_close(read.values.norm(dim=-1), torch.ones(11, 1))
    assert read.ids == [row.id for row in rows]
    assert read.labels.tolist() == [row.label for row in rows]


def test_a_random_view_depends_on_seed_image_and_number_only(rows: list[ImageRow], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    straight = read_features(cache(rows, folder, views=3, seed=5, batch_size=64, workers=4), purpose="fit")
    torch.rand(7)  # torch's own state has no say
    mixed = [rows[place] for place in torch.randperm(11).tolist()][:8]
    other = read_features(cache(mixed, folder, views=4, seed=5, batch_size=5, workers=1), purpose="fit")
    for place, name in enumerate(other.ids):
        same = straight.values[straight.ids.index(name)]
        torch.testing.assert_close(other.values[place, :3], same, atol=1e-3, rtol=0)
    views = straight.values.flatten(0, 1)
    assert (views @ views.T - torch.eye(33) * 2).max() < 0.999999  # no two views are equal
    seed_6 = read_features(cache(rows, folder, views=3, seed=6), purpose="fit")
    torch.testing.assert_close(seed_6.values[:, 0], straight.values[:, 0])
    assert (seed_6.values[:, 1:] - straight.values[:, 1:]).abs().amax(-1).min() > 1e-3


def test_the_same_picture_under_two_ids_has_its_own_random_views(rows: list[ImageRow], tmp_path: Path) -> None:
    twins = [rows[0], replace(rows[0], id="twin")]
    values = read_features(cache(twins, tmp_path / "cache", views=2), purpose="fit").values
    torch.testing.assert_close(values[0, 0], values[1, 0])
    assert (values[0, 1] - values[1, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_features_of_any_length_are_stored_as_unit_vectors(rows: list[ImageRow], tmp_path: Path, scale: float) -> None:
    """fp16 ends at 65,504 and has no digits left at 1e-8."""
    stored = read_stored(cache(rows, tmp_path / "cache", TinyEncoder(scale=scale)))
    assert stored.values.dtype == torch.float16
    torch.testing.assert_close(stored.values.double().norm(dim=-1), torch.ones(11, 1).double(), atol=2e-3, rtol=0)


def test_progress_counts_up_to_all_images(rows: list[ImageRow], tmp_path: Path, small_pieces: None) -> None:
    calls: list[tuple[int, int]] = []
    cache(rows, tmp_path / "cache", batch_size=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 11) for done in (3, 4, 7, 8, 11)]


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
    assert "'0.png'" in refused(cache, rows, tmp_path / "cache", TinyEncoder(scale=scale))
    assert not list((tmp_path / "cache").glob("*.safetensors"))


@pytest.mark.parametrize("options", [{"views": 0}, {"batch_size": 0}, {"split": "train"}, {"split": "val"}])
def test_calls_that_make_no_sense_are_refused(rows: list[ImageRow], tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nothing to do"):
        cache(rows, tmp_path, **options)
    with pytest.raises(ValueError, match="twice"):
        cache([rows[0], rows[0]], tmp_path)


# ---- never stale --------------------------------------------------------------------------------------------------


def test_equal_calls_compute_once(rows: list[ImageRow], tmp_path: Path) -> None:
    encoder = TinyEncoder()
    first = cache(rows, tmp_path / "cache", encoder, views=2)
    content = first.read_bytes()
    assert cache(rows, tmp_path / "cache", encoder, views=2, workers=3, batch_size=7) == first
    assert encoder.seen == 22
    assert first.read_bytes() == content
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]


def change_bytes(rows: list[ImageRow]) -> list[ImageRow]:
    image = Image.open(rows[3].path).convert("RGB")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(rows[3].path)
    return rows


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda rows: (rows, TinyEncoder("other"), {}), id="encoder"),
        pytest.param(lambda rows: (rows, TinyEncoder(transform="8x8"), {}), id="transform"),
        pytest.param(lambda rows: (rows, TinyEncoder(), {"split": "test"}), id="split"),
        pytest.param(lambda rows: (rows, TinyEncoder(), {"views": 3}), id="views"),
        pytest.param(lambda rows: (rows, TinyEncoder(), {"seed": 1}), id="seed"),
        pytest.param(lambda rows: (rows, TinyEncoder(), {"max_megapixels": 1.0}), id="cap"),
        pytest.param(lambda rows: (rows[::-1], TinyEncoder(), {}), id="order"),
        pytest.param(lambda rows: (rows[:-1], TinyEncoder(), {}), id="fewer"),
        pytest.param(lambda rows: ([replace(rows[0], label=2), *rows[1:]], TinyEncoder(), {}), id="label"),
        pytest.param(lambda rows: ([replace(rows[0], id="new"), *rows[1:]], TinyEncoder(), {}), id="id"),
        pytest.param(lambda rows: (change_bytes(rows), TinyEncoder(), {}), id="one pixel"),
    ],
)
def test_whatever_decides_the_features_decides_the_file(
    rows: list[ImageRow], tmp_path: Path, change: Callable[[list[ImageRow]], tuple[list[ImageRow], TinyEncoder, dict]]
) -> None:
    before = cache(rows, tmp_path / "cache", views=2)
    changed, encoder, options = change(rows)
    after = cache(changed, tmp_path / "cache", encoder, **{"views": 2, **options})
    assert after != before
    assert encoder.seen == len(changed) * options.get("views", 2)
    assert "other features" in refused(read_features, after, purpose="evaluate", key=before.stem)


def test_a_place_or_a_seed_that_decides_nothing_is_not_in_the_key(rows: list[ImageRow], tmp_path: Path) -> None:
    """The same images in another folder, or another seed without random views, are the same features."""
    before = cache(rows, tmp_path / "cache")
    shutil.copytree(tmp_path / "images", tmp_path / "moved")
    moved = [replace(row, path=row.path.replace("/images/", "/moved/")) for row in rows]
    assert cache(moved, tmp_path / "cache", seed=9) == before


def test_a_file_under_another_files_name_is_not_used(rows: list[ImageRow], tmp_path: Path) -> None:
    right = cache(rows, tmp_path / "cache")
    content = right.read_bytes()
    other = cache(rows, tmp_path / "cache", TinyEncoder("other"))
    other.replace(right)
    encoder = TinyEncoder()
    assert cache(rows, tmp_path / "cache", encoder) == right
    assert encoder.seen == 11
    assert right.read_bytes() == content


# ---- never half ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [0, 3, 4, 8, 9])
def test_a_killed_computation_goes_on_to_the_same_bytes(
    rows: list[ImageRow], tmp_path: Path, small_pieces: None, stop_after: int
) -> None:
    whole = cache(rows, tmp_path / "whole", views=2, batch_size=2)

    class Dying(TinyEncoder):
        def encode_images(self, images: Tensor) -> Tensor:
            if self.seen >= 2 * stop_after:
                raise KilledError
            return super().encode_images(images)

    with pytest.raises(KilledError):
        cache(rows, tmp_path / "cache", Dying(), views=2, batch_size=2)
    assert not list((tmp_path / "cache").glob("*.safetensors"))
    second = TinyEncoder()
    resumed = cache(rows, tmp_path / "cache", second, views=2, batch_size=2)
    assert second.seen == 2 * (11 - stop_after // 4 * 4)
    assert resumed.name == whole.name
    assert resumed.read_bytes() == whole.read_bytes()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [resumed.name]


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
def test_a_damaged_file_is_refused_by_readers_and_computed_again_by_the_cache(
    rows: list[ImageRow], tmp_path: Path, how: str
) -> None:
    path = cache(rows, tmp_path / "cache")
    content = path.read_bytes()
    damage(path, how)
    assert str(path) in refused(read_features, path, purpose="fit")
    assert cache(rows, tmp_path / "cache") == path
    assert path.read_bytes() == content


@pytest.mark.parametrize("how", ["cut", "empty", "flip", "text"])
def test_a_damaged_piece_is_computed_again(
    rows: list[ImageRow], tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    whole = cache(rows, tmp_path / "whole")
    monkeypatch.setattr(features, "remove", lambda path: None)
    path = cache(rows, tmp_path / "cache")
    path.unlink()
    pieces = sorted(path.with_suffix(".pieces").iterdir())
    assert len(pieces) == 3
    damage(pieces[1], how)
    encoder = TinyEncoder()
    cache(rows, tmp_path / "cache", encoder)
    assert encoder.seen == 4
    assert path.read_bytes() == whole.read_bytes()


def test_pieces_of_another_computation_are_not_used(
    rows: list[ImageRow], tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cache(rows, tmp_path / "whole")
    monkeypatch.setattr(features, "remove", lambda path: None)
    other = cache(rows, tmp_path / "cache", TinyEncoder("other", scale=-1.0))
    other.with_suffix(".pieces").rename(tmp_path / "cache" / f"{whole.stem}.pieces")
    assert cache(rows, tmp_path / "cache").read_bytes() == whole.read_bytes()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "gone.safetensors" in refused(read_features, tmp_path / "gone.safetensors", purpose="fit")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1), unique=True, max_size=5),
    st.integers(1, 3),
)
def test_a_file_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], views: int
) -> None:
    path = tmp_path_factory.mktemp("stored") / "file"
    stored = Stored(torch.randn(len(ids), views, 4).half(), torch.arange(len(ids)), ids, {"a": "b"})
    write_stored(path, stored, {"split": "test"})
    first = path.read_bytes()
    read = read_stored(path)
    assert (read.ids, read.skipped) == (ids, {"a": "b"})
    assert torch.equal(read.values, stored.values)
    assert torch.equal(read.labels, stored.labels)
    write_stored(path, stored, {"split": "test"})
    assert path.read_bytes() == first


# ---- the test stays shut ------------------------------------------------------------------------------------------


def test_who_fits_cannot_open_test_features(rows: list[ImageRow], tmp_path: Path) -> None:
    test, support = (cache(rows, tmp_path / "cache", split=split) for split in ("test", "support"))
    assert "test features" in refused(read_features, test, purpose="fit")
    assert read_features(test, purpose="evaluate").ids == read_features(support, purpose="fit").ids
    disguised = support.with_name("support.safetensors")
    test.rename(disguised)
    assert "test features" in refused(read_features, disguised, purpose="fit")
    with pytest.raises(ValueError, match="to fit or to evaluate"):
        read_features(support, purpose="train")  # type: ignore[arg-type]


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


def test_pillows_guard_stays_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = save(tmp_path, Image.new("1", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImageError, match="Bomb"):
        read_image(row, max_megapixels=1e6)


def test_skipped_images_are_named_left_out_and_counted(
    rows: list[ImageRow], tmp_path: Path, small_pieces: None, caplog: pytest.LogCaptureFixture
) -> None:
    for place in (0, 5):
        Path(rows[place].path).write_bytes(b"broken")
    read = read_features(cache(rows, tmp_path / "cache", max_skipped=0.2, views=2), purpose="fit")
    kept = [row for place, row in enumerate(rows) if place not in (0, 5)]
    assert read.ids == [row.id for row in kept]
    assert read.labels.tolist() == [row.label for row in kept]
    assert set(read.skipped) == {"0.png", "5.png"}
    assert "0.png, 5.png" in caplog.text
    alone = read_features(cache(kept, tmp_path / "cache", views=2), purpose="fit")
    torch.testing.assert_close(read.values, alone.values, atol=1e-3, rtol=0)


def test_too_many_skipped_images_are_an_error_that_names_some(
    rows: list[ImageRow], tmp_path: Path, small_pieces: None
) -> None:
    for row in rows[:8]:
        Path(row.path).unlink()
    message = refused(cache, rows, tmp_path / "cache", max_skipped=0.2)
    assert all(part in message for part in ("0.png", "of 11", "max_skipped"))
    path = cache(rows, tmp_path / "cache", max_skipped=0.8)
    assert read_features(path, purpose="fit").ids == [row.id for row in rows[8:]]
    assert "0.png" in refused(cache, rows, tmp_path / "cache", max_skipped=0.2)
    assert path.exists()
    check_skipped({"a": "why"}, 10, 0.1)


def test_no_readable_image_at_all_is_an_error(rows: list[ImageRow], tmp_path: Path) -> None:
    gone = [replace(row, path="/nowhere") for row in rows]
    assert "None of the images" in refused(cache, gone, tmp_path / "cache", max_skipped=1.0)
