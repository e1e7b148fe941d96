"""The commit that a table of numbers names: the one of the code that made them, or none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from logitfusion.provenance import find_commit, hash_json, is_committed


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", folder, "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def make_repository(folder: Path) -> str:
    """A checkout with a package in it; its commit."""
    (folder / "package").mkdir(parents=True)
    (folder / "package/code.py").write_text(f"# {folder.name}\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "package")
    git(folder, "commit", "--quiet", "--message", "first")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def _no_repository_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))


def test_the_commit_is_the_codes_not_that_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = make_repository(tmp_path / "mine"), make_repository(tmp_path / "other")
    monkeypatch.chdir(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))  # as in a hook of the other one
    commit = find_commit(tmp_path / "mine/package")
    assert len(commit) >= 7
    assert mine.startswith(commit)
    assert not other.startswith(commit)
    (tmp_path / "mine/package/code.py").write_text("changed\n")
    assert find_commit(tmp_path / "mine/package") == commit + "+"


def test_an_installed_copy_in_another_repository_has_no_commit(tmp_path: Path) -> None:
    make_repository(tmp_path / "other")
    installed = tmp_path / "other/.venv/lib/package"
    installed.mkdir(parents=True)
    (installed / "code.py").touch()
    assert find_commit(installed) == "unknown"


def test_without_a_checkout_or_without_git_it_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_repository(tmp_path / "mine")
    assert find_commit(tmp_path) == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_commit(tmp_path / "mine/package") == "unknown"


def test_equal_values_have_one_hash_whatever_the_order_of_keys() -> None:
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1}) != hash_json({"a": 1, "b": [3]})


def test_a_committed_file_is_the_one_that_a_link_leads_to_and_no_pattern(tmp_path: Path) -> None:
    make_repository(tmp_path)
    for name in ("frozen[1].json", "frozen1.json"):
        (tmp_path / name).write_text("first")
    (tmp_path / "link.json").symlink_to("frozen1.json")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "second")
    assert is_committed(tmp_path / "link.json")
    (tmp_path / "frozen1.json").write_text("second")
    assert not is_committed(tmp_path / "link.json")
    assert is_committed(tmp_path / "frozen[1].json"), "another file's name fits it as a pattern"
