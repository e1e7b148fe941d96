"""Texts in the workflow: what is fetched, once, and what runs again when a key of theirs changes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from checkout import copy_checkout, plans, snakemake
from hub_standin import commit_of, serve

from logitfusion.config.load import resolve_config
from logitfusion.files import read_json, read_jsonl

pytestmark = pytest.mark.workflow
FILE = {"path": "config/smoke_tasks/chats.jsonl", "messages": "conversations", "where": {"kind": "long"}, "share": 0.5}
HUB = {"dataset": "lab/sums", "split": "train", "prompt": "{{question}}", "completion": "answer", "share": 0.5}
CONFIG = {
    "run": "mixed",
    "models": {"small": {"source": "random", "tokenizer": "pairs"}},
    "tasks": {
        "chats": {"texts": [FILE, HUB], "train": 8, "validation": 2},
        "sums": {"harness": "sums", "test": 4},
    },
    "experts": {"talker": {"base": "small", "tasks": ["chats"], "template": "chat", "steps": 2}},
    "fusion": {"large": "small", "base": "small", "methods": {"talker": {"model": "talker"}}},
}
# Another value for each key of the task and of its texts; several where one can not change alone.
CHANGES: dict[str, Any] = {
    "train": 9,
    "validation": 3,
    "seed": 1,
    "distinct": False,
    "texts.0.path": "config/smoke_tasks/letters.jsonl",
    "texts.0.messages": "turns",
    "texts.0.where": {"kind": "short"},
    "texts.0.min_chars": 1,
    "texts.0.max_chars": 99,
    "texts.0.share": {"texts.0.share": 0.25, "texts.1.share": 0.75},
    "texts.1.prompt": "question",
    "texts.1.completion": "{{answer}}",
    "texts.1.delimiter": "\n",
    "texts.1.dataset": "lab/other",
    "texts.1.subset": "long",
    "texts.1.split": "train+test",
    "texts.1.revision": "v1.0",
}
FETCHED = ("dataset", "subset", "split", "revision")


def put(path: str, value: Any) -> dict[str, Any]:
    """The config with another value, or several, in the task."""
    config = copy.deepcopy(CONFIG)
    for place, inner in value.items() if isinstance(value, dict) and path in value else [(path, value)]:
        *parents, last = place.split(".")
        entry: Any = config["tasks"]["chats"]
        for part in parents:
            entry = entry[int(part)] if isinstance(entry, list) else entry[part]
        entry[last] = inner
    return config


def keys(task: dict[str, Any]) -> Iterator[str]:
    """The keys of a task and of its texts, without numbers."""
    for key, value in task.items():
        yield from (name for part in value for name in part) if key == "texts" else [key]


def test_a_changed_key_reruns_what_is_learned_from_the_texts(tmp_path: Path) -> None:
    task = resolve_config(CONFIG).dump()["tasks"]["chats"]
    assert {path.rpartition(".")[2] for path in CHANGES} == {*keys(task)}
    trained = copy.deepcopy(CONFIG)
    trained["experts"]["talker"]["steps"] = 3
    configs = [put(path, value) for path, value in CHANGES.items()]
    first, expert, *changed = plans(copy_checkout(tmp_path), [CONFIG, trained, *configs])
    rules = [{job["rule"] for job in plan} for plan in (first, expert, *changed)]
    assert {"fetch_data", "expert"} <= rules[0]
    (made,) = (job for job in first if job["rule"] == "texts")
    assert made["input"] == [FILE["path"], "results/mixed/fetched/data/chats.json"], "an edit of the file counts"
    for path, found in zip(CHANGES, rules[2:], strict=True):
        fetched = {"fetch_data", "fetch"} if path.endswith(FETCHED) else set()
        assert found == rules[1] | {"texts"} | fetched, path


def test_texts_are_made_of_what_was_fetched(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path / "checkout")
    (folder / "mixed.yaml").write_text(yaml.safe_dump(CONFIG))
    rows = datasets.Dataset.from_list([{"question": f"{n} + 1", "answer": n + 1, "unused": "x"} for n in range(30)])
    rows.to_parquet(tmp_path / "rows.parquet")
    variables = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "", "no_proxy": "*"}
    made = Path("results/mixed/tasks/chats")
    with serve() as hub:
        hub.add("lab/sums", {"train.parquet": (tmp_path / "rows.parquet").read_bytes()}, kind="datasets")
        variables["HF_ENDPOINT"] = hub.address
        targets = [str(made / "train.jsonl"), "results/mixed/downloads.json"]
        done = snakemake(folder, *targets, "--cores", "2", "--configfile", "mixed.yaml", **variables)
    assert done.returncode == 0, done.stderr
    (listed,) = read_json(folder / "results/mixed/downloads.json")["downloads"]
    assert [listed[key] for key in ("name", "use", "id", "commit")] == ["chats", "task", "lab/sums", commit_of(1)]
    train, validation = (read_jsonl(folder / made / f"{split}.jsonl") for split in ("train", "validation"))
    assert [sum("messages" in text for text in split) for split in (train, validation)] == [4, 1]
    sums = [text for text in (*train, *validation) if "prompt" in text]
    assert all(text["completion"] == f" {int(text['prompt'].split()[0]) + 1}" for text in sums)
    sources = read_json(folder / made / "record.json")["sources"]
    assert [(source["rows"], source["texts"]) for source in sources] == [(24, 12), (30, 30)]
    assert sources[1]["commit"] == commit_of(1)
    lines = (folder / "config/smoke_tasks/chats.jsonl").read_text().splitlines()
    chat = next(text for text in train if "messages" in text)
    first = [turn["value"] for turn in json.loads(lines[int(chat["id"][2:])])["conversations"]]
    assert [turn["content"] for turn in chat["messages"]] == first[: len(chat["messages"])]
