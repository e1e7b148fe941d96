"""What the text tracks write and read again: a bit that is flipped in any of it is refused in a sentence."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from flips import refuses_every_flip
from harness_tasks import write_tasks
from made_records import record as made_record
from peft import PeftModel
from recorded import store

from logitfusion.artefact import read_artefact, read_rows, write_artefact, write_rows
from logitfusion.config.models import RandomModel
from logitfusion.config.training import LoRA
from logitfusion.errors import UserError
from logitfusion.evaluate.responses import Response
from logitfusion.evaluate.scores import HarnessScore, JudgedTask, read_judged
from logitfusion.fetch import revisions
from logitfusion.files import write_jsonl
from logitfusion.fusion.tuning import Candidate, as_rows
from logitfusion.models.adapters import add_adapters, load_expert
from logitfusion.models.load import load_model, load_tokenizer
from logitfusion.progress.record import read_record, write_record
from logitfusion.provenance import record
from logitfusion.stages import model as model_stage
from logitfusion.stages._splits import record_splits
from logitfusion.stages._texts import read_rows as read_texts
from logitfusion.tasks.documents import open_documents
from logitfusion.tasks.hub_rows import FetchedTexts
from logitfusion.training.folder import write_trained

Read = Callable[[], Any]


def answers(folder: Path) -> tuple[list[Path], Read]:
    path = folder / "0.jsonl"
    rows = [Response(task="t", subtask="t", document=place, id=place, text="ja", tokens=["ja"]) for place in range(2)]
    write_rows(path, map(vars, rows))
    return [path], lambda: read_rows(path, Response)


def scores(folder: Path) -> tuple[list[Path], Read]:
    table, numbers = folder / "t.parquet", folder / "t.json"
    score = HarnessScore(subtask=None, metric="acc", value=0.5, stderr=None, n=2, higher_is_better=True)
    JudgedTask(pd.DataFrame({"id": [0, 1]}), "acc", {"m": [score]}).write(table, numbers)
    return [numbers], lambda: read_judged(table, numbers)


def tuned(folder: Path) -> tuple[list[Path], Read]:
    path, rows = folder / "tuned.json", as_rows([Candidate(trust=0.5, anchor=1.0, exact=0.25, log_likelihood=-1.5)])
    write_artefact(path, {"chosen": {"*": rows[0]}, "candidates": {"t": rows}})
    return [path], lambda: read_artefact(path)["chosen"]


def texts(folder: Path) -> tuple[list[Path], Read]:
    train, note = folder / "train.jsonl", folder / "record.json"
    write_jsonl(train, [{"prompt": "a", "completion": " b"}])
    record(note, {}, files=record_splits(note, train))
    return [train, note], lambda: read_texts([train])


def commits(folder: Path) -> tuple[list[Path], Read]:
    def download(*_: Any, commit: str | None = None, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(commit=commit or "c" * 40)

    def read() -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(revisions, "download", download)
            patch.setattr(revisions, "ask_hub", lambda: "there is no network")
            return revisions.download_recorded("model", "owner/name", "main", folder).commit

    assert read() == "c" * 40
    return list(folder.iterdir()), read


def downloads(folder: Path) -> tuple[list[Path], Read]:
    path = folder / "fetched.json"
    write_artefact(path, FetchedTexts(parts=()).dump())
    return [path], lambda: read_artefact(path, FetchedTexts)


def runs(folder: Path) -> tuple[list[Path], Read]:
    path = folder / "run.json"
    write_record(path, made_record())
    return [path], lambda: read_record(path)


@pytest.mark.parametrize("make", [answers, scores, tuned, texts, commits, downloads, runs])
def test_every_byte_counts(tmp_path: Path, make: Callable[[Path], tuple[list[Path], Read]]) -> None:
    paths, read = make(tmp_path)
    for path in paths:
        refuses_every_flip(path, read, step=7)


def refuses_flips(folder: Path, read: Read) -> None:
    """Flip four bits of each file of a folder, whose sizes are not small."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    for path in paths:
        content = path.read_bytes()
        for place in {0, len(content) // 3, 2 * len(content) // 3, len(content) - 1} if content else ():
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(UserError) as refused:
                read()
            assert "\n" not in str(refused.value)
            assert str(folder) in str(refused.value), path
        path.write_bytes(content)
    read()


def test_documents_of_a_task_are_what_was_made(tmp_path: Path) -> None:
    folder = store(tmp_path / "words", "toy_words", write_tasks(tmp_path / "definitions", rows=2))
    refuses_flips(folder, lambda: open_documents(folder))
    (folder / "record.json").unlink()
    with pytest.raises(UserError, match="holds no documents of a task"):
        open_documents(folder)


def test_an_adapter_is_what_was_trained(tmp_path: Path) -> None:
    base, output = tmp_path / "models/base", tmp_path / "experts/adapted"
    nothing = {"text": [], "package": [], "source": None, "checkpoints": tmp_path / "none"}
    model_stage.main(Namespace(name="base", output=base, **nothing), RandomModel(source="random", hidden_size=16))
    adapted = add_adapters(load_model(base), LoRA(rank=2), 0)
    assert isinstance(adapted, PeftModel)
    write_trained(output, adapted, load_tokenizer(base), base, {}, [{"step": 1, "loss": 0.5, "learning_rate": 0.1}])
    named = {file["name"] for file in json.loads((output / "record.json").read_text())["files"]}
    assert named == {path.name for path in output.iterdir() if path.name not in ("record.json", ".seen.json")}
    refuses_flips(output, lambda: load_expert(output))
