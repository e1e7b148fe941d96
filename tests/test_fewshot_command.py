"""``logitfusion fewshot``: what it fits and predicts is what the package does, wherever the files lie."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refuse
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from tiny_encoders import COLOURS, write_clip, write_image_tower, write_pictures
from torch import Tensor
from torch.nn.functional import normalize

from logitfusion import cli
from logitfusion.cli._encoder_specs import parse_auxiliary, parse_clip
from logitfusion.cli._settings import parse_settings
from logitfusion.clip import Support, fit_method, load_head, save_head
from logitfusion.clip.data.support import draw_support
from logitfusion.clip.encoders.load import ImageEncoder, load_auxiliary, load_clip
from logitfusion.clip.features.files import read_tensors, write_tensors
from logitfusion.clip.methods import DEFAULT_METHOD, complete_settings
from logitfusion.errors import UserError
from logitfusion.evaluate.intervals import wilson_interval
from logitfusion.files import read_jsonl

ROOT = Path(__file__).parents[1]
CLASSES = ["dark blue", "green", "red"]  # in the order of the folders
PROMPTS = ["a photo of a {}.", "{}"]
QUICK = ["--method", "amu", "--set", "epochs=3", "--views", 1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP, two auxiliaries, and class folders to learn from and to test on."""
    root = tmp_path_factory.mktemp("fewshot")
    write_clip(root / "clip")
    write_image_tower(root / "aux.safetensors", "test_resnet", 2)
    write_image_tower(root / "other.safetensors", "test_resnet", 3)
    for seed, (name, colour) in enumerate(COLOURS.items()):
        write_pictures(root / "train" / name, colour, 5, seed=seed)
        write_pictures(root / "test" / name, colour, 4, seed=50 + seed)
    return root


def options(place: Path, output: Path, *more: object, images: Path | None = None) -> list[object]:
    auxiliary = ["--auxiliary", f"checkpoint:test_resnet:{place / 'aux.safetensors'}"]
    source = ["--images", images or place / "train"]
    return ["fewshot", "fit", *source, "--clip", place / "clip", *auxiliary, "--output", output, *more]


@pytest.fixture(scope="module")
def head(place: Path) -> Path:
    """The head that most tests predict with."""
    path = place / "head.safetensors"
    assert cli.main([str(part) for part in options(place, path, *QUICK, "--prompts", *PROMPTS)]) == 0
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[str, str]:
    """What the command prints on both outputs."""
    code = cli.main([str(part) for part in argv])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out, printed.err


def predict(capsys: pytest.CaptureFixture[str], head: Path, *argv: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(capsys, "fewshot", "predict", "--head", head, *argv)[0].splitlines()]


def see(encoder: ImageEncoder, paths: list[Path]) -> Tensor:
    """Features by hand, as the cache rounds them, ``[n, D]``."""
    seen = [encoder.encode_images(encoder.preprocess(Image.open(path))[None])[0] for path in paths]
    return normalize(torch.stack(seen).half().float(), dim=-1)


def load_by_hand(place: Path) -> tuple[Any, Any]:
    cpu = torch.device("cpu")
    clip = load_clip({"source": "built", "path": place / "clip"}, device=cpu)
    entry = {"source": "checkpoint", "model": "test_resnet", "path": place / "aux.safetensors"}
    return clip, load_auxiliary(entry, device=cpu)


def list_by_hand(folder: Path) -> tuple[list[Path], Tensor]:
    paths = sorted(folder.rglob("*.png"))
    return paths, torch.tensor([sorted(COLOURS).index(path.parent.name) for path in paths])


def fit_by_hand(place: Path, paths: list[Path], labels: Tensor, name: str, settings: dict[str, Any]) -> Any:
    clip, auxiliary = load_by_hand(place)
    classifier = clip.classifier(CLASSES, PROMPTS)
    support = Support(see(clip, paths)[:, None], see(auxiliary, paths)[:, None], labels, classifier, clip.scale)
    return fit_method(name, support, settings, seed=0)


# What is fitted and predicted


def test_the_head_is_the_one_that_the_package_fits(place: Path, head: Path) -> None:
    found, header = load_head(head)
    expected = fit_by_hand(place, *list_by_hand(place / "train"), "amu", {"epochs": 3})
    torch.testing.assert_close(found.weight, expected.weight, atol=2e-4, rtol=0)
    torch.testing.assert_close(found.classifier, expected.classifier, atol=1e-6, rtol=0)
    assert found.settings == expected.settings
    assert header["class_names"] == CLASSES
    facts = header["metadata"]
    assert facts["prompts"] == PROMPTS
    assert facts["folders"] == sorted(COLOURS)
    assert (facts["counts"], facts["shots"], facts["seed"], facts["views"]) == ([5, 5, 5], None, 0, 1)
    clip, auxiliary = load_by_hand(place)
    assert header["encoders"] == {"clip": clip.fingerprint, "auxiliary 1": auxiliary.fingerprint}
    assert facts["transforms"] == {"clip": clip.transform, "auxiliary 1": auxiliary.transform}
    assert facts["versions"]["torch"].startswith(torch.__version__.split("+")[0])


