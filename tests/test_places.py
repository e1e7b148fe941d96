"""Where writing leads: links are followed, pipes and devices written into, and nothing of another kind is replaced."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from checkout import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logitfusion.errors import UserError
from logitfusion.files import whole, write_text

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        write_text(path, "new")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- links ----------------------------------------------------------------------------------------------------------


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").write_text("old")
    (tmp_path / "second").symlink_to("there/file")
    (tmp_path / "first").symlink_to(tmp_path / "second")
    write_text(tmp_path / "first", "new")
    assert (tmp_path / "first").readlink() == tmp_path / "second"
    assert (tmp_path / "there/file").read_text() == "new"
    assert names(tmp_path) == ["first", "second", "there"]
    assert names(tmp_path / "there") == ["file"]


def test_a_link_to_a_folder_stays_and_that_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/old").touch()
    (tmp_path / "link").symlink_to("there")
    with whole(tmp_path / "link") as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "there") == ["new"]


@pytest.mark.parametrize("inner", ["", "file"])
def test_a_link_to_nothing_leads_to_where_it_says(tmp_path: Path, inner: str) -> None:
    (tmp_path / "link").symlink_to("not/yet")
    write_text(tmp_path / "link" / inner, "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "not/yet" / inner).read_text() == "new"


def test_a_link_is_replaced_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("there")
    with whole(tmp_path / "link", replace_link=True) as temporary:
        temporary.write_text("copy")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_text() == "old"


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "too many levels" in refusal(tmp_path / "loop")
    assert (tmp_path / "loop").is_symlink()


# ---- what is written into -------------------------------------------------------------------------------------------


def test_a_pipe_is_written_into_when_all_is_there(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("pipe")
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()), daemon=True)
    reader.start()
    write_text(tmp_path / "link", "text")
    reader.join(10)
    assert found == ["text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["link", "pipe"]


def test_a_device_stays_one(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_text("")
    except PermissionError:
        pytest.skip("devices are made by root, where the file system lets them be")
    before = device.stat()
    write_text(device, "text")
    assert os.path.samestat(device.stat(), before)
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_folder_is_no_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="can't take a folder"), whole(tmp_path / "pipe") as temporary:
        temporary.mkdir()
    assert names(tmp_path) == ["pipe"]


def test_a_socket_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # its name may be no longer than a hundred characters
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        assert "is a socket" in refusal(tmp_path / "socket")
    assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)


WRITE = """
import sys
from logitfusion.files import write_text
print("before")
write_text(sys.argv[1], "text\\n")
print("after")
"""


@pytest.mark.parametrize("kind", ["pipe", "file"])
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="of Linux")
def test_the_standard_output_by_its_name_is_what_is_printed_to(tmp_path: Path, kind: str) -> None:
    """In order, without a word lost, and the name stays."""
    (tmp_path / "link").symlink_to("/proc/self/fd/1")
    command = [sys.executable, "-c", WRITE, str(tmp_path / "link")]
    if kind == "pipe":
        printed = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    else:
        with (tmp_path / "out").open("w") as out:
            subprocess.run(command, env=ENVIRONMENT, stdout=out, check=True)
        printed = (tmp_path / "out").read_text()
    assert printed == "before\ntext\nafter\n"
    assert (tmp_path / "link").is_symlink()


# ---- names ----------------------------------------------------------------------------------------------------------


def test_the_longest_name_is_written(tmp_path: Path) -> None:
    for name in ("a" * 255, "é" * 127):
        write_text(tmp_path / name, "new")
        with whole(tmp_path / name[:-1]) as temporary:
            temporary.mkdir()
        with whole(tmp_path / name[:-1]) as temporary:
            temporary.mkdir()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a" * 256, "name is too long"),
        ("a\0b", "null byte"),
        ("file/inner", "not a directory"),
        ("folder", "is a folder"),
    ],
)
def test_a_name_that_can_not_be_written_is_told(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert words in refusal(tmp_path / name)
    assert names(tmp_path) == ["file", "folder"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(name=st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=60))
def test_any_name_is_a_name_and_no_pattern(tmp_path: Path, name: str) -> None:
    if name in (".", ".."):
        return
    (tmp_path / ".partial-").mkdir(exist_ok=True)
    write_text(tmp_path / name, "new")
    assert (tmp_path / name).read_text() == "new"
    (tmp_path / name).unlink()
    assert names(tmp_path) == [".partial-"]


def test_a_file_that_is_mounted_is_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    (tmp_path / "file").write_text("old and longer")
    before = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "replace", refuse)
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert os.path.samestat((tmp_path / "file").stat(), before)
    assert names(tmp_path) == ["file"]


def test_a_file_keeps_the_rights_that_it_had(tmp_path: Path) -> None:
    (tmp_path / "private").touch(0o600)
    write_text(tmp_path / "private", "new")
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_keeps_its_owner_and_group(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    os.chown(tmp_path / "theirs", 1234, 5678)
    write_text(tmp_path / "theirs", "new")
    found = (tmp_path / "theirs").stat()
    assert (found.st_uid, found.st_gid) == (1234, 5678)
