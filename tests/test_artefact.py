"""Files that are read again: every bit of them counts, and what is not as it was written is refused in a sentence."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flips import refuses_every_flip

from logitfusion import artefact
from logitfusion.artefact import UNSEALED, check_seal, read_artefact, read_rows, seal, write_artefact, write_rows
from logitfusion.config.section import Section
from logitfusion.errors import UserError


class Shape(Section):
    sides: int
    title: str = "é"


VALUE = {"sides": 3, "title": "naïve"}
ROWS = [{"text": "a", "weights": [[0.5]]}, {"text": "\u2028", "weights": []}]


def test_an_artefact_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_artefact(path, VALUE)
    assert read_artefact(path) == VALUE
    assert read_artefact(path, Shape) == Shape(**VALUE)
    assert json.loads(path.read_text())["sides"] == 3
    first = path.read_bytes()
    write_artefact(path, dict(reversed(VALUE.items())))
    assert path.read_bytes() == first


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], []])
def test_rows_are_read_as_they_were_written(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "a.jsonl"
    write_rows(path, iter(rows))
    assert read_rows(path) == rows
    path.write_bytes(b"")
    with pytest.raises(UserError, match="has no digest"):
        read_rows(path)


def test_every_flipped_bit_of_json_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_artefact(path, VALUE)
    refuses_every_flip(path, lambda: read_artefact(path, Shape))


def test_every_flipped_bit_of_rows_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_rows(path, ROWS)
    refuses_every_flip(path, lambda: read_rows(path))


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\n", lambda b: b"", lambda b: b[:40]])
def test_a_file_that_was_cut_or_grew_is_noticed(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.json"
    write_artefact(path, VALUE)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=r"a\.json .* delete it and run again\.$"):
        read_artefact(path)


def test_what_was_never_sealed_is_no_artefact(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(VALUE | {"digest": UNSEALED}))
    with pytest.raises(UserError, match="differ"):
        read_artefact(path)
    path.write_text(json.dumps(VALUE))
    with pytest.raises(UserError, match="has no digest"):
        read_artefact(path)


def test_what_has_another_form_is_refused_by_key(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_artefact(path, {"sides": "3"})
    with pytest.raises(UserError, match=r"a\.json .*sides"):
        read_artefact(path, Shape)


def test_a_text_that_looks_like_a_digest_is_not_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="change that"):
        write_artefact(tmp_path / "a.json", {"a text": "logitfusion sha256:" + "a" * 64})
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="taken"):
        write_artefact(tmp_path / "a.json", {"digest": 1})


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("pipe", "not a file"), (".", "not a file"), ("none", "does not exist")):
        with pytest.raises(UserError, match=words):
            read_artefact(tmp_path / name)
        with pytest.raises(UserError, match=words):
            read_rows(tmp_path / name)


@pytest.mark.parametrize("before", [0, 1, 5, 31, 32, 33, 64, 200])
def test_the_digest_may_be_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    """Also across the blocks that are read together."""
    monkeypatch.setattr(artefact, "_BLOCK", 32)
    path, (mark, zeros) = tmp_path / "a", (UNSEALED[:-64].encode(), UNSEALED[-64:].encode())
    head, tail = bytes(before) + mark, b"tail" * before
    path.write_bytes(head + zeros + tail)
    seal(path)
    check_seal(path)
    assert path.read_bytes() == head + hashlib.sha256(head + zeros + tail).hexdigest().encode() + tail


def test_a_file_is_sealed_where_it_has_a_place_for_that(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"head " + UNSEALED.encode() + b" tail")
    seal(path)
    check_seal(path)
    refuses_every_flip(path, lambda: check_seal(path))
    path.write_bytes(b"none")
    with pytest.raises(ValueError, match="no place"):
        seal(path)
