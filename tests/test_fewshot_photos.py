"""``fewshot predict``: a line an image, a table, folders of links and a page, whatever is wrong with single images."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import refuse
from tiny_encoders import COLOURS, write_clip, write_pictures

from logitfusion import cli
from logitfusion.cli._photo_outputs import sort_photos
from logitfusion.clip.answers import Answer
from logitfusion.errors import UserError
from logitfusion.files import read_jsonl

NEW = 4  # images of each class


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP, a head, and new images in folders of classes."""
    root = tmp_path_factory.mktemp("photos")
    write_clip(root / "clip")
    for seed, (name, colour) in enumerate(COLOURS.items()):
        write_pictures(root / "train" / name, colour, 5, seed=seed)
        write_pictures(root / "new" / name, colour, NEW, seed=50 + seed)
    argv = ["fewshot", "fit", "--images", root / "train", "--clip", root / "clip", "--method", "gda", "--views", 1]
    assert cli.main([str(part) for part in (*argv, "--output", root / "head")]) == 0
    return root


@pytest.fixture
def new(place: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place / "new", tmp_path / "new"))


def predict(capsys: pytest.CaptureFixture[str], place: Path, *argv: object, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    found = cli.main([str(part) for part in ("fewshot", "predict", "--head", place / "head", *argv)])
    printed = capsys.readouterr()
    assert found == code, printed.err
    return printed.out, printed.err


def read_page(path: Path) -> dict[str, Any]:
    packed = re.search(r'id="data-photos">([^<]+)<', path.read_text())[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_a_broken_image_has_a_line_and_the_others_their_answers(
    capsys: pytest.CaptureFixture[str], place: Path, new: Path
) -> None:
    (new / "red/1.png").write_bytes(b"no image")
    given = ["--images", *sorted((new / "red").iterdir())]
    lines, said = predict(capsys, place, *given, code=1)
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [Path(row["path"]).name for row in rows] == [f"{number}.png" for number in range(NEW)]
    assert [sorted(row) == ["error", "path"] for row in rows] == [False, True, False, False]
    assert said.splitlines()[-1].count("--max-skipped") == 1
    assert "1 of 4 images can't be read" in said
    allowed, said = predict(capsys, place, *given, "--max-skipped", 0.25)
    assert allowed == lines
    alone, _ = predict(capsys, place, "--images", new / "red/1.png", "--max-skipped", 1)
    assert "error" in json.loads(alone)


def test_a_table_holds_what_the_lines_hold(
    capsys: pytest.CaptureFixture[str], place: Path, new: Path, tmp_path: Path
) -> None:
    (new / "red/1.png").write_bytes(b"")
    argv = ["--images", new, "--score", "--max-skipped", 1, "--output"]
    predict(capsys, place, *argv, tmp_path / "a.jsonl")
    predict(capsys, place, *argv, tmp_path / "a.csv")
    rows = read_jsonl(tmp_path / "a.jsonl")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    for row, cells in zip(rows, table, strict=True):
        assert cells["path"] == row["path"]
        assert cells["truth"] == row["truth"] == Path(row["path"]).parent.name.replace("_", " ")
        assert cells["error"] == row.get("error", "")
        if "error" not in row:
            assert cells["label"] == (row["label"] or "none of these")
            assert float(cells["probability"]) == row["probability"]
            assert cells["label_2"] == row["top"][1]["label"]


def test_photos_are_sorted_by_answer_and_nothing_is_overwritten(
    capsys: pytest.CaptureFixture[str], place: Path, new: Path, tmp_path: Path
) -> None:
    (new / "red/1.png").write_bytes(b"")
    argv = ["--images", new, "--max-skipped", 1, "--output", tmp_path / "a.jsonl", "--sort-into"]
    predict(capsys, place, *argv, tmp_path / "links")
    predict(capsys, place, *argv, tmp_path / "copies", "--copy")
    answered = {
        row["path"]: row["label"] or "none of these" for row in read_jsonl(tmp_path / "a.jsonl") if "label" in row
    }
    links = [path for path in (tmp_path / "links").rglob("*") if not path.is_dir()]
    assert all(link.is_symlink() for link in links)
    assert {str(link.resolve()): link.parent.name for link in links} == answered
    copies = [path for path in (tmp_path / "copies").rglob("*") if not path.is_dir()]
    assert not any(copy.is_symlink() for copy in copies)
    assert sorted((path.parent.name, path.read_bytes()) for path in copies) == sorted(
        (label, Path(path).read_bytes()) for path, label in answered.items()
    )
    before = sorted(tmp_path.rglob("*"))
    head = ["fewshot", "predict", "--head", place / "head", "--images", new, "--sort-into"]
    assert "overwrites nothing" in refuse(capsys, *head, tmp_path / "links")
    assert "which --images reads; name another place with --sort-into" in refuse(capsys, *head, new / "sorted")
    assert "--sort-into" in refuse(capsys, *head[:-1], "--copy")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_read_or_written_besides_is_not_lost(
    capsys: pytest.CaptureFixture[str], place: Path, new: Path, tmp_path: Path
) -> None:
    table = tmp_path / "photos.csv"
    table.write_text(f"path,label\n{new / 'red/0.png'},red\n", encoding="utf-8")
    head = shutil.copy(place / "head", tmp_path / "head")
    predicting = ["fewshot", "predict", "--head", head]
    fitting = ["fewshot", "fit", "--clip", place / "clip", "--method", "gda", "--csv", table, "--output"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for argv, word in (
        ([*predicting, "--csv", table, "--output", table], "--csv"),
        ([*predicting, "--images", new, "--report", head], "--head"),
        ([*predicting, "--csv", table, "--output", new / "red/0.png"], "an image"),
        ([*predicting, "--images", new, "--output", new / "answers.csv"], "--images"),
        (
            [*predicting, "--images", new, "--sort-into", tmp_path / "s", "--output", tmp_path / "s/a.csv"],
            "--sort-into",
        ),
        ([*predicting, "--images", new, "--sort-into", tmp_path / "s", "--report", tmp_path / "s"], "--sort-into"),
        ([*predicting, "--images", new, "--sort-into", tmp_path / "s", "--features", tmp_path / "s/f"], "--sort-into"),
        ([*fitting, table], "--csv"),
    ):
        assert word in refuse(capsys, *argv)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_comes_into_the_folder_meanwhile_stays(tmp_path: Path) -> None:
    photo, folder = tmp_path / "1.png", tmp_path / "sorted"
    photo.write_bytes(b"a photo")
    folder.mkdir()
    (folder / "note.txt").write_text("of another program")
    with pytest.raises(UserError, match="not empty any more"):
        sort_photos([Answer("1.png", label="red")], [photo], folder, copy=True)
    assert [path.name for path in folder.iterdir()] == ["note.txt"]
    (folder / "note.txt").unlink()
    link = tmp_path / "link"
    link.symlink_to(folder)
    sort_photos([Answer("1.png", label="red")], [photo], link, copy=True)
    assert link.is_symlink()
    assert (folder / "red/1.png").read_bytes() == b"a photo"


def test_where_nothing_can_be_read_nothing_is_scored(
    capsys: pytest.CaptureFixture[str], place: Path, new: Path, tmp_path: Path
) -> None:
    for path in new.rglob("*.png"):
        path.write_bytes(b"no image")
    printed, said = predict(capsys, place, "--images", new, "--score", "--report", tmp_path / "page.html", code=1)
    assert "right" not in printed
    assert said.splitlines()[-1].endswith("so that there are no answers.")
    assert "0.png" not in said.splitlines()[-2].split("1.png")[1].split(";")[0]  # equal contents, each its own name
    fit = ["fewshot", "fit", "--images", new, "--clip", place / "clip", "--output", tmp_path / "head"]
    assert refuse(capsys, *fit).endswith("or raise --max-skipped.")


def test_the_page_holds_every_photo_and_asks_for_nothing(
    capsys: pytest.CaptureFixture[str], place: Path, new: Path, tmp_path: Path
) -> None:
    shutil.copy(place / "train/red/0.png", new / "red/learnt.png")
    shutil.copy(new / "green/0.png", new / "green/copy.png")
    (new / "green/note.txt").write_text("no image")
    (new / "dark_blue/0.png").write_bytes(b"<b>no image</b>")
    argv = ["--images", new, "--score", "--max-skipped", 1]
    printed, _ = predict(capsys, place, *argv, "--report", tmp_path / "page.html", "--output", tmp_path / "a.jsonl")
    text = (tmp_path / "page.html").read_text()
    assert not re.findall(r'(?:src|href)="?(?:https?:)?//', text)
    rows = [row for row in read_jsonl(tmp_path / "a.jsonl") if "error" not in row]
    table = read_page(tmp_path / "page.html")["table"]
    names = [*table["classes"], None]
    assert [names[label] for label in table["answer"]] == [row["label"] for row in rows]
    assert [names[label] for label in table["label"]] == [row["truth"] for row in rows]
    assert table["chance"] == [round(1000 * row["probability"]) for row in rows]
    assert [(tmp_path / link).resolve() for link in table["link"]] == [Path(row["path"]).resolve() for row in rows]
    assert all(picture.startswith("data:image/webp;base64,") for picture in table["picture"])
    notes = {name: note for name, note in zip(table["id"], table["note"], strict=True) if note}
    assert notes.keys() == {"red/learnt.png", "green/0.png", "green/copy.png"}
    right = sum(row["label"] == row["truth"] for row in rows)
    assert f"{right} of {len(rows)}" in text
    assert f"{right} of {len(rows)} right" in printed
    for words in ("note.txt", "dark_blue/0.png", "Methods compared"):
        assert words in text
    assert "<b>no image" not in text


def test_without_labels_nothing_is_called_right(
    capsys: pytest.CaptureFixture[str], place: Path, new: Path, tmp_path: Path
) -> None:
    predict(capsys, place, "--images", new, "--report", tmp_path / "page.html", "--none-below", 1)
    table = read_page(tmp_path / "page.html")["table"]
    assert "label" not in table
    assert set(table["answer"]) == {-1}
    assert "right, gda" not in (tmp_path / "page.html").read_text()


def test_a_closed_standard_output_and_no_threshold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: Path, tmp_path: Path
) -> None:
    argv = ["--images", place / "new", place / "new/../new", "--output", tmp_path / "a.jsonl", "--none-below", 0]
    (place / "new/note.txt").write_text("no image")
    printed, said = predict(capsys, place, *argv)
    assert 'There is no threshold, so no answer is "none of these".' in printed
    assert said.count("note.txt") == 1
    (place / "new/note.txt").unlink()
    before = (tmp_path / "a.jsonl").read_bytes()
    monkeypatch.setattr("sys.stdout", None)
    predict(capsys, place, *argv)
    assert (tmp_path / "a.jsonl").read_bytes() == before


def test_classes_that_nothing_is_known_of_are_told(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path
) -> None:
    """The tiny CLIP's vocabulary has neither yak nor gnu."""
    fit = ["fewshot", "fit", "--clip", place / "clip", "--method", "gda", "--views", 1, "--output", tmp_path / "head"]

    def told(**folders: str) -> str:
        root = tmp_path / "-".join(folders)
        for name, kind in folders.items():
            shutil.copytree(place / "train" / kind, root / name)
        assert cli.main([str(part) for part in (*fit, "--images", root)]) == 0
        printed = capsys.readouterr()
        return printed.out + printed.err

    assert "can't tell 2 classes from another class (gnu, yak)" in told(yak="red", gnu="green", blue="dark_blue")
    for number in range(1, 5):
        (place / f"train/red/{number}.png").rename(tmp_path / f"{number}.png")
    said = told(red="red", green="green")
    for number in range(1, 5):
        (tmp_path / f"{number}.png").rename(place / f"train/red/{number}.png")
    assert "could not be left out: 1 of 2 (red)" in said
    assert "can't tell" not in said
    assert "with one image only" not in told(red="red", green="green", blue="dark_blue")


def test_names_that_are_no_unicode_keep_their_own_answers_and_pictures(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for byte, colour in ((b"\xfe", "red"), (b"\xff", "green")):
        shutil.copy(place / "new" / colour / "0.png", os.fsencode(photos) + b"/" + byte + b".png")
    predict(capsys, place, "--images", photos, "--report", tmp_path / "p.html", "--output", tmp_path / "a.jsonl")
    assert len({row["path"] for row in read_jsonl(tmp_path / "a.jsonl")}) == 2
    table = read_page(tmp_path / "p.html")["table"]
    assert len(set(table["id"])) == len(set(table["picture"])) == 2


def test_a_list_that_a_shell_passes_on_starts_from_the_current_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: Path, new: Path
) -> None:
    monkeypatch.chdir(new)
    reading, writing = os.pipe()
    os.write(writing, b"path,label\nred/0.png,red\n")
    os.close(writing)
    printed, _ = predict(capsys, place, "--csv", f"/dev/fd/{reading}", "--score")
    os.close(reading)
    assert json.loads(printed)["path"] == "red/0.png"