def test_predictions_are_the_packages(capsys: pytest.CaptureFixture[str], place: Path, head: Path) -> None:
    paths, _ = list_by_hand(place / "test")
    rows = predict(capsys, head, "--images", place / "test", "--top", 2)
    clip, auxiliary = load_by_hand(place)
    fitted, _ = load_head(head)
    seen = see(clip, paths)
    facts = load_head(head)[1]["metadata"]
    logits = fitted.logits(seen, see(auxiliary, paths)).double()
    chances = (logits / facts["calibration"]["temperature"]).softmax(-1)
    own_logits = clip.scale * seen @ clip.classifier(CLASSES, PROMPTS)
    alone = (own_logits.double() / facts["clip_calibration"]["temperature"]).softmax(-1)
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    for row, chance, own in zip(rows, chances, alone, strict=True):
        assert row["top"][0]["label"] == CLASSES[int(chance.argmax())]
        assert row["label"] == (row["top"][0]["label"] if chance.max() >= facts["calibration"]["threshold"] else None)
        order = chance.argsort(descending=True)[:2].tolist()
        assert [best["label"] for best in row["top"]] == [CLASSES[label] for label in order]
        assert [best["probability"] for best in row["top"]] == pytest.approx(chance[order].tolist(), abs=1e-4)
        assert row["probability"] == row["top"][0]["probability"]
        assert row["clip_label"] == CLASSES[int(own.argmax())]
        assert row["clip_probability"] == pytest.approx(float(own.max()), abs=1e-4)
        assert row["uncertainty"] == pytest.approx(stats.entropy(chance.numpy(), base=3), abs=1e-4)
        assert row["calibrated"]
    assert len({row["label"] for row in rows}) > 1, "this head has learnt something"
    assert len({row["probability"] for row in rows}) == len({row["uncertainty"] for row in rows}) == 12


def test_files_and_folders_are_predicted_in_their_order_each_once(
    capsys: pytest.CaptureFixture[str], place: Path, head: Path
) -> None:
    red, green = place / "test/red", place / "test/green"
    rows = predict(capsys, head, "--images", red / "2.png", green, "--images", red)
    expected = [red / "2.png", *(green / f"{n}.png" for n in range(4)), *(red / f"{n}.png" for n in (0, 1, 3))]
    assert [row["path"] for row in rows] == [str(path) for path in expected]
    assert len(rows[0]["top"]) == 3


def test_a_file_of_predictions_holds_the_printed_lines(
    capsys: pytest.CaptureFixture[str], place: Path, head: Path, tmp_path: Path
) -> None:
    rows = predict(capsys, head, "--images", place / "test")
    argv = ["--images", place / "test", "--output", tmp_path / "a/b.jsonl"]
    printed, _ = run(capsys, "fewshot", "predict", "--head", head, *argv)
    assert read_jsonl(tmp_path / "a/b.jsonl") == rows
    assert "12 images" in printed
    assert "The probabilities are calibrated on 15 left-out images" in printed


@pytest.mark.parametrize("method", ["zero_shot", "gda", "tip_adapter"])
def test_methods_on_clip_alone_need_no_auxiliary(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path, method: str
) -> None:
    argv = [part for part in options(place, tmp_path / "head") if "test_resnet" not in str(part)]
    argv.remove("--auxiliary")
    run(capsys, *argv, "--method", method, "--views", 2)
    rows = predict(capsys, tmp_path / "head", "--images", place / "test")
    assert all(0 <= row["uncertainty"] <= 1 for row in rows)
    if method == "zero_shot":
        assert [row["top"][0]["label"] for row in rows] == [row["clip_label"] for row in rows]
        assert [row["probability"] for row in rows] == pytest.approx(
            [row["clip_probability"] for row in rows], abs=1e-5
        )


def test_several_auxiliaries_are_one(
    capsys: pytest.CaptureFixture[str], place: Path, head: Path, tmp_path: Path
) -> None:
    second = f"checkpoint:test_resnet:{place / 'other.safetensors'}"
    run(capsys, *options(place, tmp_path / "head", *QUICK, "--auxiliary", second))
    fitted, header = load_head(tmp_path / "head")
    assert list(header["encoders"]) == ["auxiliary 1", "auxiliary 2", "clip"]
    assert fitted.weight.shape[1] == 2 * load_head(head)[0].weight.shape[1]
    assert len(predict(capsys, tmp_path / "head", "--images", place / "test")) == 12
    one = ["--auxiliary", second]
    argv = ["fewshot", "predict", "--head", tmp_path / "head", "--images", place / "test", *one]
    assert "needs 2 auxiliary encoders, not 1" in refuse(capsys, *argv)


