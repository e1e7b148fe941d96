"""What the few-shot track writes and reads again: a flipped bit is told, and what a file says of itself has a type."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from flips import refuses_every_flip

from logitfusion.clip.answers import answer
from logitfusion.clip.data import record_folder
from logitfusion.clip.data.dataset import DataSet, ImageRow, load_data, save_data
from logitfusion.clip.data.support import make_support, write_support
from logitfusion.clip.encoders.load import load_clip
from logitfusion.clip.encoders.tiny import make_random_clip
from logitfusion.clip.features.encode import CLIP, Encoded
from logitfusion.clip.features.files import read_tensors, write_tensors
from logitfusion.clip.features.pool import CLASSIFIER, manifest, read_classifier, read_pool, write_classifier
from logitfusion.clip.features.splits import read_features, write_features
from logitfusion.clip.head_file import load_head, save_head
from logitfusion.clip.heads import CacheHead, FusedHead, Head, LinearHead
from logitfusion.errors import UserError
from logitfusion.integrity import check_files
from logitfusion.provenance import record
from logitfusion.stages._clip import open_clip_folder, write_entry
from logitfusion.stages._heads import RECORD, head_file, list_heads
from logitfusion.tables import read_table, write_table

NAMES = ["cat", "dog"]
STEP = 37  # flips every place in a byte as often as the others, a bit of every fifth byte
HEADS: dict[str, Head] = {
    "linear": LinearHead(torch.eye(2), None, torch.zeros(2), method="clip_probe", settings={"ridge": 1.0}),
    "cache": CacheHead(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), 100.0, 1.0, 5.5, method="tip_adapter"),
    "fused": FusedHead(torch.eye(2), torch.ones(2, 3), 100.0, 0.5, 0.4, 250.0, method="amu"),
}
METADATA = {"shots": 1, "seed": 0, "prompts": ["a {}."], "digests": ["0" * 64], "calibration": {"temperature": 1.5}}


def saved(path: Path, head: Head) -> Path:
    save_head(path, head, class_names=NAMES, encoders={"clip": "c"}, metadata=METADATA)
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Support features of two images, with their manifest and their classifier."""
    folder = tmp_path / "support"
    folder.mkdir()
    rows = [ImageRow(name, "", label) for label, name in enumerate(NAMES)]
    values = {CLIP: torch.eye(2)[:, None]}
    encoded = Encoded(values, torch.tensor([0, 1]), list(NAMES), ["0" * 64, "1" * 64], {"bird": "broken"})
    write_features(folder / "clip.safetensors", encoded, CLIP, "support")
    write_support(manifest(folder, 0), make_support(rows, 1, 0), NAMES)
    write_classifier(folder, torch.eye(2), classes=NAMES, prompts=["{}"], encoders={CLIP: "c"}, scale=100.0)
    return folder


# ---- flipped bits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HEADS)
def test_a_bit_that_flips_in_a_head_is_told(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path / "head", HEADS[kind])
    refuses_every_flip(path, lambda: load_head(path), STEP)


def test_a_bit_that_flips_in_features_is_told(pool: Path) -> None:
    path = pool / "clip.safetensors"
    refuses_every_flip(path, lambda: read_features(path, purpose="fit"), STEP)


def test_a_bit_that_flips_in_a_classifier_is_told(pool: Path) -> None:
    path = pool / CLASSIFIER
    refuses_every_flip(path, lambda: read_classifier(pool), STEP)


def test_a_bit_that_flips_in_a_manifest_is_told(pool: Path) -> None:
    found = read_pool(pool)
    refuses_every_flip(manifest(pool, 0), lambda: found.draw(1, 0), 7)


