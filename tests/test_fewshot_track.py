"""The few-shot track between caches and report: what a fit may read, the numbers by hand, the pictures."""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.support import make_support, read_draw, write_support
from logitfusion.clip.features.encode import Encoded
from logitfusion.clip.features.pool import join_encoders, manifest, read_pool, write_classifier
from logitfusion.clip.features.splits import write_features
from logitfusion.clip.fitting.fit import fit_method
from logitfusion.clip.head_file import save_head
from logitfusion.clip.predictions import EvaluationSet, predict
from logitfusion.config.evaluate import Evaluate
from logitfusion.config.tracks import FewShotReport
from logitfusion.errors import UserError
from logitfusion.evaluate.fewshot import tabulate_fewshot
from logitfusion.evaluate.table import COLUMNS, Provenance
from logitfusion.report.fewshot.ablation import plot_ablation
from logitfusion.report.fewshot.shared import Predictions
from logitfusion.report.fewshot.shift import plot_shift
from logitfusion.report.fewshot.shots import plot_shots
from logitfusion.report.fewshot.summary import write_fewshot_summary
from logitfusion.report.fewshot.uncertainty import plot_uncertainty
from logitfusion.report.index.image_examples import ImageExamples, cut_images, encode_images

CLASSES = ["cat", "dog", "owl"]
ENCODERS = {"clip": "c" * 64, "one": "1" * 64, "other": "2" * 64}


