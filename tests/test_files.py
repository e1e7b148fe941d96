"""Files are whole or absent, and what can't be read or written is told in a sentence that names it."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logitfusion.errors import UserError
from logitfusion.files import (
    find_disk_error,
    name_output,
    read_json,
    read_jsonl,
    remove,
    sha256,
    whole,
    write_json,
    write_jsonl,
    write_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
REUSE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill_folder(folder: Path, name: str) -> None:
    folder.mkdir()
    (folder / name).write_text(name)


def fail_halfway(target: Path, error: BaseException, *, folder: bool = False) -> None:
    """Write half of a target, then raise."""
    with whole(target) as temporary:
        if folder:
            fill_folder(temporary, "half")
        else:
            temporary.write_text("half")
        raise error


# ---- whole --------------------------------------------------------------------------------------------------------


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "file"
    with whole(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.name == target.name
        assert temporary.parent.parent == target.parent
    assert target.read_text() == "new"
    assert names(target.parent) == ["file"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1), UserError("no")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(type(error)):
        fail_halfway(target, error)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "folder"
    fill_folder(target, "old")
    with pytest.raises(type(error)):
        fail_halfway(target, error, folder=True)
    assert names(target) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_a_failure_where_nothing_was_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"):
        fail_halfway(tmp_path / "file", ValueError("no"))
    assert names(tmp_path) == []


def test_a_folder_replaces_a_folder_with_all_it_held(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    fill_folder(target, "old")
    with whole(target) as temporary:
        fill_folder(temporary, "new")
    assert names(target) == ["new"]
    assert names(tmp_path) == ["folder"]


def test_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    fill_folder(target, "old")
    with pytest.raises(UserError, match="is a folder"):
        write_text(target, "file")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_files_get_the_modes_that_any_new_file_gets(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with whole(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "private").touch(0o600)
        (temporary / "program").touch(0o700)
    with whole(tmp_path / "file") as temporary:
        temporary.touch(0o600)
    usual = (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "file").stat().st_mode == usual
    assert (tmp_path / "folder/private").stat().st_mode == usual
    assert (tmp_path / "folder/program").stat().st_mode == usual | 0o700


def test_a_block_that_writes_nothing_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    fill_folder(target, "old")
    with pytest.raises(FileNotFoundError), whole(target):
        pass
    assert names(target) == ["old"]


# ---- full disks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EFBIG, "larger"),
        (errno.EIO, "input/output"),
    ],
)
def test_a_disk_that_refuses_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, "words of the system")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(UserError) as caught:
        write_json(target, {})
    assert words in str(caught.value)
    assert str(target) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_disk_that_fills_up_while_renaming_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("logitfusion.files.writing.os.replace", refuse)
    with pytest.raises(UserError, match="no space left"):
        write_text(tmp_path / "file", "new")
    assert names(tmp_path) == []


def test_a_disk_that_lets_nothing_go_is_told_for_what_it_took_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a read-only disk the clean-up after the failure fails too, and must not hide it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "words of the system")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(UserError, match="could not be written: the file system is read-only"):
        write_json(tmp_path / "file", {})


def test_a_full_disk_is_found_behind_other_errors() -> None:
    cause = RuntimeError("writer failed")
    cause.__cause__ = OSError(errno.ENOSPC, "full")
    outer = ValueError("could not save")
    outer.__context__ = cause
    assert "no space" in str(find_disk_error(outer))
    assert "no space" in str(find_disk_error(RuntimeError("I/O error: No space left on device (os error 28)")))
    assert find_disk_error(RuntimeError("I/O error: Permission denied (os error 13) at path")) == "permission denied"
    assert "read-only" in str(find_disk_error(RuntimeError("I/O error: Read-only file system (os error 30)")))
    lost = RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 195136 vs 195028")
    lost.__context__ = RuntimeError("basic_ios::clear: iostream error")  # torch.save, which names no reason
    assert "no space" in str(find_disk_error(lost))


def test_the_file_that_is_refused_is_named(tmp_path: Path) -> None:
    """It may be an input, whatever was to be written."""
    denied = PermissionError(errno.EACCES, "words of the system", "/models/secret")
    assert find_disk_error(denied) == "permission denied (/models/secret)"
    with pytest.raises(UserError, match="a name is too long"):
        fail_halfway(tmp_path / "file", OSError(errno.ENAMETOOLONG, "words of the system", "x" * 300))


@pytest.mark.parametrize("error", [None, ValueError("no"), FileNotFoundError(errno.ENOENT, "absent")])
def test_other_errors_are_no_disk_errors(error: BaseException | None) -> None:
    assert find_disk_error(error) is None


def fail_to_read(target: Path) -> None:
    """Write a target from an input that may not be read."""
    with whole(target):
        try:
            raise PermissionError(errno.EACCES, "denied", "input")
        except PermissionError as error:
            raise UserError("The file input can't be read; allow it.") from error


def test_a_sentence_about_an_input_is_not_turned_into_one_about_the_output(tmp_path: Path) -> None:
    """An input that may not be read says nothing about where the block writes to."""
    with pytest.raises(UserError) as caught:
        fail_to_read(tmp_path / "output")
    assert str(caught.value) == "The file input can't be read; allow it."


# ---- reading and writing ------------------------------------------------------------------------------------------


@REUSE
@given(value=JSON)
def test_json_comes_back_as_it_was(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value


@REUSE
@given(rows=st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4))
def test_jsonl_comes_back_as_it_was(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Whatever the text holds: odd line separators, quotes, emoji."""
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "one", {"a": 1, "b": {"c": 2, "d": 3}})
    write_json(tmp_path / "two", {"b": {"d": 3, "c": 2}, "a": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_rows_that_fail_halfway_leave_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    write_jsonl(target, [{"old": 1}])
    with pytest.raises(TypeError):
        write_jsonl(target, [{"new": 1}, {"new": object()}])
    assert read_jsonl(target) == [{"old": 1}]


def refused(read: Any, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_a_missing_file_is_named(tmp_path: Path, read: Any) -> None:
    assert "does not exist" in refused(read, tmp_path / "absent")


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}\n{"b": 2}', "{'a': 1}"])
def test_broken_json_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "value.json"
    path.write_text(text)
    assert "line" in refused(read_json, path)


@pytest.mark.parametrize(("text", "line"), [("{", 1), ('{"a": 1}\n\n{"b"', 3), ('{"a": 1}\nxyz\n{"b": 2}\n', 2)])
def test_a_broken_line_is_named_with_its_number(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    assert f"line {line}" in refused(read_jsonl, path)


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_a_file_that_is_not_utf8_is_named(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "latin"
    path.write_bytes('{"a": "é"}'.encode("latin-1"))
    refused(read, path)


def test_json_text_keeps_its_letters(tmp_path: Path) -> None:
    write_json(tmp_path / "value.json", {"a": "日本"})
    assert "日本" in (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "value.json").read_text(encoding="utf-8")) == {"a": "日本"}


@pytest.mark.parametrize("name", ["record.json", "stage.json"])
def test_of_a_broken_file_what_a_stage_made_is_to_be_deleted(tmp_path: Path, name: str) -> None:
    assert name_output(tmp_path / "file") == "it"
    (tmp_path / name).touch()
    assert name_output(tmp_path / "file") == f"the folder {tmp_path}"


@REUSE
@given(content=st.binary(max_size=4096))
def test_the_digest_is_that_of_the_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bytes").write_bytes(content)
    assert sha256(tmp_path / "bytes") == hashlib.sha256(content).hexdigest()


def test_removing_takes_files_folders_links_and_nothing(tmp_path: Path) -> None:
    fill_folder(tmp_path / "folder", "inner")
    (tmp_path / "file").write_text("")
    fill_folder(tmp_path / "kept", "inner")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("folder", "file", "link", "absent"):
        remove(tmp_path / name)
    assert names(tmp_path) == ["kept"]
    assert names(tmp_path / "kept") == ["inner"]