def test_a_bit_that_flips_in_the_table_of_a_data_set_is_told(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    rows = [ImageRow("1", "cats/1.png", 0), ImageRow("2", "dogs/2.png", 1)]
    save_data(DataSet(NAMES, ["a {}."], rows[:1], rows[1:], "given"), path)
    refuses_every_flip(path, lambda: load_data(path), STEP)


def test_a_bit_that_flips_in_predictions_is_told(tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    answers = pd.DataFrame({"id": ["1", "2"], "answer": [0, 1], "probability": [0.5, 0.25], "correct": [True, False]})
    write_table(answers, path)
    pd.testing.assert_frame_equal(read_table(path), answers)
    refuses_every_flip(path, lambda: read_table(path), 61)


def test_what_was_unpacked_is_held_against_its_record(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    picture, array = tmp_path / "pictures/1.png", tmp_path / "train.npy"
    picture.write_bytes(b"a picture")
    array.write_bytes(b"pixels")
    record_folder(tmp_path)
    for path in (picture, array, tmp_path / "record.json"):
        refuses_every_flip(path, lambda: check_files(tmp_path), 5)
    record_folder(tmp_path)  # again, as a stage that runs again
    picture.unlink()
    assert "pictures/1.png" in refusal(lambda: check_files(tmp_path), tmp_path)


def test_a_bit_that_flips_in_a_clip_of_ours_is_told(tmp_path: Path) -> None:
    """Its config and, of the weights, which are larger, some bits all over."""
    make_random_clip(tmp_path, 0)
    write_entry(tmp_path, {"source": "built"})
    opened = open_clip_folder(tmp_path)
    refuses_every_flip(tmp_path / "entry.json", lambda: open_clip_folder(tmp_path), 101)
    weights = tmp_path / "open_clip_model.safetensors"
    refuses_every_flip(weights, lambda: load_clip({"source": "built", "path": tmp_path}), 4 * weights.stat().st_size)
    assert open_clip_folder(tmp_path).fingerprint == opened.fingerprint


# ---- files that are whole, and say something else -----------------------------------------------------------------


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]) -> None:
    """The same file, with a digest of its own, as somebody else's program might write it."""
    facts, tensors = read_tensors(path)
    facts, tensors = copy.deepcopy(facts), dict(tensors)
    change(facts, tensors)
    write_tensors(path, tensors, facts)


def refusal(read: Callable[[], Any], path: Path) -> str:
    with pytest.raises(UserError) as refused:
        read()
    sentence = str(refused.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


ODD = [None, True, -1, 2**70, 1e400, float("nan"), "x", "", [], {}, [1], {"a": 1}, [[]], "\0"]
CLIPS = [None, {}, {"source": 5}, {"source": "built"}, {"source": "open_clip", "model": "ViT-B-32", "pretrained": 3}]
AUXILIARIES = [None, [{}], [{"source": "timm"}], [{"source": "package", "model": "m", "path": "p", "file": "f"}]]
# Every place of a header that is no free text, and what never fits there.
PLACES: list[tuple[tuple[str, ...], list[Any]]] = [
    (("version",), [None, True, "3", 2, 4, [], 3.5]),
    (("kind",), ODD),
    (("values",), [one for one in ODD if one != {}]),
    (("values", "scale"), [None, True, "x", [], 1e400, float("nan")]),
    (("values", "branch"), [None, True, "x", 3, []]),
    (("values", "settings"), [None, "x", 3, []]),
    (("values", "unknown"), [1]),
    (("class_names",), [None, 3, "ab", [], ["cat"], ["cat", 1], ["cat", "cat"], ["cat", "dog", "bird"]]),
    (("encoders",), [None, 3, "x", [], {"clip": 1}, {"clip": None}]),
    (("epochs",), [None, True, -1, 2**70, 10**9, "x", 1.5]),
    (("metadata",), [None, 3, "x", []]),
    (("metadata", "shots"), [0, -1, "x", 1.5, True]),
    (("metadata", "prompts"), ["x", [1], {}]),
    (("metadata", "digests"), ["x", ["x"], [1]]),
    (("metadata", "calibration"), ["x", {}, {"temperature": 0.0}, {"temperature": "x"}, {"temperature": 1e400}]),
    (("metadata", "comparison"), ["x", {}, {"n": 1, "scores": [{}]}]),
    (("metadata", "calibration"), [{"temperature": 1.0, "n": 10}]),
    (("metadata", "counts"), [[1], [1, -1], [1, 2, 3], "ab"]),
    (("metadata", "folders"), [["cats"], [1, 2], "ab"]),
    (("metadata", "entries"), ["x", {}, *({"clip": clip, "auxiliary": []} for clip in CLIPS)]),
    (("metadata", "entries"), [{"clip": {"source": "built", "path": "c"}, "auxiliary": one} for one in AUXILIARIES]),
]


@pytest.mark.parametrize(("place", "values"), PLACES)
def test_what_a_head_says_of_itself_has_a_type(tmp_path: Path, place: tuple[str, ...], values: list[Any]) -> None:
    path = saved(tmp_path / "head", HEADS["fused"])
    whole = path.read_bytes()
    for value in values:
        path.write_bytes(whole)

        def change(facts: dict[str, Any], _: Any, value: Any = value) -> None:
            for key in place[:-1]:
                facts = facts[key]
            facts[place[-1]] = value

        forge(path, change)
        refusal(lambda: load_head(path), path)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("linear", "bias", None),
        ("linear", "bias", torch.zeros(3)),
        ("linear", "bias", torch.tensor(0.0)),
        ("linear", "bias", torch.zeros(2, dtype=torch.int64)),
        ("linear", "bias", torch.tensor([0.0, torch.inf])),
        ("linear", "clip_weight", torch.eye(3)),
        ("linear", "clip_weight", torch.eye(2).double()),
        ("cache", "keys", torch.ones(3, 2)),
        ("cache", "keys", torch.ones(2, 5)),
        ("cache", "key_labels", torch.tensor([0, 2])),
        ("cache", "key_labels", torch.tensor([-1, 0])),
        ("cache", "key_labels", torch.tensor([0.0, 1.0])),
        ("fused", "weight", torch.full((2, 3), torch.nan)),
        ("fused", "weight", torch.ones(3, 3)),
        ("fused", "weight", torch.ones(2, 3, dtype=torch.complex64)),
        ("fused", "classifier", torch.ones(2)),
        ("fused", "classifier", torch.ones(0, 2)),
        ("fused", "classifier", None),
    ],
)
def test_the_tensors_of_a_head_fit_together(tmp_path: Path, kind: str, name: str, value: torch.Tensor | None) -> None:
    path = saved(tmp_path / "head", HEADS[kind])
    forge(path, lambda _, tensors: tensors.pop(name) if value is None else tensors.update({name: value}))
    refusal(lambda: load_head(path), path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": 1e300}, "its probabilities are not finite"),
        ({"temperature": 1e300}, "its probabilities are not finite"),
        ({"kind": "other"}, "kind is one of"),
        ({"reference": "other"}, "reference is"),
        ({"weight": torch.ones(2, 4)}, "auxiliary is"),
        ({"classifier": torch.ones(3, 2)}, "clip is"),
    ],
)
def test_a_head_of_odd_numbers_gives_no_answers(change: dict[str, Any], words: str) -> None:
    """Each has a type that fits; what it makes of images has none."""
    head = replace(HEADS["fused"], **change)
    encoded = SimpleNamespace(
        clip=torch.ones(1, 1, 2), auxiliary=torch.tensor([[[0.0, 1.0, 2.0]]]), ids=["1"], skipped={}
    )
    header = {"class_names": NAMES, "metadata": {}}
    with pytest.raises(ValueError, match=words):
        answer(head, header, encoded, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="CLIP's own"):
        answer(HEADS["fused"], header, encoded, torch.full((1, 2), torch.inf))


