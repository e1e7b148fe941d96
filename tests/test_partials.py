"""What is half written is its process's alone while that lives, and nobody's for long after it was killed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from checkout import ROOT

from logitfusion.files import partials, whole, write_text

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
HOLD = """
import sys
from logitfusion.files import whole
with whole(sys.argv[1]) as temporary:
    temporary.write_text("by another process")
    print("at it", flush=True)
    sys.stdin.read()
"""
REPEAT = """
import sys
from pathlib import Path
from logitfusion.files import whole
target, mine = Path(sys.argv[1]), sys.argv[2]
for number in range(60):
    with whole(target) as temporary:
        if sys.argv[3] == "folder":
            temporary.mkdir()
            for name in ("one", "two"):
                (temporary / name).write_text(mine)
        else:
            temporary.write_text(mine * 1000)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def at_work(target: Path) -> Iterator[subprocess.Popen]:
    """Another process, in the middle of writing a target."""
    command = [sys.executable, "-c", HOLD, str(target)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"at it\n"
            yield process
        finally:
            process.kill()


def test_a_living_process_keeps_what_it_is_at(tmp_path: Path) -> None:
    with at_work(tmp_path / "file") as process:
        for name in ("file", "other", "*", ".*", "?ile"):
            write_text(tmp_path / name, "mine")
        assert (tmp_path / "file").read_text() == "mine"
        process.communicate(timeout=20)
        assert process.returncode == 0
    assert (tmp_path / "file").read_text() == "by another process"
    assert not [name for name in names(tmp_path) if "partial" in name]


@pytest.mark.parametrize("name", ["file", "other"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, name: str) -> None:
    with at_work(tmp_path / "file") as process:
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    (left,) = names(tmp_path)
    assert "partial" in left
    write_text(tmp_path / name, "mine")
    assert names(tmp_path) == [name]


@pytest.mark.usefixtures("heard_signals")
def test_a_process_that_is_told_to_stop_leaves_nothing(tmp_path: Path) -> None:
    with at_work(tmp_path / "file") as process:
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert names(tmp_path) == []


def test_only_what_is_named_and_locked_as_ours_is_removed(tmp_path: Path) -> None:
    kept = [".file.partial-1", ".partial-x", ".partial-node-short", f".partial-{partials._NODE}-abcdefgh"]
    for name in kept[:-1]:
        (tmp_path / name).mkdir()
    (tmp_path / kept[-1]).mkdir()
    (tmp_path / kept[-1] / "somebody's").touch()
    write_text(tmp_path / "file", "new")
    assert names(tmp_path) == sorted([*kept, "file"])


@pytest.mark.parametrize(("age", "stays"), [(0, True), (2 * 24 * 60 * 60, False)])
def test_another_machines_is_removed_when_nobody_has_written_into_it_for_long(
    tmp_path: Path, age: int, stays: bool
) -> None:
    """On some shared disks its lock is not seen here."""
    other = tmp_path / ".partial-another-node-abcdefgh"
    other.mkdir()
    for name in (partials._OWNER, "file"):
        (other / name).touch()
    written = other.stat().st_mtime - age
    for path in (other / partials._OWNER, other / "file", other):
        os.utime(path, (written, written))
    write_text(tmp_path / "file", "new")
    assert other.exists() == stays


def test_a_file_system_without_locks_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with whole(tmp_path / "file") as first:
        first.write_text("first")
        write_text(tmp_path / "file", "second")
        write_text(tmp_path / "other", "third")
    assert (tmp_path / "file").read_text() == "first"
    assert names(tmp_path) == ["file", "other"]


def test_a_partial_that_was_taken_for_an_abandoned_one_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its lock another process may come by."""
    made, mkdtemp = [], partials.tempfile.mkdtemp

    def overtaken(**arguments: object) -> str:
        made.append(mkdtemp(**arguments))
        if len(made) == 1:
            partials._remove_abandoned(tmp_path)
        return made[-1]

    monkeypatch.setattr(partials.tempfile, "mkdtemp", overtaken)
    write_text(tmp_path / "file", "new")
    assert len(made) == 2
    assert names(tmp_path) == ["file"]


def test_a_folder_that_can_not_be_put_in_place_leaves_the_former_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/old").touch()
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "folder" and ".partial" in path.parent.name:
            raise OSError(28, "full")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(Exception, match="no space left"), whole(tmp_path / "folder") as temporary:
        temporary.mkdir()
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["old"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_processes_that_write_the_same_leave_one_whole(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"

    def start(mine: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", REPEAT, str(target), mine, kind], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )

    finished: Sequence[subprocess.Popen] = [start(mine) for mine in "abc"]
    for process in finished:
        assert process.communicate(timeout=100)[1] == ""
        assert process.returncode == 0
    assert names(tmp_path) == ["target"]
    found = [path.read_text() for path in target.iterdir()] if kind == "folder" else [target.read_text()]
    assert len(set(found)) == 1
    assert len(found) == (2 if kind == "folder" else 1)
    assert found[0] in {mine * (1 if kind == "folder" else 1000) for mine in "abc"}
