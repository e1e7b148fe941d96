"""Two runs at once on a shared folder, as processes: both end well, and what they leave is whole."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from test_clip_features import TinyEncoder, encode, rows  # noqa: F401 (a fixture)
from torch import Tensor

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.encoders import packages
from logitfusion.clip.encoders.packages import kept_wheel
from logitfusion.clip.features import compute
from logitfusion.errors import UserError
from logitfusion.files import sha256, write_text
from logitfusion.files.locks import only_process


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        yield pool


def meet(folder: Path) -> None:
    """Wait until both are here."""
    (folder / f"here-{os.getpid()}").touch()
    end = time.monotonic() + 60
    while len(list(folder.glob("here-*"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)


def at_once(pool: ProcessPoolExecutor, tmp_path: Path, work: Callable[..., Any], *arguments: tuple[Any, Any]) -> Any:
    """What two processes return, each called with its own half of every pair of arguments."""
    (tmp_path / "meeting").mkdir()
    return list(pool.map(work, [tmp_path] * 2, *arguments, timeout=100))


def encode_together(tmp_path: Path, some: list[ImageRow]) -> Tensor:
    class Waiting(TinyEncoder):
        def encode_images(self, images: Tensor) -> Tensor:
            if self.seen == 0:
                meet(tmp_path / "meeting")
            return super().encode_images(images)

    with mock.patch.object(compute, "PIECE", 4):
        return encode(some, tmp_path / "cache", Waiting(), views=2).clip


def test_two_runs_share_features(
    processes: ProcessPoolExecutor,
    tmp_path: Path,
    rows: list[ImageRow],  # noqa: F811
) -> None:
    """Both have the right ones, and between them leave what a third one needs."""
    found = at_once(processes, tmp_path, encode_together, (rows, rows[::-1]))
    fresh = encode(rows, None, views=2).clip
    torch.testing.assert_close(found[0], fresh, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[1], fresh.flip(0), atol=1e-3, rtol=0)
    third = TinyEncoder()
    torch.testing.assert_close(encode(rows, tmp_path / "cache", third, views=2).clip, fresh, atol=1e-3, rtol=0)
    assert third.seen == 0
    assert not list(tmp_path.rglob(".partial-*"))


def download_together(tmp_path: Path) -> str:
    def download(requirement: str, folder: str) -> Path:
        meet(tmp_path / "meeting")
        wheel = Path(folder) / "name-1.whl"
        wheel.write_bytes(b"wheel" * 10**6)
        return wheel

    with (
        mock.patch.object(packages, "download_wheel", download),
        mock.patch.dict(os.environ, XDG_CACHE_HOME=str(tmp_path / "cache")),
    ):
        return sha256(kept_wheel("name==1"))


def test_two_runs_share_packages(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    first, second = at_once(processes, tmp_path, download_together)
    (wheel,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert first == second == sha256(wheel)


def write_together(tmp_path: Path) -> None:
    meet(tmp_path / "meeting")
    for number in range(100):
        write_text(tmp_path / "shared" / f"{number % 3}.txt", "whole" * 1000)


def test_two_runs_write_the_same_files(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    at_once(processes, tmp_path, write_together)
    assert {path.read_text() for path in (tmp_path / "shared").iterdir()} == {"whole" * 1000}


def test_one_process_at_a_time_writes_what_is_locked(tmp_path: Path, processes: ProcessPoolExecutor) -> None:
    """As a shard of a teacher's cache, whose pieces are removed at its end; a killed process holds nothing."""
    path = tmp_path / "link" / "deep" / "lock"
    (tmp_path / "link").symlink_to("nothing")
    with only_process(path, "busy"):
        assert (tmp_path / "nothing/deep/lock").exists()
    path.touch()  # of a process that was killed
    with only_process(path, "busy"):
        assert processes.submit(enter, path).result(60) == "busy"
        assert path.exists()
    assert not path.exists()
    assert processes.submit(enter, path).result(60) is None


def enter(path: Path) -> str | None:
    try:
        with only_process(path, "busy"):
            return None
    except UserError as error:
        return str(error)