@pytest.mark.parametrize(
    ("key", "value"),
    [("split", "train"), ("split", 3), ("skipped", []), ("skipped", {"a": 1}), ("more", 1), ("split", None)],
)
def test_what_features_say_of_themselves_has_a_type(pool: Path, key: str, value: Any) -> None:
    path = pool / "clip.safetensors"
    forge(path, lambda facts, _: facts.update({key: value}))
    refusal(lambda: read_features(path, purpose="fit"), path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("values", torch.zeros(2, 1, 2)),
        ("values", torch.full((2, 1, 2), torch.nan).half()),
        ("values", torch.ones(3, 1, 2).half()),
        ("labels", torch.zeros(2)),
        ("labels", torch.zeros(1, dtype=torch.int64)),
        ("ids", torch.zeros(0, dtype=torch.uint8)),
        ("digests", torch.zeros(2, 31, dtype=torch.uint8)),
        ("digests", torch.zeros(2, dtype=torch.uint8)),
    ],
)
def test_the_tensors_of_features_fit_together(pool: Path, name: str, value: torch.Tensor) -> None:
    path = pool / "clip.safetensors"
    forge(path, lambda _, tensors: tensors.update({name: value}))
    refusal(lambda: read_features(path, purpose="fit"), path)


@pytest.mark.parametrize(
    "change",
    [
        lambda facts, _: facts.update(scale=0.0),
        lambda facts, _: facts.update(scale="x"),
        lambda facts, _: facts.update(classes=["cat"]),
        lambda facts, _: facts.update(encoders=["clip"]),
        lambda facts, _: facts.update(manifests={"seed-0.csv": "x"}),
        lambda _, tensors: tensors.update(classifier=torch.full((2, 2), torch.nan)),
        lambda _, tensors: tensors.update(classifier=torch.ones(2, 3)),
        lambda _, tensors: tensors.clear(),
    ],
)
def test_what_a_classifier_says_of_itself_has_a_type(pool: Path, change: Callable[..., Any]) -> None:
    forge(pool / CLASSIFIER, change)
    refusal(lambda: read_classifier(pool), pool / CLASSIFIER)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (CLASSIFIER, lambda _, tensors: tensors.update(classifier=torch.ones(3, 2))),
        ("clip.safetensors", lambda _, tensors: tensors.update(labels=torch.tensor([0, 2]))),
        ("clip.safetensors", lambda _, tensors: tensors.update(labels=torch.tensor([0, -1]))),
    ],
)
def test_files_of_several_pools_are_not_mixed(pool: Path, name: str, change: Callable[..., Any]) -> None:
    forge(pool / name, change)
    assert "don't belong together" in refusal(lambda: read_pool(pool), pool)


