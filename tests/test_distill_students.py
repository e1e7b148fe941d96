"""``logitfusion distill``: its student is the workflow's; stopped, in several processes, measured meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refuse, run
from torch import Tensor

from logitfusion import cli
from logitfusion.config.distill import StudentTraining
from logitfusion.config.jobs.distill import StudentJob
from logitfusion.config.models import RandomModel
from logitfusion.config.objective import Objective
from logitfusion.distill.cache import find_shards
from logitfusion.files import read_json, write_jsonl
from logitfusion.models.load import load_model
from logitfusion.models.source import make_random
from logitfusion.stages import student
from logitfusion.training import loop

ROOT = Path(__file__).parents[1]
ROWS = [
    {"prompt": f"Count to {number}:", "response": " " + " ".join(map(str, range(10, 12 + number % 5)))}
    for number in range(16)
]
LOSS = ["--uld", "0.3", "--gld", "0.2", "--k", "6"]
RECIPE = {"steps": 4, "batch_size": 6, "micro_batch": 3, "learning_rate": 5e-3, "precision": "fp32"}


def spelled(options: dict[str, Any]) -> list[str]:
    return [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, two teachers, a cache of one of them, and texts: the last four are held out."""
    root = tmp_path_factory.mktemp("students")
    for name, tokenizer, seed in (("student", "bytes", 1), ("twin", "bytes", 2), ("stranger", "pairs", 3)):
        make_random(RandomModel(source="random", hidden_size=16, layers=1, seed=seed, tokenizer=tokenizer), root / name)
    write_jsonl(root / "texts.jsonl", ROWS[:12])
    write_jsonl(root / "held_out.jsonl", ROWS[12:])
    asked = ["distill-cache", "--teacher", root / "stranger", "--texts", root / "texts.jsonl", "--k", 6]
    assert cli.main([*map(str, asked), "--output", str(root / "cache")]) == 0
    return root


def call(made: Path, output: Path, *options: str, **recipe: Any) -> list[str]:
    """The command, on both teachers."""
    teachers = ["--teacher", f"twin={made / 'twin'}", "--cache", f"stranger={made / 'cache'}"]
    texts = ["--texts", str(made / "texts.jsonl"), "--output", str(output)]
    return ["distill", str(made / "student"), *texts, *teachers, *LOSS, *spelled(RECIPE | recipe), *options]


def weights(folder: Path) -> dict[str, Tensor]:
    return dict(load_model(folder, device=torch.device("cpu")).state_dict())


def assert_same(found: Path, expected: Path, **tolerance: float) -> None:
    first, second = weights(found), weights(expected)
    assert first.keys() == second.keys()
    for name, value in second.items():
        torch.testing.assert_close(first[name], value, **tolerance)


@pytest.fixture(scope="module")
def trained(made: Path) -> Path:
    assert cli.main(call(made, made / "trained")) == 0
    return made / "trained"


def test_the_student_is_the_workflows(made: Path, trained: Path, tmp_path: Path) -> None:
    """Of caches, to the last bit."""
    texts = tmp_path / "train.jsonl"
    write_jsonl(texts, [{"prompt": row["prompt"], "completion": row["response"]} for row in ROWS[:12]])
    shard = tmp_path / "stranger/0.safetensors"
    shard.parent.mkdir()
    shard.write_bytes(find_shards(made / "cache")[0].read_bytes())
    method = {"teachers": ["stranger"], "uld": 0.3, "gld": 0.2, "k": 6}
    job = StudentJob(method=method, training=StudentTraining(**RECIPE), texts=None)
    arguments = Namespace(
        name="test", seed=0, base=[made / "student"], text=[texts], validation=[], documents=[], caches=[shard],
        teachers=[], checkpoints=tmp_path / "checkpoints", output=tmp_path / "stage",
    )  # fmt: skip
    student.main(arguments, job)
    asked = call(made, tmp_path / "command")
    place = asked.index("--teacher")
    assert cli.main(asked[:place] + asked[place + 2 :]) == 0
    assert_same(tmp_path / "command", tmp_path / "stage", rtol=0, atol=0)
    assert (tmp_path / "command/curve.csv").read_text() == (tmp_path / "stage/curve.csv").read_text()
    with pytest.raises(AssertionError):
        assert_same(trained, tmp_path / "stage")  # the other teacher counts