def test_the_default_method_weighs_the_parts(capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path) -> None:
    printed, _ = run(capsys, *options(place, tmp_path / "head", "--views", 2))
    fitted, _ = load_head(tmp_path / "head")
    assert fitted.method == DEFAULT_METHOD
    assert fitted.settings["weights"].keys() == {"zero_shot", "clip_probe", "auxiliary_probe"}
    assert "Learnt from 15 images of 3 classes: dark blue 5, green 5, red 5." in printed
    assert "Methods on 15 images" in printed
    assert f"{(tmp_path / 'head').stat().st_size / 1000:,.1f} kB" in printed


def test_settings_that_were_chosen_are_told(capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path) -> None:
    argv = ["--method", "amu_classes", "--set", "epochs=2", "--views", 1, "--compare", "never"]
    printed, _ = run(capsys, *options(place, tmp_path / "head", *argv))
    settings = load_head(tmp_path / "head")[0].settings
    assert settings["selected"]
    assert "chosen by cross-validation" in printed
    assert f"alpha {settings['alpha']:g}" in printed


COMPARED = "each left out of the fit in turn"


def test_sizes_and_settings_decide_on_what_is_compared_and_no_clock(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = options(place, tmp_path / "head", *QUICK)

    def compared(*more: object) -> dict[str, Any] | None:
        run(capsys, *argv, *more)
        return load_head(tmp_path / "head")[1]["metadata"]["comparison"]

    monkeypatch.setattr("logitfusion.clip.fitting.compare.CHEAP", 15 * 3 * 3)  # images, classes, epochs
    hours = itertools.count(0, 3600)
    with monkeypatch.context() as slow:
        slow.setattr("logitfusion.cli.fewshot_fit.time.monotonic", lambda: float(next(hours)))
        found = compared()
    assert {score["method"] for score in found["scores"]} == {"zero_shot", "gda", "amu"}
    assert "more than" in found["not_tried"]["tip_adapter_f"]
    assert {score["method"] for score in compared("--set", "epochs=4")["scores"]} == {"zero_shot", "gda"}
    assert compared("--compare", "never") is None
    assert COMPARED in run(capsys, *argv)[0]
    assert COMPARED not in run(capsys, *argv, "--compare", "never")[0]


# Where files are


def test_head_and_encoders_may_move(
    capsys: pytest.CaptureFixture[str], place: Path, head: Path, tmp_path: Path
) -> None:
    before = predict(capsys, head, "--images", place / "test")
    (tmp_path / "here").mkdir()
    moved = shutil.copy(head, tmp_path / "here/renamed.safetensors")
    assert predict(capsys, moved, "--images", place / "test") == before
    (tmp_path / "there").mkdir()
    clip = shutil.copytree(place / "clip", tmp_path / "there/clip")
    auxiliary = shutil.copy(place / "aux.safetensors", tmp_path / "there/a.safetensors")
    away = place.with_name("away")
    place.rename(away)
    try:
        argv = ["fewshot", "predict", "--head", moved, "--images", away / "test"]
        assert "say with --clip" in refuse(capsys, *argv)
        assert "say with --auxiliary" in refuse(capsys, *argv, "--clip", clip)
        now = ["--clip", clip, "--auxiliary", f"checkpoint:test_resnet:{auxiliary}"]
        rows = predict(capsys, moved, "--images", away / "test", *now)
    finally:
        away.rename(place)
    assert [row | {"path": ""} for row in rows] == [row | {"path": ""} for row in before]


@pytest.mark.parametrize("wrong", ["other.safetensors", "clip"])
def test_another_encoder_is_refused(
    capsys: pytest.CaptureFixture[str], place: Path, head: Path, tmp_path: Path, wrong: str
) -> None:
    argv = ["fewshot", "predict", "--head", head, "--images", place / "test"]
    if wrong == "clip":
        clip = shutil.copytree(place / "clip", tmp_path / "clip")
        config = json.loads((clip / "open_clip_config.json").read_text())
        config["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
        (clip / "open_clip_config.json").write_text(json.dumps(config))
        assert "are damaged" in refuse(capsys, *argv, "--clip", clip)
        (clip / "record.json").unlink()  # as somebody else's CLIP
        sentence = refuse(capsys, *argv, "--clip", clip)
        assert "encoder clip is" in sentence
    else:
        sentence = refuse(capsys, *argv, "--auxiliary", f"checkpoint:test_resnet:{place / wrong}")
        assert "encoder auxiliary 1 is" in sentence
    assert "train again" in sentence


def test_kept_features_are_not_computed_again(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = options(place, tmp_path / "one", *QUICK, "--features", tmp_path / "cache")
    run(capsys, *argv)
    encode = ImageEncoder.encode_images
    monkeypatch.setattr(ImageEncoder, "encode_images", lambda *_: 1 / 0)
    run(capsys, *argv, "--output", tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    for other in (["--views", "2"], ["--views", "2", "--seed", "1"]):
        with monkeypatch.context() as undone:
            undone.setattr(ImageEncoder, "encode_images", encode)
            assert run(capsys, *argv, *other, "--output", tmp_path / "three")[1] == ""
        run(capsys, *argv, *other)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "three").read_bytes()
    for other in (["--views", "3"], ["--views", "2", "--seed", "2"]):
        with pytest.raises(ZeroDivisionError):
            cli.main([str(part) for part in (*argv, *other)])


# Images and classes


def test_shots_are_drawn_by_the_seed(capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path) -> None:
    paths, labels = list_by_hand(place / "train")
    ids = [path.relative_to(place / "train").as_posix() for path in paths]
    for seed in (0, 7):
        _, warned = run(capsys, *options(place, tmp_path / "head", *QUICK, "--shots", 2, "--seed", seed))
        assert warned == ""
        found, header = load_head(tmp_path / "head")
        drawn = draw_support(ids, labels.tolist(), 2, seed)
        clip, auxiliary = load_by_hand(place)
        chosen = [paths[number] for number in drawn]
        features, own = see(auxiliary, chosen)[:, None], see(clip, chosen)[:, None]
        support = Support(own, features, labels[drawn], clip.classifier(CLASSES, PROMPTS[:1]), clip.scale)
        expected = fit_method("amu", support, {"epochs": 3}, seed=seed)
        assert found.settings == expected.settings  # the seed too
        torch.testing.assert_close(found.weight, expected.weight, atol=2e-4, rtol=0)
        assert header["metadata"]["counts"] == [2, 2, 2]
    _, warned = run(capsys, *options(place, tmp_path / "head", *QUICK, "--shots", 9))
    assert "3 of 3 classes have fewer than 9: dark blue (5)" in warned


def test_one_shot_is_not_cross_validated(capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path) -> None:
    argv = ["--views", 2, "--shots", 1, "--method", "amu_classes", "--set", "epochs=2"]
    printed, _ = run(capsys, *options(place, tmp_path / "head", *argv))
    assert not load_head(tmp_path / "head")[0].settings["selected"]
    for words in ("so they are not chosen", "methods could not be compared", "The probabilities are not calibrated"):
        assert words in printed
    rows = predict(capsys, tmp_path / "head", "--images", place / "test")
    assert not any(row["calibrated"] for row in rows)
    assert all(row["label"] is not None for row in rows)


def test_two_classes_are_too_few_for_the_published_method_which_says_so(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path
) -> None:
    two = tmp_path / "train"
    for name in list(COLOURS)[:2]:
        shutil.copytree(place / "train" / name, two / name)
    quick = ("--set", "epochs=2", "--views", 1, "--compare", "never")
    for name in ("amu", "amu_classes"):
        printed, _ = run(capsys, *options(place, tmp_path / name, "--method", name, *quick, images=two))
        assert ("amu can't learn from two classes" in printed) == (name == "amu")


def write_csv(path: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...] = ("path", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_a_list_is_as_good_as_folders(capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path) -> None:
    train = Path(shutil.copytree(place / "train", tmp_path / "train"))
    paths, _ = list_by_hand(train)
    listed = [(path.relative_to(train).as_posix(), path.parent.name) for path in paths]
    argv = options(place, tmp_path / "by_folder", *QUICK, images=train)
    run(capsys, *argv)
    table = write_csv(train / "list.csv", listed)
    at = argv.index("--images")
    argv[at : at + 2] = ["--csv", table]
    run(capsys, *argv, "--output", tmp_path / "by_list")
    assert (tmp_path / "by_folder").read_bytes() == (tmp_path / "by_list").read_bytes()
    parts = [(*row, "test" if row[0].endswith("0.png") else "train") for row in listed]
    write_csv(table, parts, ("path", "label", "split"))
    printed, _ = run(capsys, *argv)
    assert "Learnt from 12 images of 3 classes: dark blue 4, green 4, red 4." in printed


@pytest.mark.parametrize("source", ["--images", "--csv"])
def test_classes_may_be_called_otherwise(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path, source: str
) -> None:
    names = {"green": "grass", "dark_blue": "night sky", "red": "tomato"}
    (tmp_path / "names.json").write_text(json.dumps(names))
    paths, _ = list_by_hand(place / "train")
    table = write_csv(tmp_path / "list.csv", [(str(path), path.parent.name) for path in paths])
    argv = options(place, tmp_path / "head", *QUICK, "--class-names", tmp_path / "names.json")
    at = argv.index("--images")
    argv[at : at + 2] = [source, table if source == "--csv" else place / "train"]
    run(capsys, *argv)
    _, header = load_head(tmp_path / "head")
    folders = header["metadata"]["folders"]
    assert header["class_names"] == [names[folder] for folder in folders]
    assert folders == list(names)
    scored = ["fewshot", "predict", "--head", tmp_path / "head", "--images", place / "test", "--score"]
    lines, warned = run(capsys, *scored)
    right = sum(names[Path(row["path"]).parent.name] == row["label"] for row in map(json.loads, lines.splitlines()))
    assert f"{right} of 12 right" in warned


def test_a_score_counts_what_is_right(
    capsys: pytest.CaptureFixture[str], place: Path, head: Path, tmp_path: Path
) -> None:
    shutil.copytree(place / "test/red", tmp_path / "red")
    shutil.copytree(place / "test/dark_blue", tmp_path / "dark blue")  # by name
    shutil.copytree(place / "test/green", tmp_path / "green/nested")
    argv = ["--images", tmp_path, "--score", "--output", tmp_path.with_suffix(".jsonl")]
    printed, _ = run(capsys, "fewshot", "predict", "--head", head, *argv)
    rows = read_jsonl(tmp_path.with_suffix(".jsonl"))
    truth = [Path(row["path"]).relative_to(tmp_path).parts[0] for row in rows]
    for key, start in (("label", ""), ("clip_label", "CLIP alone: ")):
        right = sum(row[key] == name for row, name in zip(rows, truth, strict=True))
        interval = stats.binomtest(right, 12).proportion_ci(method="wilson")
        line = f"{start}{right} of 12 right, {right / 12:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
        assert any(found.startswith(line) for found in printed.splitlines())
    for name in CLASSES:
        right = sum(row["label"] == name == one for row, one in zip(rows, truth, strict=True))
        assert f"  {name}: {right} of 4 " in printed


def test_one_image_is_no_several(capsys: pytest.CaptureFixture[str], place: Path, head: Path) -> None:
    said = "".join(run(capsys, "fewshot", "predict", "--head", head, "--images", place / "train/red/0.png"))
    assert "1 image was answered" in said
    assert "1 of 1 images is among those that the head has learnt from" in said


def test_what_can_not_be_scored_is_refused(
    capsys: pytest.CaptureFixture[str], place: Path, head: Path, tmp_path: Path
) -> None:
    argv = ["fewshot", "predict", "--head", head, "--score", "--images"]
    assert "is a file" in refuse(capsys, *argv, place / "test/red/0.png")
    assert "has no folders in it" in refuse(capsys, *argv, place / "test/red")
    shutil.copytree(place / "test/red", tmp_path / "crimson")
    assert "crimson is no class of this head; they are dark blue, green, red" in refuse(capsys, *argv, tmp_path)


@pytest.fixture
def damaged(place: Path, tmp_path: Path) -> Path:
    """The training images, one of them cut and one empty."""
    folder = Path(shutil.copytree(place / "train", tmp_path / "damaged"))
    cut = folder / "red/1.png"
    cut.write_bytes(cut.read_bytes()[:200])
    (folder / "green/3.png").write_bytes(b"")
    return folder


def test_unreadable_images_are_left_out_by_name(
    capsys: pytest.CaptureFixture[str], place: Path, damaged: Path, tmp_path: Path
) -> None:
    output = tmp_path / "head"
    printed, warned = run(capsys, *options(place, output, *QUICK, "--max-skipped", 0.2, images=damaged))
    assert "Learnt from 13 images of 3 classes: dark blue 5, green 4, red 4." in printed
    assert warned.count("can't be read") == 1
    assert "2 of 15 images" in warned
    assert "red/1.png (" in warned
    assert "green/3.png (" in warned
    paths, labels = list_by_hand(damaged)
    broken = {damaged / "red/1.png", damaged / "green/3.png"}
    kept = [number for number, path in enumerate(paths) if path not in broken]
    expected = fit_by_hand(place, [paths[number] for number in kept], labels[kept], "amu", {"epochs": 3})
    torch.testing.assert_close(load_head(output)[0].weight, expected.weight, atol=2e-4, rtol=0)

    predicting = ["fewshot", "predict", "--head", output, "--images", damaged, "--score"]
    lines, warned = run(capsys, *predicting, "--max-skipped", 0.2)
    errors = {row["path"]: row.get("error") for row in map(json.loads, lines.splitlines())}
    assert len(errors) == 15
    assert {path for path, error in errors.items() if error} == set(map(str, broken))
    assert " of 13 right" in warned
    assert warned.count("red/1.png") == 1
    assert cli.main([str(part) for part in predicting]) == 1  # too many, told last; the others have their answers
    refused = capsys.readouterr()
    assert refused.out == lines
    assert "2 of 15 images can't be read" in refused.err.splitlines()[-1]
    before = output.read_bytes()
    assert "2 of 15 images" in refuse(capsys, *options(place, output, *QUICK, images=damaged))
    assert output.read_bytes() == before


def test_a_class_without_a_readable_image_is_refused(
    capsys: pytest.CaptureFixture[str], place: Path, damaged: Path, tmp_path: Path
) -> None:
    for file in (damaged / "green").iterdir():
        file.write_bytes(b"no image")
    argv = options(place, tmp_path / "head", *QUICK, "--max-skipped", 1, images=damaged)
    assert cli.main([str(part) for part in argv]) == 1
    assert "No image of the class 'green' can be read" in capsys.readouterr().err
    assert not (tmp_path / "head").exists()


# Bad input


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--images", "nowhere"], "nowhere is not there"),
        (["--images", "flat"], "has no folders in it"),
        (["--images", "single"], "has the class red alone"),
        (["--images", "hollow"], "has no images in it"),
        (["--class-names", "names.json"], "'dark_blue', which is none of the classes"),
        (["--class-names", "surplus.json"], "violet has no images in it"),
        (["--class-names", "list.json"], "is not a JSON object"),
        (["--class-names", "broken.json"], "is not JSON"),
        (["--class-names", "flat"], "--class-names names a file"),
        (["--clip", "nowhere"], "no CLIP 'nowhere'"),
        (["--clip", "timm:test_resnet"], "no CLIP 'timm:test_resnet'"),
        (["--clip", "open_clip:ViT-B-32"], "open_clip:MODEL/TAG"),
        (["--clip", "open_clip:ViT-B-32/typo"], "no weights 'typo'"),
        (["--clip", "open_clip:typo/openai"], "no model 'typo'"),
        (["--clip", "checkpoint:ViT-B-32"], "both model and file"),
        (["--auxiliary", "resnet50"], "no auxiliary encoder 'resnet50'"),
        (["--auxiliary", "torchvision:resnet18/"], "torchvision:MODEL/WEIGHTS"),
        (["--auxiliary", "torchvision:typo"], "no 'typo'"),
        (["--auxiliary", "timm:typo"], "no model 'typo'"),
        (["--auxiliary", "checkpoint:test_resnet:gone.pt"], "gone.pt"),
        (["--auxiliary", "checkpoint:test_resnet:names.json"], "can't be read safely"),
        (["--method", "typo"], "known are zero_shot"),
        (["--method", "gda"], "leave --auxiliary out"),
        (["--method", "amu_no_a"], "leave --auxiliary out"),
        (["--set", "alpha"], "NAME=VALUE"),
        (["--set", "typo=1"], "no setting 'typo'"),
        (["--set", "epochs=0"], "whole number"),
        (["--set", "learning_rate=1e30"], "infinity"),
        (["--prompts", "no place"], "needs one {}"),
        (["--prompts", "{} {x}"], "needs one {}"),
        (["--prompts", "{}", "{0}"], "needs one {}"),
        (["--prompts", "{} \udcff"], "not Unicode"),
        (["--shots", "0"], "at least 1"),
        (["--views", "0"], "at least 1"),
        (["--seed", "-1"], "--seed"),
        (["--max-skipped", "2"], "--max-skipped"),
        (["--output", "flat"], "is a folder"),
        (["--output", "names.json/head"], "is a file, not a folder"),
        (["--features", "names.json"], "is a file, not a folder"),
    ],
)
def test_bad_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "flat", (1, 2, 3), 1, seed=0)
    write_pictures(tmp_path / "single/red", (1, 2, 3), 1, seed=0)
    write_pictures(tmp_path / "hollow/red", (1, 2, 3), 1, seed=0)
    (tmp_path / "hollow/green").mkdir()
    names = {"red": "red", "green": "green"}
    (tmp_path / "names.json").write_text(json.dumps(names))
    (tmp_path / "surplus.json").write_text(json.dumps({**names, "dark_blue": "blue", "violet": "violet"}))
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "head").write_text("precious")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    argv = options(place, tmp_path / "head", *QUICK)
    if "--auxiliary" in more:
        at = argv.index("--auxiliary")
        del argv[at : at + 2]
    if "gda" in more:
        argv = [part for part in argv if part not in ("--set", "epochs=3")]
    assert words in refuse(capsys, *argv, *more)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "head").read_text() == "precious"


