"""Files that were damaged after they were written: never used, always named, made anew as the sentence says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from calls import CONFIG, EXPERT, RESULTS, STUDENT, TARGETS, call, errors, write_config

pytestmark = pytest.mark.fault


def cut(path: Path) -> None:
    """Lose the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change one bit near a file's end, where its numbers are."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def results(folder: Path) -> pd.DataFrame:
    """The metrics table without its times."""
    table = pd.read_csv(folder / RESULTS / "metrics.csv")
    return table[table["metric"] != "tokens_per_second"].drop(columns=["seconds"]).reset_index(drop=True)


def test_damaged_files_are_named_and_made_anew(run: Path, finished: Path) -> None:
    """A model, a shard of a teacher's cache, support features and the feature cache, when a new value needs them."""

    def change(config: dict[str, Any]) -> None:
        config["fusion"]["temperature"] = 0.5
        config["distill"]["methods"]["gld"]["gld"] = 0.1
        config["clip"]["methods"]["amu"]["alpha"] = 0.7

    changed = write_config(run, "changed.yaml", change, "faults.yaml")
    model, support = Path(EXPERT) / "model.safetensors", RESULTS / "clip/support/shapes"
    shard, features = RESULTS / "distill/cache/twin/0.safetensors", support / "clip.safetensors"
    flip(run / model)
    cut(run / shard)
    flip(run / features)
    for path in (run / "results/features").rglob("*.safetensors"):
        cut(path)
    code, said = call(run, *TARGETS, *changed)
    assert code == 1
    assert "Traceback" not in said
    for log, file, advice in (
        ("fusion/sums/0", EXPERT, "delete the folder and run again."),
        ("distill/students/gld.0", shard, "delete it and make it anew."),
        ("clip/heads/shapes/amu", features, f"delete the folder {support} and run again."),
    ):
        (sentence,) = errors(run / RESULTS / f"logs/{log}.log")
        assert str(file) in sentence
        assert sentence.endswith(advice)
    for missing in (STUDENT, RESULTS / "clip/heads/shapes/amu", RESULTS / "fusion/sums/0.jsonl"):
        assert not (run / missing).exists()

    for folder in (EXPERT, support):
        shutil.rmtree(run / folder)
    (run / shard).unlink()
    code, said = call(run, *TARGETS, *changed)
    assert code == 0, said[-6000:]
    assert "computed again" in (run / RESULTS / "logs/clip/support/shapes.log").read_text()
    for file in (model, shard, features):
        assert (run / file).read_bytes() == (finished / file).read_bytes()


def test_damaged_tables_are_named_and_made_anew(run: Path, finished: Path) -> None:
    """What the metrics and the plots are made from, and the generations that are judged."""
    judged, curve = RESULTS / "evaluation/sums.parquet", f"{EXPERT}/curve.csv"
    cut(run / judged)
    (run / curve).write_text("")
    code, said = call(run, *TARGETS, *CONFIG, "--forcerun", "metrics", "plot_losses")
    assert code == 1
    assert "Traceback" not in said
    (sentence,) = errors(run / RESULTS / "logs/metrics.log")
    assert sentence.startswith(f"{judged} has no digest")
    assert sentence.endswith("delete it and run again.")
    (sentence,) = errors(run / RESULTS / "logs/plots/losses.log")
    assert sentence.startswith(f"The files in {EXPERT} are damaged (curve.csv has 0 bytes")
    assert sentence.endswith("delete the folder and run again.")

    (run / judged).unlink()
    shutil.rmtree(run / EXPERT)
    generations = RESULTS / "fusion/sums/0.jsonl"
    lines = (run / generations).read_text().splitlines(keepends=True)
    (run / generations).write_text("".join(lines[:-1]))  # cut off between two lines: each of those left is whole
    code, said = call(run, *TARGETS, *CONFIG)
    assert code == 1
    (sentence,) = errors(run / RESULTS / "logs/evaluation/sums.log")
    assert sentence.startswith(f"{generations} is damaged")
    assert sentence.endswith("delete it and run again.")

    (run / generations).unlink()
    code, said = call(run, *TARGETS, *CONFIG)
    assert code == 0, said[-6000:]
    pd.testing.assert_frame_equal(results(run), results(finished))
