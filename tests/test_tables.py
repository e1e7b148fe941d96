"""Tables that stages write are read back, or named."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from flips import refuses_every_flip

from logitfusion.artefact import write_artefact
from logitfusion.errors import UserError
from logitfusion.integrity import RECORD, as_rows, record_files
from logitfusion.tables import read_table, write_table

TABLE = pd.DataFrame({"step": [1, 2], "loss": [0.5, 0.25]})


def write(path: Path) -> Path:
    write_table(TABLE, path)
    return path


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_a_table_comes_back_unchanged(tmp_path: Path, name: str) -> None:
    pd.testing.assert_frame_equal(read_table(write(tmp_path / name)), TABLE)


@pytest.mark.parametrize("name", ["empty", "nested"])
def test_tables_of_all_kinds_come_back(tmp_path: Path, name: str) -> None:
    rows = [] if name == "empty" else [{"text": "ü", "weights": [[0.5, 1.0], []], "loss": None, "count": 2**60}]
    path, table = tmp_path / "table.parquet", pd.DataFrame(rows, columns=["text", "weights", "loss", "count"])
    write_table(table, path)
    found = read_table(path)
    plain = pd.read_parquet(path)
    pd.testing.assert_frame_equal(found, plain)
    assert json.loads(found.to_json(orient="records")) == rows


def test_every_flipped_byte_of_parquet_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "table.parquet")
    refuses_every_flip(path, lambda: read_table(path), step=7)


def test_csv_is_held_against_the_record_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv")
    write_artefact(tmp_path / RECORD, {"files": as_rows(record_files(tmp_path))})
    refuses_every_flip(path, lambda: read_table(path))


@pytest.mark.parametrize("name", ["empty.parquet", "text.parquet"])
def test_parquet_without_a_digest_is_none_of_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"no table")
    refused(tmp_path / name, "has no digest")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", b""),
        ("binary.csv", b"a,b\n\xff\xfe,1\n"),
        ("ragged.csv", b"a,b\n1,2,3\n1,2,3,4\n"),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "is not a readable table")


def test_a_table_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "table.parquet")
    whole = path.read_bytes()
    for end in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        refused(path, "")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    for name in ("table.csv", "table.parquet"):
        refused(tmp_path / name, "does not exist")


def refused(path: Path, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_table(path)
    message = str(caught.value)
    assert message.startswith(f"{path} {words}")
    assert "\n" not in message
