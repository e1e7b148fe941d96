"""Every file of a user's folder is an image or has a reason; names, lists and split files say what disagrees."""

from __future__ import annotations

import io
import json
import os
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from logitfusion.clip.data import ImageRow, read_data
from logitfusion.clip.data.coop import read_coop
from logitfusion.clip.data.formats import image_suffixes
from logitfusion.clip.data.found import find_images, left_out_lines
from logitfusion.clip.data.images import read_image
from logitfusion.clip.data.labelled import (
    find_unlabelled,
    join_labelled,
    list_unlabelled,
    read_labelled_folder,
    read_labelled_list,
    score_folder,
    score_list,
)
from logitfusion.clip.data.names import read_names, same_text, text_key
from logitfusion.errors import UserError

CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
RED = (200, 30, 30)


def refused(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def draw(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 2), RED).save(path)
    return path


def names_below(root: Path, paths: Any) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in paths]


# ---- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "jfif", "png", "avif", "jp2", "webp", "bmp", "tif", "gif"])
def test_what_pillow_writes_and_reads_is_found_and_read(tmp_path: Path, suffix: str) -> None:
    file = draw(tmp_path / f"a.{suffix}")
    assert find_images(tmp_path).images == [file]
    assert np.allclose(np.asarray(read_image(ImageRow("a", str(file), 0)))[0, 0], RED, atol=12)


def test_formats_without_a_decoder_are_no_images() -> None:
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".txt", ""} & image_suffixes()