def test_a_student_is_a_model_folder_with_its_record(
    capsys: pytest.CaptureFixture[str], made: Path, tmp_path: Path
) -> None:
    printed = run(capsys, *call(made, tmp_path / "out", "--method", "lora", "--rank", "2", "--alpha", "4"))
    assert printed == f"{tmp_path / 'out'}\n"
    config = read_json(tmp_path / "out/record.json")["config"]
    assert config["training"]["lora"] == {"rank": 2, "alpha": 4.0, "dropout": 0.0}
    assert config["objective"]["teachers"] == ["twin", "stranger"]
    assert (tmp_path / "out/adapter_model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no checkpoints stay


class JobKilledError(Exception):
    """Stands for a job that is killed."""


def test_the_same_call_goes_on(made: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(loop.Progress):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                raise JobKilledError

    asked = call(made, tmp_path / "out", checkpoint_minutes=1e-9)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "Progress", Interrupting)
        with pytest.raises(JobKilledError):
            cli.main(asked)
    assert (tmp_path / "out.checkpoints/checkpoint-2").is_dir()
    assert not (tmp_path / "out").exists()
    assert cli.main(asked) == 0
    assert_same(tmp_path / "out", trained, rtol=0, atol=0)


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"],
    "accelerate": [
        "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m",
    ],
}  # fmt: skip


def test_several_processes_are_one(made: Path, trained: Path, tmp_path: Path) -> None:
    """By torchrun and by accelerate, at once; but for the order of sums."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "1"}
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", *launcher, "logitfusion", *call(made, tmp_path / name)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name, launcher in LAUNCHERS.items()
    }  # fmt: skip
    for name, process in started.items():
        printed, said = process.communicate()
        assert process.returncode == 0, said
        assert printed == f"{tmp_path / name}\n"
        assert "2 processes, each with all of the model" in said
        assert said.count("4 of 4 steps") == 1
        assert_same(tmp_path / name, trained, rtol=1e-4, atol=1e-5)


def test_every_option_of_the_loss_and_the_training_is_one_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["distill", "--help"])
    printed = capsys.readouterr().out
    named = {*Objective.model_fields, *StudentTraining.model_fields} - {"processes", "lora"}  # a launcher's; its parts
    assert [name for name in named if f"--{name.replace('_', '-')}" not in printed] == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--kl", "2"], "--kl must be at most 1.0, and is 2.0."),
        (["--kl", "0.5"], "'stranger' has another vocabulary than the student"),
        (["--k", "7"], "teacher 'stranger' holds the top 6, not 7"),
        (["--teacher", "{made}/twin"], "Two teachers have the name 'twin'; give each one of its own, NAME=DIR."),
        (["--cache", "a={made}/nowhere"], "--cache a={made}/nowhere: the folder {made}/nowhere does not exist."),
        (["--rank", "3"], "--rank is of adapters; add --method lora, or leave it out."),
        (["--combine", "weighted", "--weights", "1"], "The call has 2 teachers and 1 weights."),
        (["--epochs", "1"], "--epochs needs either steps or epochs"),
        (["--patience", "2"], "--patience needs something to evaluate"),
        (["--texts", "sums"], "--texts sums is a task, no file (those end in .jsonl): say by --train how many"),
        (["--evaluate", "sums"], "--evaluate sums is a task, no file (those end in .jsonl): say by --validation how"),
        (["--texts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--output", "{made}/twin"], "{made}/twin is there already; name another folder with --output, or delete"),
        (["--output", "{made}/twin/new"], "lies in {made}/twin, which a teacher reads"),
    ],
)
def test_what_can_not_be_done_is_one_sentence(
    capsys: pytest.CaptureFixture[str], made: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    given = [word.format(made=made) for word in options]
    assert sentence.format(made=made) in refuse(capsys, *call(made, tmp_path / "out"), *given)
    assert list(tmp_path.iterdir()) == []


def test_without_teachers_it_is_fine_tuning(capsys: pytest.CaptureFixture[str], made: Path, tmp_path: Path) -> None:
    texts = str(made / "texts.jsonl")
    asked = ["distill", made / "student", "--texts", texts, "--output", tmp_path / "out", *spelled(RECIPE)]
    assert "needs both teachers and a factor" in refuse(capsys, *asked, "--uld", "0.5")
    run(capsys, *asked)
    *_, last = (tmp_path / "out/curve.csv").read_text().splitlines()
    head = (tmp_path / "out/curve.csv").read_text().splitlines()[0].split(",")
    row = dict(zip(head, map(float, last.split(",")), strict=True))
    assert row["loss"] == pytest.approx(row["sft"])
    assert json.dumps(read_json(tmp_path / "out/record.json")["config"]["objective"]["teachers"]) == "[]"
