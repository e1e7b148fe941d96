"""Disks that are full or read-only: one sentence, nothing half-written, and with room the call goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import CONFIG, EXPERT, RESULTS, TARGETS, call, copy_run, errors, weights, write_config

from logitfusion.integrity import SEEN

pytestmark = pytest.mark.fault
ROOMY = 2**26


def run_as_root(*command: str | Path) -> None:
    """A command of mount's family; the test is skipped where it is not allowed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{command[0]} is not allowed here ({done.stderr.strip()}); full and read-only disks need root")


@pytest.fixture
def small_disk(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished run whose results lie on a disk of their own, without the expert."""
    folder = copy_run(finished, tmp_path / "checkout")
    shutil.move(folder / "results", tmp_path / "results")
    (folder / "results").mkdir()
    run_as_root("mount", "-t", "tmpfs", "-o", f"size={ROOMY}", "tmpfs", folder / "results")
    try:
        subprocess.run(["cp", "-a", f"{tmp_path / 'results'}/.", folder / "results"], check=True)
        shutil.rmtree(folder / EXPERT)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder / "results"], check=True)


def resize(folder: Path, free: int) -> None:
    """Give the disk of the results so many free bytes."""
    disk = os.statvfs(folder / "results")
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    run_as_root("mount", "-o", f"remount,size={used + free}", folder / "results")


def files(folder: Path) -> dict[Path, bytes]:
    """All results, less what tells of the failure itself."""
    paths = (path for path in (folder / "results").rglob("*") if path.is_file())
    paths = (path for path in paths if not {"logs", "benchmarks"} & {*path.parts} and ".checkpoints" not in str(path))
    paths = (path for path in paths if path.name != SEEN)  # when files were last found as they are
    return {path: path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("free", "sentence"),
    [
        (0, "fingerprint.json could not be written: no space left on the disk, free some and run again"),
        (
            400_000,
            "A checkpoint could not be written to results/faults/experts/ceiling.checkpoints: no space left",
        ),
    ],
    ids=["no room", "no room for the optimiser"],
)
def test_a_training_that_fills_the_disk_goes_on_once_there_is_room(
    small_disk: Path, finished: Path, free: int, sentence: str
) -> None:
    before = files(small_disk)
    resize(small_disk, free)
    code, said = call(small_disk, EXPERT, *CONFIG)
    assert code == 1
    assert "Traceback" not in said
    assert sentence in said, said
    assert len(errors(small_disk / RESULTS / "logs/experts/ceiling.log")) == 1
    assert files(small_disk) == before
    resize(small_disk, ROOMY)
    code, said = call(small_disk, EXPERT, *CONFIG)
    assert code == 0, said
    expected, found = weights(finished / EXPERT), weights(small_disk / EXPERT)
    assert all(expected[name].equal(found[name]) for name in expected)


def test_a_new_run_on_a_full_disk_ends_in_a_sentence(small_disk: Path) -> None:
    """First the config can't be kept, then the model can't be written."""

    def rename(config: dict[str, Any]) -> None:
        config["run"] = "other"

    config, target = write_config(small_disk, "other.yaml", rename, "faults.yaml"), "results/other/models/large"
    resize(small_disk, 0)
    code, said = call(small_disk, target, *config)
    assert code == 1
    assert "Traceback" not in said
    assert "json could not be written: no space left on the disk, free some and run again" in said
    resize(small_disk, 100_000)
    code, said = call(small_disk, target, *config)
    assert code == 1
    assert "Traceback" not in said
    assert errors(small_disk / "results/other/logs/models/large.log") == [
        f"{target} could not be written: no space left on the disk, free some and run again;"
        " nothing earlier was changed."
    ]
    assert not (small_disk / target).exists()
    assert not list((small_disk / "results").rglob("*.partial-*"))
    resize(small_disk, ROOMY)
    assert call(small_disk, target, *config)[0] == 0


@pytest.fixture
def bind(run: Path) -> Iterator[Any]:
    """Makes a folder of the run read-only, for root too."""
    bound: list[Path] = []

    def make_read_only(folder: Path) -> None:
        run_as_root("mount", "--bind", folder, folder)
        bound.append(folder)
        run_as_root("mount", "-o", "remount,bind,ro", folder)

    yield make_read_only
    for folder in bound:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_read_only_results_are_whole_or_say_that_they_are_read_only(run: Path, bind: Any) -> None:
    def change(config: dict[str, Any]) -> None:
        config["fusion"]["temperature"] = 0.5

    changed = write_config(run, "changed.yaml", change, "faults.yaml")
    bind(run / "results")
    code, said = call(run, *TARGETS, *CONFIG)
    assert code == 0
    assert "Nothing to be done" in said
    code, said = call(run, *TARGETS, *changed)
    assert code == 1
    assert "Traceback" not in said
    assert "Write-protected output files for rule decode" in said, "Snakemake looks before a job starts"


def test_a_read_only_checkout_says_so(run: Path, bind: Any) -> None:
    bind(run)
    code, said = call(run, *TARGETS, *CONFIG)
    assert code == 1
    assert "Traceback" not in said
    assert "This folder can't be written, and Snakemake keeps its notes in it: make it writable, or copy it." in said