def test_a_manifest_that_is_edited_later_is_told(pool: Path) -> None:
    """Another draw of the same images, which nothing else would notice."""
    rows = [ImageRow(name, "", label) for label, name in enumerate(NAMES)]
    write_support(manifest(pool, 0), make_support(rows[::-1], 1, 1), NAMES)
    assert "has changed" in refusal(lambda: read_pool(pool).draw(1, 0), manifest(pool, 0))


def test_heads_of_a_run_are_all_there_or_none_is_read(tmp_path: Path) -> None:
    """Fewer of them would be means over fewer seeds."""
    job = {"shots": [1, 2], "seeds": [0, 1], "method": "amu", "settings": {}, "oracle": False}
    record(tmp_path / RECORD, job)
    paths = [saved(head_file(tmp_path, shots, seed), HEADS["fused"]) for shots in (1, 2) for seed in (0, 1)]
    assert list_heads(tmp_path) == paths
    paths[1].write_bytes(b"")
    assert f"delete the folder {tmp_path} and run again" in refusal(lambda: load_head(paths[1]), paths[1])
    paths[1].unlink()
    assert f"delete the folder {tmp_path} and run again" in refusal(lambda: list_heads(tmp_path), paths[1])


@pytest.mark.parametrize("name", ["seed-0.csv", "clip.safetensors", CLASSIFIER])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_what_a_stage_wrote_is_named_with_the_folder_to_delete(pool: Path, name: str, damage: str) -> None:
    """Snakemake knows the folder, and makes no single file of it anew."""
    record(pool / RECORD, {})
    if damage == "gone":
        (pool / name).unlink()
    else:
        (pool / name).write_bytes((pool / name).read_bytes()[:-4])
    told = refusal(lambda: read_pool(pool).draw(1, 0), pool / name)
    assert told.endswith(f"delete the folder {pool} and run again.")