def test_no_class_is_called_as_refused_answers_are(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path
) -> None:
    for name in ("None_of_these", "red"):
        write_pictures(tmp_path / "images" / name, COLOURS["red"], 2, seed=0)
    argv = ["fewshot", "fit", "--images", tmp_path / "images", "--clip", place / "clip", "--output", tmp_path / "head"]
    assert "call it something else" in refuse(capsys, *argv)


def test_a_method_that_needs_an_auxiliary_asks_for_it(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path
) -> None:
    argv = options(place, tmp_path / "head", "--method", "amu")
    at = argv.index("--auxiliary")
    assert "--auxiliary" in refuse(capsys, *argv[:at], *argv[at + 2 :])


def test_lists_that_can_not_be_used_are_refused(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path
) -> None:
    argv = options(place, tmp_path / "head", *QUICK)
    at = argv.index("--images")
    argv[at : at + 2] = ["--csv", tmp_path / "list.csv"]
    image = str(place / "train/red/0.png")
    assert "is not there" in refuse(capsys, *argv)
    assert "is a folder" in refuse(capsys, *argv, "--csv", tmp_path)
    write_csv(tmp_path / "list.csv", [(image, "red")], ("path", "class"))
    assert "no column 'label'" in refuse(capsys, *argv)
    write_csv(tmp_path / "list.csv", [(image, "red"), (image, "green")])
    assert "twice" in refuse(capsys, *argv)
    write_csv(tmp_path / "list.csv", [(image, "red")])
    assert "has the class red alone" in refuse(capsys, *argv)
    write_csv(tmp_path / "list.csv", [(image, "red"), (str(place / "gone.png"), "green")])
    assert "1 of 2 images can't be read" in refuse(capsys, *argv)
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"red": "red", "blue": "blue"}))
    assert "only one has 'blue'" in refuse(capsys, *argv, "--class-names", names)
    names.write_text(json.dumps({"red": "red", "green": "red"}))
    assert "CLIP reads as one text: 'red'" in refuse(capsys, *argv, "--class-names", names)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--head", "nowhere"], "nowhere is not there; correct --head"),
        (["--head", "picture.png"], "no digest: it is damaged"),
        (["--images", "nowhere"], "no image or folder nowhere"),
        (["--images", "empty"], "has no images in it"),
        (["--images", "a\nb.png"], "line break"),
        (["--top", "0"], "--top"),
        (["--max-skipped", "-1"], "--max-skipped"),
        (["--output", "empty"], "is a folder"),
        (["--features", "picture.png"], "is a file"),
        (["--clip", "nowhere"], "no CLIP"),
    ],
)
def test_bad_predictions_are_one_sentence(
    capsys: pytest.CaptureFixture[str],
    place: Path,
    head: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    shutil.copy(place / "test/red/0.png", tmp_path / "picture.png")
    shutil.copy(place / "test/red/0.png", tmp_path / "a\nb.png")
    output = tmp_path / "out.jsonl"
    argv = ["fewshot", "predict", "--head", head, "--images", place / "test", "--output", output]
    assert words in refuse(capsys, *argv, *more)
    assert not output.exists()
    assert (tmp_path / "empty").is_dir()


def test_a_head_of_odd_numbers_gives_a_sentence(
    capsys: pytest.CaptureFixture[str], place: Path, head: Path, tmp_path: Path
) -> None:
    """Such as somebody else's program may write: the digest is right, the encoders are."""
    facts, tensors = read_tensors(head)
    write_tensors(tmp_path / "odd", tensors, {**facts, "values": {**facts["values"], "scale": 1e300}})
    sentence = refuse(capsys, "fewshot", "predict", "--head", tmp_path / "odd", "--images", place / "test/red")
    assert "can't be used with these encoders" in sentence


def test_a_head_that_says_no_more_than_its_encoders_hashes_can_be_used(
    capsys: pytest.CaptureFixture[str], place: Path, head: Path, tmp_path: Path
) -> None:
    fitted, header = load_head(head)
    save_head(tmp_path / "bare", fitted, class_names=CLASSES, encoders=header["encoders"])
    argv = ["--images", place / "test"]
    assert "give --clip" in refuse(capsys, "fewshot", "predict", "--head", tmp_path / "bare", *argv)
    named = ["--clip", place / "clip", "--auxiliary", f"checkpoint:test_resnet:{place / 'aux.safetensors'}"]
    output = ["--report", tmp_path / "page.html", "--output", tmp_path / "rows.jsonl"]
    said, _ = run(capsys, "fewshot", "predict", "--head", tmp_path / "bare", *argv, *named, *output)
    assert "The probabilities are not calibrated" in said
    rows, whole = read_jsonl(tmp_path / "rows.jsonl"), predict(capsys, head, *argv)
    assert [row["label"] for row in rows] == [row["top"][0]["label"] for row in whole]
    assert [row["clip_label"] for row in rows] == [row["clip_label"] for row in whole]
    assert not any(row["calibrated"] or row["learnt"] for row in rows)


# The parts


def test_specs_are_entries_of_the_loaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w:1.pt").write_bytes(b"")
    at = {"source": "open_clip", "model": "ViT-B-32", "pretrained": "openai", "revision": "refs/pr/1"}
    assert parse_clip("open_clip:ViT-B-32/openai@refs/pr/1") == at
    timm_at = {"source": "timm", "model": "resnet50", "pretrained": True, "revision": "v1"}
    assert parse_auxiliary("timm:resnet50@v1") == timm_at
    assert parse_clip("open_clip:ViT-B-32/laion400m_e32") == {
        "source": "open_clip",
        "model": "ViT-B-32",
        "pretrained": "laion400m_e32",
    }
    file = str(tmp_path / "w:1.pt")
    assert parse_clip("checkpoint:RN50:w:1.pt") == {"source": "path", "model": "RN50", "path": file}
    assert parse_auxiliary("checkpoint:resnet50:w:1.pt") == {"source": "checkpoint", "model": "resnet50", "path": file}
    assert parse_auxiliary("timm:vit_tiny.a_b") == {"source": "timm", "model": "vit_tiny.a_b", "pretrained": True}
    torchvision = {"source": "torchvision", "model": "resnet18"}
    assert parse_auxiliary("torchvision:resnet18/IMAGENET1K_V1") == {**torchvision, "weights": "IMAGENET1K_V1"}
    assert parse_auxiliary("torchvision:resnet18") == {**torchvision, "weights": "DEFAULT"}


def test_settings_have_their_types() -> None:
    named = {"alpha": 1, "kind": "entropy", "reference": "classes", "epochs": 2}
    found = parse_settings("amu", ["alpha=1", "kind=entropy", "reference=classes", "epochs=2"])
    assert found.dump() == complete_settings("amu", {}).dump() | named
    chosen = parse_settings("amu_classes", ["selection=fixed", "alpha=0.5"])
    assert chosen == complete_settings("amu_classes", {"selection": "fixed", "alpha": 0.5})
    assert parse_settings("amu_classes", ["epochs=9", "folds=2"]) == complete_settings(
        "amu_classes", {"epochs": 9, "folds": 2}
    )
    wrong = {
        "amu": ["alpha=x", "alpha=true", "alpha=NaN", "alpha=null", "epochs=1.5", "batch=0", "kind=7", "kind=typo",
                "reference=0", "temperature=cold", "lambda=1.1", "branch=x", "selection=x", "folds=-1", "=1"],
        "gda": ["views=some", "alpha=[1]"],
    }  # fmt: skip
    for method, pairs in wrong.items():
        for pair in pairs:
            with pytest.raises(UserError):
                parse_settings(method, [pair])
    with pytest.raises(UserError, match="chooses alpha by cross-validation; to set it, set selection to fixed"):
        parse_settings("amu_classes", ["alpha=0.25"])


@given(count=st.integers(1, 300), data=st.data())
def test_wilsons_interval_is_scipys(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    expected = stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, count) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_help_needs_no_torch() -> None:
    program = (
        "import sys; from logitfusion.cli import main\n"
        "try: main(['fewshot', sys.argv[1], '--help'])\n"
        "finally: print(sorted({'torch', 'transformers', 'open_clip', 'numpy'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
    for action, option in (("fit", "--compare"), ("predict", "--score"), ("methods", "METHOD")):
        printed = subprocess.run(
            [sys.executable, "-c", program, action], env=environment, capture_output=True, text=True
        )
        assert option in printed.stdout
        assert printed.stdout.endswith("[]\n")


def test_a_mistake_needs_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from logitfusion.cli import main\n"
        "print(main(['fewshot', *sys.argv[1:]]), {'torch', 'transformers', 'open_clip', 'timm'} & sys.modules.keys())"
    )
    for folder in ("clip", "images/full", "images/empty"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "images/full/1.png").write_bytes(b"")
    (tmp_path / "clip/open_clip_config.json").touch()
    (tmp_path / "head").touch()
    fitting = ["fit", "--output", tmp_path / "new", "--method", "gda", "--clip", tmp_path / "clip", "--images"]
    predicting = ["predict", "--head", tmp_path / "head", "--images"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
    for argv, words in (
        ([*fitting, tmp_path / "images"], "images/empty has no images"),
        ([*fitting, tmp_path / "gone"], "gone is not there"),
        ([*predicting, tmp_path / "images/empty"], "images/empty has no images"),
    ):
        done = subprocess.run([sys.executable, "-c", program, *argv], env=environment, capture_output=True, text=True)
        assert words in done.stderr
        assert done.stdout == "1 set()\n"