def test_files_that_are_no_images_say_why_and_what_to_do(tmp_path: Path) -> None:
    for name in ("a.heic", "b.jxl", "c.cr2", "d.svg", "e.txt", "Thumbs.db", ".DS_Store", "@eaDir/a.jpg/SYNO.jpg",
                 "__MACOSX/a.jpg", ".cache/a.jpg", "._f.jpg", "noname"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_images(tmp_path)
    why = dict(zip(names_below(tmp_path, found.left_out), found.left_out.values(), strict=True))
    assert found.images == []
    assert "pillow-heif" in why["a.heic"] or ".heic" in image_suffixes()
    assert "JPEG" in why["c.cr2"]
    assert "PNG" in why["d.svg"]
    assert why["Thumbs.db"] == why["@eaDir/a.jpg/SYNO.jpg"] == why["__MACOSX/a.jpg"] == why["._f.jpg"]
    assert "dot" in why[".cache/a.jpg"]
    assert len(why) == 12


tree = st.dictionaries(
    st.lists(st.sampled_from(["a", "b", ".c", "@eaDir"]), max_size=3).map(tuple),
    st.sets(st.sampled_from(["1.jpg", "2.PNG", ".3.jpg", "4.txt", "Thumbs.db"])),
    max_size=5,
)


@settings(max_examples=25, deadline=None)
@given(tree)
def test_each_file_is_in_one_of_both(tmp_path_factory: pytest.TempPathFactory, files: dict[tuple, set[str]]) -> None:
    root = tmp_path_factory.mktemp("tree")
    for folders, names in files.items():
        root.joinpath(*folders).mkdir(parents=True, exist_ok=True)
        for name in names:
            root.joinpath(*folders, name).touch()
    found = find_images(root)
    everything = sorted(str(file) for file in root.rglob("*") if file.is_file())
    assert sorted([*map(str, found.images), *found.left_out]) == everything
    assert found.images == sorted(found.images)
    counted = [int(line.split()[0]) for line in left_out_lines(found.left_out)]
    assert sum(counted) == len(found.left_out)
    assert counted == sorted(counted, reverse=True)


def test_links_stay_inside_and_go_in_no_circle(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("cat/1.png", "cat/deep/2.png", ".store/yak/3.png", "owl/4.png"):
        draw(root / name)
    outside = draw(tmp_path / "outside/5.png")
    (root / "cat/deep/up").symlink_to(root / "cat")  # a circle
    (root / "away").symlink_to(outside.parent)
    (root / "yak").symlink_to(root / ".store/yak")  # found by no other name
    (root / "ant").symlink_to(root / "owl")  # sorted before its target, which keeps its own name
    (root / "gone.png").symlink_to(root / "nothing.png")
    (root / "owl/5.png").symlink_to(outside)
    (root / "owl/same.png").symlink_to(root / "cat/1.png")
    found = find_images(root)
    images = ["cat/1.png", "cat/deep/2.png", "owl/4.png", "owl/5.png", "yak/3.png"]
    assert names_below(root, found.images) == images
    why = dict(zip(names_below(root, found.left_out), found.left_out.values(), strict=True))
    assert "round" in why["cat/deep/up"]
    assert "out of" in why["away"]
    assert "another name" in why["ant"]
    assert "another name" in why["owl/same.png"]
    assert "not there" in why["gone.png"]
    assert why.keys() == {"cat/deep/up", "away", "ant", "owl/same.png", "gone.png", ".store/yak/3.png"}


def test_a_line_break_in_a_name_leaves_that_file_out_alone(tmp_path: Path) -> None:
    for name in ("a.png", "b\nc.png", "d\ne/f.png"):
        draw(tmp_path / name)
    found = find_unlabelled(tmp_path)
    assert [Path(row.path).name for row in found.rows] == ["a.png"]
    (line,) = left_out_lines(found.left_out)
    assert line.startswith("2 files not used (a line break")
    assert "\n" not in line


def test_loose_images_are_counted_and_splits_are_no_classes(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png", "loose.png", "b/n.txt"):
        draw(tmp_path / name) if name.endswith("png") else (tmp_path / name).touch()
    data = read_data({"source": "folder", "path": str(tmp_path), "test_share": 1, "seed": 0})
    assert names_below(tmp_path, data.left_out) == ["b/n.txt", "loose.png"]
    assert read_labelled_folder(tmp_path).left_out == data.left_out
    splits = tmp_path / "b"
    for name in ("Train/a/1.png", "valid/a/2.png"):
        draw(splits / name)
    message = refused(read_labelled_folder, splits)
    assert str(splits / "Train") in message
    assert str(splits / "valid") in message
    only_text = tmp_path / "c"
    only_text.mkdir()
    (only_text / "x.heic").touch()
    assert "HEIC" in refused(read_labelled_folder, tmp_path) or ".heic" in image_suffixes()


# ---- names --------------------------------------------------------------------------------------------------------

NAMES = ["Red", "red", CAFE, unicodedata.normalize("NFD", CAFE), "hot  dog", "hot dog", "a&amp;b", "a&b", "hotdog"]


@pytest.mark.parametrize("name", ["lost+found", "LOST.DIR", "@Recycle", "#snapshot", "@Recently-Snapshot"])
def test_folders_that_a_disk_or_a_nas_makes_are_no_classes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    for file in ("red/1.png", "blue/2.png", f"red/{name}/3.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / file)
    found = read_labelled_folder(tmp_path)
    assert (found.classes, len(found.rows)) == (["blue", "red"], 2)
    assert list(found.left_out) == [str(tmp_path / f"red/{name}/3.png")]


def test_one_text_to_clip_is_what_its_tokenizer_makes_equal_tokens_of() -> None:
    from open_clip import tokenize

    tokens = [tuple(tokenize(name)[0].tolist()) for name in NAMES]
    for one, first in zip(NAMES, tokens, strict=True):
        for other, second in zip(NAMES, tokens, strict=True):
            assert (text_key(one) == text_key(other)) == (first == second), (one, other)
    assert same_text(NAMES) == [["Red", "red"], NAMES[2:4], ["hot  dog", "hot dog"], ["a&amp;b", "a&b"]]


def test_classes_that_are_one_text_are_told_with_an_image_of_each(tmp_path: Path) -> None:
    for name in ("Red/1.png", "red/2.png", "blue/3.png"):
        draw(tmp_path / name)
    message = refused(read_labelled_folder, tmp_path)
    assert "'Red' (Red/1.png)" in message
    assert "'red' (red/2.png)" in message
    table = tmp_path / "t.csv"
    table.write_text("path,label\nRed/1.png,Red\nred/2.png,red\n", encoding="utf-8")
    assert "Red/1.png" in refused(read_labelled_list, table)


def test_a_folder_of_another_spelling_is_scored_as_its_class(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", CAFE)
    for name in (f"{decomposed}/1.png", "HOT_dog/2.png", "n01/3.png", "4.png"):
        draw(tmp_path / name)
    scored = score_folder(tmp_path, [CAFE, "hot dog", "tench"], [CAFE, "hot_dog", "n01"])
    assert [row.label for row in sorted(scored.rows, key=lambda row: Path(row.path).name)] == [0, 1, 2]
    assert names_below(tmp_path, scored.left_out) == ["4.png"]
    assert "no class of this head" in refused(score_folder, tmp_path, [CAFE, "hot dog"])


def test_two_folders_of_one_text_are_told_and_not_called_empty(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        draw(tmp_path / unicodedata.normalize(form, CAFE) / f"{form}.png")
    message = refused(read_labelled_folder, tmp_path)
    assert "one text" in message
    assert "NFC.png" in message
    assert "NFD.png" in message


def test_the_folders_that_were_learnt_are_scored_as_what_they_were(tmp_path: Path) -> None:
    """Their names may be other classes' names: ImageNet has two cranes."""
    for name in ("bird/1.png", "crane/2.png", "Crane/3.png"):
        draw(tmp_path / name)
    classes, folders = ["crane", "machine", "origami"], ["bird", "crane", "Crane"]
    scored = score_folder(tmp_path, classes, folders)
    assert {Path(row.path).parent.name: row.label for row in scored.rows} == {"bird": 0, "crane": 1, "Crane": 2}
    table = tmp_path / "t.csv"
    table.write_text("path,label\nbird/1.png,bird\ncrane/2.png,crane\n", encoding="utf-8")
    assert [row.label for row in score_list(table, classes, folders).rows] == [0, 1]
    table.write_text("path,label\nbird/1.png,crane\ncrane/2.png,machine\n", encoding="utf-8")
    assert [row.label for row in score_list(table, classes, folders).rows] == [0, 1]


def test_class_names_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text('{"b": "beta", "a": "alpha"}', encoding="utf-8-sig")
    assert list(read_names(path).items()) == [("b", "beta"), ("a", "alpha")]
    for wrong in ('["a"]', '{"a": 1}', "{}", "{", '{"a": ""}', '{"a": "x", "a": "y"}'):
        path.write_text(wrong)
        assert str(path) in refused(read_names, path)


# ---- lists --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.png,cat\nb.png,yak\n",
        "\ufeffPath ; Label\r\na.png;cat\r\nb.png; yak \r\n",
        "path\tlabel\na.png\tcat\nb.png\tyak\n",
    ],
)
def test_lists_out_of_spreadsheets_are_read(tmp_path: Path, text: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(text, encoding="utf-8", newline="")
    found = read_labelled_list(table)
    assert (found.classes, [row.id for row in found.rows]) == (["cat", "yak"], ["a.png", "b.png"])


def test_a_lists_splits_are_learnt_scored_or_told(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    lines = ["a,cat,train", "b,yak,Train", "c,cat,val", "d,yak,validation", "e,cat,test", "f,yak,test"]
    table.write_text("\n".join(["path,label,split", *lines]), encoding="utf-8")
    learnt, scored = read_labelled_list(table), score_list(table, ["yak", "cat"])
    assert [Path(row.path).name for row in learnt.rows] == ["a", "b"]
    assert [(Path(row.path).name, row.label) for row in scored.rows] == [("e", 1), ("f", 0)]
    for found, rest in ((learnt, "cdef"), (scored, "abcd")):
        assert names_below(tmp_path, found.left_out) == list(rest)
    data = read_data({"source": "csv", "path": str(table)})
    assert names_below(tmp_path, data.left_out) == ["c", "d"]
    table.write_text("\n".join(["path,label,split", *lines[:2]]), encoding="utf-8")
    assert len(read_labelled_list(table).rows) == 2, "all of them to learn from"
    assert "'test'" in refused(score_list, table, ["yak", "cat"])
    table.write_text("path,label\na,cat\nb,dog\n", encoding="utf-8")
    assert "'dog'" in refused(score_list, table, ["yak", "cat"])
    assert "'path'" in refused(read_labelled_list, table_of(tmp_path, "file,label\na,b\n"))


def table_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "other.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_under_two_spellings_is_one(tmp_path: Path) -> None:
    draw(tmp_path / "x/a.png")
    spelt = table_of(tmp_path, "path,label\nx/a.png,cat\n./x//a.png,yak\n")
    assert "twice" in refused(read_labelled_list, spelt)
    assert len(list_unlabelled(spelt).rows) == 1
    parts = [find_unlabelled(place) for place in (tmp_path, tmp_path / "x/../x/a.png", Path(os.path.relpath(tmp_path)))]
    assert len(join_labelled(parts).rows) == 1


# ---- CoOp's split files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test", "word"),
    [
        ([["a", 1, "x"]], [["b", 2, "y"]], "counted from 0"),
        ([["a", 0, "x"], ["b", 0, "z"]], [["c", 1, "y"]], "two names"),
        ([["a", 0.5, "x"]], [["b", 1, "y"]], "0.5"),
        ([["a", True, "x"]], [["b", 0, "y"]], "True"),
        ([["a", 10**400, "x"]], [["b", 0, "y"]], "counted from 0"),
        ([["a", 0, "x"]], [["./a", 1, "y"]], "twice"),
        ([["a", 0, "x"]], [["d/../a", 0, "x"]], "twice"),
        ([["../a", 0, "x"]], [["b", 1, "y"]], "not below"),
        ([["d/../../a", 0, "x"]], [["b", 1, "y"]], "not below"),
        ([["/a", 0, "x"]], [["b", 1, "y"]], "not below"),
        ([["a", 0]], [], "train[0]"),
        ("a", [], "lists"),
    ],
)
def test_split_files_of_coop_are_checked(tmp_path: Path, train: Any, test: Any, word: str) -> None:
    split = tmp_path / "split.json"
    for name in "abc":
        draw(tmp_path / f"{name}.png").rename(tmp_path / name)
    split.write_text(json.dumps({"train": train, "test": test}))
    message = refused(read_coop, split, tmp_path)
    assert word in message
    assert str(split) in message


def test_a_validation_image_that_is_tested_again_is_told(tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": [], "val": [["a", 0, "x"]], "test": [["a", 0, "x"]]}))
    assert "'a' of val" in refused(read_coop, split, tmp_path)


def test_published_names_and_classes(tmp_path: Path) -> None:
    caltech = ["BACKGROUND_Google", "Faces", "Faces_easy", "airplanes", "sea_horse"]
    folders = {"caltech101/101_ObjectCategories": caltech, "eurosat/2750": ["AnnualCrop", "Forest", "SeaLake"]}
    for place, names in folders.items():
        for name in names:
            for number in (1, 2):
                draw(tmp_path / place / name / f"{number}.jpg")
    entry = {"source": "torchvision", "root": str(tmp_path), "test_share": 0.5, "seed": 0}
    caltech, eurosat = (read_data({**entry, "name": name}) for name in ("caltech101", "eurosat"))
    assert caltech.classes == ["face", "airplane", "sea horse"]
    assert len(caltech.left_out) == 4
    assert eurosat.classes == ["Annual Crop Land", "Forest", "Sea or Lake"]


# ---- odd metadata, and depth --------------------------------------------------------------------------------------


def exif(*entries: tuple[int, int, bytes]) -> bytes:
    """EXIF with one value of eight bytes at most under each (tag, type)."""
    start = 8 + 2 + 12 * len(entries) + 4
    table, data = struct.pack("<H", len(entries)), b""
    for tag, kind, value in entries:
        count = len(value) // {2: 1, 3: 2, 5: 8, 10: 8}[kind]
        table += struct.pack("<HHI", tag, kind, count)
        table += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", start + len(data))
        data += value if len(value) > 4 else b""
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + table + struct.pack("<I", 0) + data


TURNED = (0x112, 3, struct.pack("<H", 6))
ODD = {
    "denominator 0": exif(TURNED, (0x11A, 5, struct.pack("<II", 72, 0))),
    "negative": exif(TURNED, (0x11A, 10, struct.pack("<ii", -72, 0))),
    "text for a number": exif((0x100, 2, b"wide\0"), TURNED, (0x11A, 2, b"seven\0")),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_odd_exif_keeps_no_photo_from_being_read_and_turned(tmp_path: Path, odd: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (4, 2), RED).save(path, exif=ODD[odd])
    assert read_image(ImageRow("a", str(path), 0)).size == (2, 4)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_an_orientation_that_is_no_number_turns_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (4, 2), RED).save(path, exif=exif((0x112, 2, b"up\0")))
    assert read_image(ImageRow("a", str(path), 0)).size == (4, 2)


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    found = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", found)


@pytest.mark.parametrize(
    "odd", [chunk(b"pHYs", b"ab"), chunk(b"tEXt", b"k\0v", 1), chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 2**21))]
)
def test_odd_chunks_of_png_are_passed_over_and_broken_pixels_are_not(tmp_path: Path, odd: bytes) -> None:
    whole = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(pixels).save(whole, "PNG")
    content = whole.getvalue()
    path = tmp_path / "a.png"
    path.write_bytes(content[:33] + odd + content[33:])
    assert np.array_equal(np.asarray(read_image(ImageRow("a", str(path), 0))), pixels)
    path.write_bytes(content[:33] + odd + content[33:-40])
    with pytest.raises(Exception, match=r"truncated|Truncated|too large|broken"):
        read_image(ImageRow("a", str(path), 0))


def test_odd_segments_of_jpeg_are_passed_over(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.new("RGB", (4, 2), RED).save(whole, "JPEG", exif=exif(TURNED))
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0\0\x07JFIF\0" + whole.getvalue()[2:])
    assert read_image(ImageRow("a", str(path), 0)).size == (2, 4)


@given(st.integers(0, 65535), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_grey_is_scaled_by_its_own_range(tmp_path_factory: pytest.TempPathFactory, largest: int, seed: int) -> None:
    deep = np.random.default_rng(seed).integers(0, largest + 1, (3, 4)).astype(np.uint16)
    deep[0, 0] = largest
    path = tmp_path_factory.mktemp("deep") / "a.tif"
    Image.fromarray(deep).save(path)
    seen = np.asarray(read_image(ImageRow("a", str(path), 0)))[..., 0]
    bits = next(bits for bits in (8, 10, 12, 14, 16) if largest < 2**bits)
    assert np.array_equal(seen, deep // 2 ** (bits - 8))


@pytest.mark.parametrize("bits", [12, 16])
def test_colours_are_scaled_by_their_own_range(tmp_path: Path, bits: int) -> None:
    deep = np.random.default_rng(0).integers(0, 2**bits, (6, 5, 3)).astype(np.uint16)
    deep[0, 0, 0] = 2**bits - 1
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))
    assert np.array_equal(np.asarray(read_image(ImageRow("a", str(path), 0))), deep >> (bits - 8))
