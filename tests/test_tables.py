"""Tables that stages write are read back, or named."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from logitfusion.errors import UserError
from logitfusion.tables import read_table, write_table

TABLE = pd.DataFrame({"step": [1, 2], "loss": [0.5, 0.25]})


def write(path: Path) -> Path:
    write_table(TABLE, path)
    return path


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_a_table_comes_back_unchanged(tmp_path: Path, name: str) -> None:
    pd.testing.assert_frame_equal(read_table(write(tmp_path / name)), TABLE)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.parquet", b""),
        ("text.parquet", b"no table"),
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
        refused(path, "is not a readable table")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    for name in ("table.csv", "table.parquet"):
        refused(tmp_path / name, "does not exist")


def refused(path: Path, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_table(path)
    message = str(caught.value)
    assert message.startswith(f"{path} {words}")
    assert "\n" not in message
