"""Rows of data sets of the hub: those of the commit, read as datasets reads them, with and without a network."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from hub_fixture import ask_standin
from hub_standin import Hub, commit_of
from huggingface_hub import constants

from logitfusion.config.section import canonical, parse
from logitfusion.config.texts import HubRows
from logitfusion.errors import UserError
from logitfusion.tasks.hub_rows import FetchedRows, fetch_rows, open_rows

CARD = """---
configs:
- config_name: first
  data_files:
  - {split: train, path: "first/train-*.jsonl"}
  - {split: test, path: "first/test.jsonl"}
- config_name: table
  data_files: [{split: train, path: "table.json"}]
  field: rows
dataset_info:
- config_name: first
  features:
  - {name: question, dtype: string}
  - {name: count, dtype: float64}
---
"""


def lines(*questions: str) -> str:
    return "".join(json.dumps({"question": text, "count": number}) + "\n" for number, text in enumerate(questions))


FILES = {
    "README.md": CARD,
    "first/train-0.jsonl": lines("a", "b"),
    "first/train-1.jsonl": lines("c"),
    "first/test.jsonl": lines("d"),
    "table.json": json.dumps({"about": 1, "rows": [{"question": "x", "count": 1}, {"question": "y", "count": 2}]}),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with the data set ``owner/rows``."""
    with ask_standin(monkeypatch, tmp_path) as hub:
        hub.add("owner/rows", FILES, kind="datasets")
        yield hub


def source(split: str = "train", subset: str | None = "first", dataset: str = "owner/rows") -> HubRows:
    return HubRows(dataset=dataset, subset=subset, split=split, revision="main")


@pytest.mark.parametrize(
    ("split", "subset", "files"),
    [
        ("train", "first", {"first/train-0.jsonl", "first/train-1.jsonl"}),
        ("test+train", "first", {"first/test.jsonl", "first/train-0.jsonl", "first/train-1.jsonl"}),
        ("train", "table", {"table.json"}),
    ],
)
def test_rows_are_those_that_datasets_reads(hub: Hub, split: str, subset: str, files: set[str], tmp_path: Path) -> None:
    theirs = datasets.load_dataset("owner/rows", subset, split=split, revision="main").to_list()
    asked = len(hub.asked)
    fetched = fetch_rows(source(split, subset), tmp_path / "revisions")
    assert {file["name"] for file in fetched.download["files"]} == files
    assert fetched.download["commit"] == commit_of(1)
    loaded = {line.rpartition("/resolve/")[2].partition("/")[2] for line in hub.asked[asked:] if line.startswith("GET")}
    assert loaded & FILES.keys() <= files | {"README.md"}, "no file of another split or subset"
    record = parse(FetchedRows, canonical(fetched))
    ours = list(open_rows(source(split, subset), record))
    assert ours == theirs
    assert [list(map(type, row.values())) for row in ours] == [list(map(type, row.values())) for row in theirs]


def test_rows_stay_those_of_the_commit(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Though the branch moves, and though datasets' own cache holds the newer rows by then."""
    fetched = fetch_rows(source(), tmp_path)
    repository = hub.repositories["datasets", "owner/rows"]
    repository.commits[commit_of(50)] = {
        name: text.replace(b'"a"', b'"z"') for name, text in repository.commits[commit_of(1)].items()
    }
    repository.revisions["main"] = commit_of(50)
    newer = datasets.load_dataset("owner/rows", "first", split="train", revision="main")
    assert newer[0]["question"] == "z"
    caplog.set_level(logging.WARNING)
    again = fetch_rows(source(), tmp_path)
    assert again == fetched
    assert any("has moved on the hub" in message for message in caplog.messages)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    for record in (fetched, fetch_rows(source(), tmp_path)):
        assert [row["question"] for row in open_rows(source(), record)] == ["a", "b", "c"]
    assert len(hub.asked) == asked


def test_half_a_split_is_not_taken_for_the_split(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = fetch_rows(source(), tmp_path)
    cached = Path(constants.HF_HUB_CACHE) / "datasets--owner--rows/snapshots" / commit_of(1) / "first/train-1.jsonl"
    cached.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"is not whole in the cache .*without first/train-1\.jsonl.*forcerun fetch_data"
    ):
        open_rows(source(), fetched)
    with pytest.raises(UserError, match="was not downloaded earlier, and HF_HUB_OFFLINE is set"):
        fetch_rows(source("test"), tmp_path)


def test_a_file_that_is_not_the_recorded_one_is_refused(hub: Hub) -> None:
    fetched = fetch_rows(source())
    files = [file | {"sha256": "0" * 64} for file in fetched.download["files"]]
    other = fetched.model_copy(update={"download": fetched.download | {"files": files}})
    with pytest.raises(UserError, match="'owner/rows' is not the one that was fetched"):
        open_rows(source(), other)


def test_a_damaged_file_says_how_it_is_fetched_anew(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = fetch_rows(source(), tmp_path)
    cached = Path(constants.HF_HUB_CACHE) / "datasets--owner--rows/snapshots" / commit_of(1) / "first/train-1.jsonl"
    cached.resolve().write_bytes(cached.read_bytes().replace(b"c", b"d"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"it was deleted, so download it .*--until fetch --forcerun fetch_data"):
        open_rows(source(), fetched)


def test_a_name_without_owner_is_followed(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.add("rows", {}, kind="datasets", moved_to="owner/rows")
    fetched = fetch_rows(source(dataset="rows"))
    assert [row["question"] for row in open_rows(source(dataset="rows"), fetched)] == ["a", "b", "c"]
    assert "the data set rows is called owner/rows on the hub now; write that name" in caplog.messages


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (source(dataset="owner/several", subset=None), r"main\) has several subsets; name one .*: 'one', 'two'"),
        (source(subset="none"), "subset none.*can't be read .*'none' not found.*correct its subset"),
        (source(split="dev"), r"has no split 'dev' \(it has train, test\)"),
        (source(dataset="owner/none"), "The data set 'owner/none' .*is not on the hub"),
        (source(dataset="owner/code", subset=None), "made by Python code .* is never run.*refs/convert/parquet"),
        (
            source(dataset="owner/gated"),
            "is gated: accept .* its page, .*/datasets/owner/gated, and set HF_TOKEN",
        ),
    ],
    ids=["subsets", "subset", "split", "nothing", "script", "gated"],
)
def test_what_can_not_be_read_is_one_sentence(hub: Hub, asked: HubRows, words: str) -> None:
    subsets = [f"- {{config_name: {name}, data_files: {name}.jsonl}}\n" for name in ("one", "two")]
    several = {"README.md": f"---\nconfigs:\n{''.join(subsets)}---\n"}
    hub.add("owner/several", several | {f"{name}.jsonl": lines(name) for name in ("one", "two")}, kind="datasets")
    hub.add("owner/code", {"code.py": "1 / 0"}, kind="datasets")
    hub.add("owner/gated", FILES, kind="datasets", gated=True)
    with pytest.raises(UserError, match=words) as caught:
        fetch_rows(asked)
    assert "\n" not in str(caught.value)