def unit(*shape: int, seed: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


def write_split(folder: Path, rows: Sequence[ImageRow], split: str, views: int, skipped: Sequence[str] = ()) -> None:
    """Features of all encoders, each image a content of its own."""
    folder.mkdir(exist_ok=True)
    kept = [row for row in rows if row.id not in skipped]
    encoded = Encoded(
        {name: unit(len(kept), views, 4 + place, seed=place) for place, name in enumerate(ENCODERS)},
        torch.tensor([row.label for row in kept]),
        [row.id for row in kept],
        [hashlib.sha256(row.id.encode()).hexdigest() for row in kept],
        dict.fromkeys(skipped, "broken"),
    )
    for name in ENCODERS:
        write_features(folder / f"{name}.safetensors", encoded, name, split)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A folder of support features of 3 classes with 4 images, drawn with seeds 0 and 1."""
    rows = [ImageRow(f"{name}-{number}", "", label) for label, name in enumerate(CLASSES) for number in range(4)]
    folder = tmp_path / "support"
    write_split(folder, rows, "support", views=2)
    for seed in (0, 1):
        write_support(manifest(folder, seed), make_support(rows, 4, seed), CLASSES)
    facts = {"classes": CLASSES, "prompts": ["{}"], "encoders": ENCODERS, "scale": 20.0}
    write_classifier(folder, unit(3, 4, seed=9).T, **facts)
    return folder


@pytest.fixture
def tested(tmp_path: Path) -> Path:
    rows = [ImageRow(f"test-{number}", "", number % 3) for number in range(9)]
    write_split(tmp_path / "pets", rows, "test", views=1)
    return tmp_path / "pets"


def test_a_draw_is_the_manifest_s_first_images(pool: Path) -> None:
    found = read_pool(pool)
    for seed in (0, 1):
        for shots in (1, 3):
            ids = [name for name, rank in read_draw(manifest(pool, seed)) if rank < shots]
            support = found.draw(shots, seed)
            assert len(ids) == 3 * shots
            assert support.clip.shape == (3 * shots, 2, 4)
            places = [found.ids.index(name) for name in ids]
            assert torch.equal(support.clip, found.images.clip[places])
            assert torch.equal(support.labels, found.images.labels[places])
            assert support.scale == 20.0


def test_several_auxiliaries_are_one_of_unit_norm(pool: Path) -> None:
    auxiliary = read_pool(pool).images.auxiliary
    assert auxiliary.shape == (12, 2, 5 + 6)
    torch.testing.assert_close(auxiliary.norm(dim=-1), torch.ones(12, 2))
    torch.testing.assert_close(auxiliary[..., :5].norm(dim=-1), torch.full((12, 2), 0.5**0.5))


def test_an_unreadable_image_is_left_out_of_the_draw(pool: Path) -> None:
    rows = [ImageRow(f"{name}-{number}", "", label) for label, name in enumerate(CLASSES) for number in range(4)]
    write_split(pool, rows, "support", views=2, skipped=["cat-0"])
    assert len(read_pool(pool).draw(4, 0).labels) == 11


def test_a_fit_can_not_open_test_features(pool: Path, tested: Path) -> None:
    """Not by mistake either: test features under the name of support features are refused."""
    (pool / "one.safetensors").write_bytes((tested / "one.safetensors").read_bytes())
    with pytest.raises(UserError, match="test features"):
        read_pool(pool)


def test_features_of_other_images_are_not_joined(tested: Path) -> None:
    other = tested.with_name("other")
    write_split(other, [ImageRow(f"x-{number}", "", number % 3) for number in range(9)], "test", views=1)
    shutil.copy(other / "one.safetensors", tested)
    with pytest.raises(UserError, match="not of the same images"):
        join_encoders(tested, list(ENCODERS), purpose="evaluate")


def test_answers_are_those_of_the_head_and_epochs_those_of_the_snapshots(
    pool: Path, tested: Path, tmp_path: Path
) -> None:
    kept: list[Any] = []
    support = read_pool(pool).draw(2, 1)
    head = fit_method("amu", support, {"epochs": 3}, seed=1, on_epoch=lambda _, one: kept.append(one))
    file = tmp_path / "2-1.safetensors"
    facts = {"shots": 2, "seed": 1, "seconds": 0.5, "images": 6}
    save_head(file, head, class_names=CLASSES, encoders=ENCODERS, metadata=facts, snapshots=kept)
    examined = EvaluationSet("pets", tested, pool)
    ((answers, epochs, fit),) = predict("mine", [file], [examined])
    seen = join_encoders(tested, list(ENCODERS), purpose="evaluate")
    clip, auxiliary, labels, ids = seen.clip, seen.auxiliary, seen.labels, seen.ids
    logits = head.logits(clip[:, 0], auxiliary[:, 0])
    assert answers["id"].tolist() == ids
    assert answers["answer"].tolist() == logits.argmax(-1).tolist()
    assert answers["correct"].tolist() == (logits.argmax(-1) == labels).tolist()
    assert answers["probability"].to_numpy() == pytest.approx(logits.softmax(-1).amax(-1).numpy())
    right = [(one.logits(clip[:, 0], auxiliary[:, 0]).argmax(-1) == labels).double().mean().item() for one in kept]
    assert [row["accuracy"] for row in epochs] == pytest.approx(right)
    assert (fit["method"], fit["shots"], fit["seed"], fit["settings"]["epochs"]) == ("mine", 2, 1, 3)
    images = examined.images()
    zero_shot = fit_method("zero_shot", support, {}, seed=0).logits(clip[:, 0])
    assert images["clip_answer"].tolist() == zero_shot.argmax(-1).tolist()


def test_heads_of_another_encoder_are_not_asked(pool: Path, tested: Path, tmp_path: Path) -> None:
    head = fit_method("zero_shot", read_pool(pool).draw(1, 0), {}, seed=0)
    save_head(tmp_path / "head.safetensors", head, class_names=CLASSES, encoders=ENCODERS | {"clip": "d" * 64})
    with pytest.raises(UserError, match="encoder clip"):
        list(predict("mine", [tmp_path / "head.safetensors"], [EvaluationSet("pets", tested, pool)]))


# ---- the table ----------------------------------------------------------------------------------------------------

RIGHT = {  # method, set -> seed -> right or wrong, of four images, the same with 1 and 2 shots
    ("zero_shot", "pets"): {0: [1, 0, 0, 0], 5: [1, 0, 0, 0]},
    ("zero_shot", "drawn"): {0: [0, 0, 0, 0], 5: [0, 0, 0, 0]},
    ("amu", "pets"): {0: [1, 1, 0, 0], 5: [1, 1, 1, 1]},
    ("amu", "drawn"): {0: [1, 0, 0, 0], 5: [1, 0, 0, 0]},
}
TRACK = FewShotReport(
    sets={"pets": ("pets", "drawn")}, shots=(1, 2), seeds=(0, 5), baselines=("zero_shot",), oracle=("amu",),
    methods=("zero_shot", "amu"), parts=("zero_shot", "amu"), ablation=("zero_shot", "amu"), clip="zero_shot",
    shown="amu", assisted=("amu",), auxiliaries={"one": "a million pictures"}, encoder="a small CLIP",
)  # fmt: skip
SETTINGS = Evaluate(resamples=500, confidence=0.95, seed=0)
PROVENANCE = Provenance(run="test", split="test", config="c", commit="d")


def make_answers(probability: float = 0.6) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"method": method, "set": name, "shots": shots, "seed": seed, "id": f"i{place}", "label": 0,
             "answer": 1 - right, "correct": bool(right), "probability": probability}
            for (method, name), seeds in RIGHT.items() for seed, marks in seeds.items()
            for place, right in enumerate(marks) for shots in (1, 2)
        ]
    )  # fmt: skip


@pytest.fixture
def table() -> pd.DataFrame:
    trials = [{"method": m, "shots": s, "seed": k} for m in ("zero_shot", "amu") for s in (1, 2) for k in (0, 5)]
    fits = pd.DataFrame([trial | {"seconds": 1.0 + trial["seed"], "images": 3} for trial in trials])
    epochs = pd.DataFrame(
        [
            {"method": "amu", "shots": shots, "seed": seed, "set": name, "epoch": epoch, "accuracy": value}
            for shots in (1, 2) for name in ("pets", "drawn")
            for seed, values in ((0, (0.75, 0.5)), (5, (0.25, 1.0))) for epoch, value in enumerate(values, 1)
        ]
    )  # fmt: skip
    return tabulate_fewshot(make_answers(), epochs, fits, ("pets", "drawn"), TRACK, SETTINGS, PROVENANCE)


def number(table: pd.DataFrame, method: str, task: str, metric: str, shots: int = 2) -> pd.Series:
    chosen = (table["method"] == method) & (table["task"] == task) & (table["metric"] == metric)
    rows = table[chosen & (table["shots"] == shots) & table["seed"].isna()]
    assert len(rows) == 1
    return rows.iloc[0]


def test_the_numbers_by_hand(table: pd.DataFrame) -> None:
    assert tuple(table.columns) == COLUMNS
    assert number(table, "amu", "pets", "accuracy")["value"] == pytest.approx(6 / 8)
    assert number(table, "amu", "pets", "accuracy_std")["value"] == pytest.approx(np.std([0.5, 1.0], ddof=1))
    assert number(table, "zero_shot", "pets", "accuracy_std")["value"] == 0.0
    assert number(table, "amu", "pets", "gain_over_zero_shot")["value"] == pytest.approx(0.5)
    assert number(table, "amu", "pets", "oracle_accuracy")["value"] == pytest.approx((0.75 + 1.0) / 2)
    assert number(table, "amu", "pets", "seconds_of_fitting")["value"] == pytest.approx(3.5)
    # One bin: |0.5 - 0.6| and |1 - 0.6|.
    assert number(table, "amu", "pets", "calibration_error")["value"] == pytest.approx((0.1 + 0.4) / 2)
    assert number(table, "amu", "drawn", "accuracy", shots=1)["value"] == pytest.approx(1 / 4)
    seeds = table[
        (table["method"] == "amu") & (table["task"] == "pets") & (table["shots"] == 1) & table["seed"].notna()
    ]
    assert dict(zip(seeds["seed"], seeds["value"], strict=True)) == {0: 0.5, 5: 1.0}
    assert table[(table["metric"] == "gain_over_zero_shot") & (table["method"] == "zero_shot")].empty
    assert set(table["n"]) == {4}


def test_gains_keep_their_pairs_and_their_seeds(table: pd.DataFrame) -> None:
    """On the shifted set the gain is one image of four, whichever seed: its interval is that of the image alone."""
    gain = number(table, "amu", "drawn", "gain_over_zero_shot")
    score = number(table, "amu", "drawn", "accuracy")
    assert (gain["ci_low"], gain["ci_high"]) == (score["ci_low"], score["ci_high"])


def test_a_missing_seed_is_an_error_and_not_a_smaller_mean(table: pd.DataFrame) -> None:
    answers = make_answers()
    answers = answers[~((answers["method"] == "amu") & (answers["seed"] == 5))]
    with pytest.raises(KeyError):
        tabulate_fewshot(
            answers, pd.DataFrame(columns=["method", "shots", "seed", "set", "epoch", "accuracy"]), pd.DataFrame(),
            ("pets",), TRACK, SETTINGS, PROVENANCE,
        )  # fmt: skip


# ---- pictures -----------------------------------------------------------------------------------------------------


def test_pictures_name_methods_sets_and_counts(table: pd.DataFrame, tmp_path: Path) -> None:
    plot_shots(table, TRACK, tmp_path / "shots.svg")
    plot_ablation(table, TRACK, tmp_path / "ablation.svg")
    plot_shift(table, TRACK, tmp_path / "shift.svg")
    write_fewshot_summary(table, TRACK, tmp_path / "summary.html", tmp_path / "summary.md")
    for file in ("shots.svg", "ablation.svg", "shift.svg", "summary.html", "summary.md"):
        text = (tmp_path / file).read_text()
        assert all(word in text for word in ("zero_shot", "amu", "pets", "drawn")), file
    lines = (tmp_path / "summary.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith("| pets | amu |"))
    assert "| 75.0 ± 35.4 | 75.0 ± 35.4 | 50.0 [" in row
    assert "| 87.5 | 0.25 |" in row
    assert "a million pictures" in lines[-1]
    assert "n = 4 (pets), 4 (drawn)" in lines[-1]


def test_families_and_not_names_decide_what_is_drawn_where(table: pd.DataFrame, tmp_path: Path) -> None:
    table = table.replace({"zero_shot": "plain", "amu": "mine"})
    track = TRACK.model_copy(update={"methods": ("plain", "mine"), "clip": "plain", "shown": "mine"})
    alone = track.model_copy(update={"parts": ("mine",), "ablation": ("mine",)})
    plot_shots(table, alone, tmp_path / "shots.svg")
    plot_ablation(table, alone, tmp_path / "ablation.svg")
    assert "the dotted line is plain" in (tmp_path / "shots.svg").read_text()
    assert "plain" not in (tmp_path / "ablation.svg").read_text()
    whole = track.model_copy(update={"parts": ("mine",), "ablation": track.methods})
    plot_shots(table, whole, tmp_path / "shots.svg")
    plot_ablation(table, whole, tmp_path / "ablation.svg")
    assert "plain" in (tmp_path / "ablation.svg").read_text()


def test_images_are_told_with_all_answers_and_the_factor(tmp_path: Path) -> None:
    images = pd.DataFrame(
        [
            {"set": name, "id": f"i{place}", "label": 0, "clip_answer": int(place > 0), "clip_probability": 0.5,
             "factor": 3.0 + place, "factor_classes": 0.6}
            for name in ("pets", "drawn") for place in range(4)
        ]
    )  # fmt: skip
    predictions = {"pets": Predictions(make_answers(), images, ["<cat>", "dog"])}
    source = ImageExamples("t", "n", predictions, lambda name, image: f"{name}/{image}".encode(), TRACK)
    columns = encode_images(source, "pets")
    pictures = [base64.b64decode(uri.split(",")[1]).decode() for uri in columns["picture"]]
    assert pictures == [f"pets/i{place}" for place in range(4)]
    # Seed 0: AMU has i0 and i1 right on pets; CLIP has i0 right.
    assert columns["clip"] == [0, 1, 1, 1]
    assert [given == 0 for given in columns["answers"]["amu"]["2"]["0"]["answer"]] == [True, True, False, False]
    assert cut_images(columns, 2)["answers"]["amu"]["2"]["0"]["answer"] == [0, 0]
    assert columns["clip_chance"] == [500] * 4
    plot_uncertainty(predictions, TRACK, tmp_path / "uncertainty.svg")
    assert "3.00 to 6.00" in (tmp_path / "uncertainty.svg").read_text()
