"""Files that were damaged after they were written: never used, always named, made anew as the sentence says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from calls import CONFIG, EXPERT, RESULTS, STUDENT, TARGETS, call, errors

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


@pytest.mark.parametrize("damage", [cut, flip], ids=["cut off", "one bit"])
def test_damaged_files_are_named_and_made_anew(run: Path, finished: Path, damage: object) -> None:
    """A model, a shard of a teacher's cache, support features, the feature cache."""
    support = RESULTS / "clip/support/shapes"
    (shard,) = (run / RESULTS / "distill/cache/twin").glob("*.safetensors")
    cached = [path for path in (run / "results/features").glob("*.safetensors")]
    for path in (run / EXPERT / "model.safetensors", shard, run / support / "clip.safetensors", *cached):
        damage(path)
    code, said = call(run, *TARGETS, *CONFIG, "--forcerun", "decode", "student", "clip_fit")
    assert code == 1
    assert "Traceback" not in said
    place = str(support / "clip.safetensors")
    for log, file, advice in (
        ("fusion/ceiling/0", EXPERT, "delete the folder and run again."),
        ("distill/students/gld.0", shard.relative_to(run), "delete it and make it anew."),
        ("clip/heads/shapes/amu", place, f"delete the folder {support} and run again."),
    ):
        (sentence,) = errors(run / RESULTS / f"logs/{log}.log")
        assert str(file) in sentence
        assert sentence.endswith(advice)
    assert not (run / STUDENT).exists()
    assert not (run / RESULTS / "clip/heads/shapes/amu").exists()

    for folder in (EXPERT, support):
        shutil.rmtree(run / folder)
    shard.unlink()
    code, said = call(run, *TARGETS, *CONFIG)
    assert code == 0, said[-6000:]
    assert "computing again" in (run / RESULTS / "logs/clip/support/shapes.log").read_text()
    pd.testing.assert_frame_equal(results(run), results(finished))


def test_damaged_tables_are_named_and_made_anew(run: Path, finished: Path) -> None:
    """What the metrics and the plots are made from, and the generations that are judged."""
    judged, curve = RESULTS / "evaluation/sums.parquet", f"{EXPERT}/curve.csv"
    cut(run / judged)
    (run / curve).write_text("")
    code, said = call(run, *TARGETS, *CONFIG, "--forcerun", "metrics", "plot_losses")
    assert code == 1
    assert "Traceback" not in said
    (sentence,) = errors(run / RESULTS / "logs/metrics.log")
    assert sentence.startswith(f"{judged} is not a readable table")
    assert sentence.endswith("delete it and run again.")
    (sentence,) = errors(run / RESULTS / "logs/plots/losses.log")
    assert sentence.startswith(f"{curve} is not a readable table")
    assert sentence.endswith(f"delete the folder {EXPERT} and run again.")

    (run / judged).unlink()
    shutil.rmtree(run / EXPERT)
    generations = run / RESULTS / "fusion/large/0.jsonl"
    lines = generations.read_text().splitlines(keepends=True)
    generations.write_text("".join(lines[:-1]))  # cut off between two lines: each of those left is whole
    code, said = call(run, *TARGETS, *CONFIG)
    assert code == 1
    (sentence,) = errors(run / RESULTS / "logs/evaluation/sums.log")
    assert sentence.startswith("The shards of method 'large' hold")
    assert sentence.endswith("delete the method's shards and run again.")

    generations.unlink()
    code, said = call(run, *TARGETS, *CONFIG)
    assert code == 0, said[-6000:]
    pd.testing.assert_frame_equal(results(run), results(finished))
