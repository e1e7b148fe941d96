"""``logitfusion distill``: its student is the workflow's; stopped, in several processes, measured meanwhile."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lm_eval
import pytest
import torch
from commands import refuse, run
from harness_tasks import write_tasks
from torch import Tensor

from logitfusion import cli
from logitfusion.config.distill import StudentTraining
from logitfusion.config.jobs.distill import Answering, MeasuredTask, StudentJob
from logitfusion.config.models import RandomModel
from logitfusion.config.objective import Objective
from logitfusion.config.prompting import Prompting
from logitfusion.config.tasks import HarnessTask
from logitfusion.distill.cache import find_shards
from logitfusion.distill.encoding import encode_text
from logitfusion.files import read_json, write_jsonl
from logitfusion.fusion import FusedLM
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.models.adapters import load_expert
from logitfusion.models.load import load_model, load_tokenizer, save_model
from logitfusion.models.source import make_random
from logitfusion.stages import student
from logitfusion.tasks.documents import open_documents, write_documents
from logitfusion.tasks.prepare import cut_task, make_texts, read_task
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
    write_tasks(root / "tasks", rows=40)
    asked = ["distill-cache", "--teacher", root / "stranger", "--texts", root / "texts.jsonl", "--k", 6]
    assert cli.main([*map(str, asked), "--output", str(root / "cache")]) == 0
    return root


def call(made: Path, output: Path, *options: str, **recipe: Any) -> list[str]:
    """The command, on both teachers."""
    teachers = ["--teacher", f"twin={made / 'twin'}", "--cache", f"stranger={made / 'cache'}"]
    texts = ["--texts", str(made / "texts.jsonl"), "--output", str(output)]
    return ["distill", str(made / "student"), *texts, *teachers, *LOSS, *spelled(RECIPE | recipe), *options]


def read_rows(table: Path) -> list[dict[str, float]]:
    with table.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def weights(folder: Path) -> dict[str, Tensor]:
    return dict(load_model(folder, device=torch.device("cpu")).state_dict())


def assert_same(found: Path, expected: Path, **tolerance: float) -> None:
    first, second = weights(found), weights(expected)
    assert first.keys() == second.keys()
    for name, value in second.items():
        torch.testing.assert_close(first[name], value, **tolerance)


def measured(made: Path) -> list[str]:
    """Options of evaluations on held-out texts and on a task."""
    task = {"include_path": made / "tasks", "training_split": "test", "validation": 7}
    return ["--evaluate", str(made / "held_out.jsonl"), "toy_choice", "--eval-steps", "3", *spelled(task)]


def write_validation(made: Path, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The documents of that task, as the workflow's stage writes them, and their right answers."""
    task = HarnessTask(harness="toy_choice", include_path=str(made / "tasks"), training_split="test", validation=7)
    with TemporaryDirectory() as scratch:
        folders, loaded = read_task(task, shots=True, scratch=Path(scratch))
        cut = cut_task(task, loaded, "toy_choice")
        write_documents(folder / "documents", "toy_choice", folders, loaded, cut, shots=True)
        return folder / "documents", list(make_texts(cut.validation))


@pytest.fixture(scope="module")
def trained(made: Path) -> Path:
    assert cli.main(call(made, made / "trained", *measured(made))) == 0
    return made / "trained"


def test_the_student_is_the_workflows(made: Path, trained: Path, tmp_path: Path) -> None:
    """Of caches, to the last bit."""
    texts = tmp_path / "train.jsonl"
    write_jsonl(texts, [{"prompt": row["prompt"], "completion": row["response"]} for row in ROWS[:12]])
    shard = tmp_path / "stranger/0.safetensors"
    shard.parent.mkdir()
    shard.write_bytes(find_shards(made / "cache")[0].read_bytes())
    method = {"teachers": ["stranger"], "uld": 0.3, "gld": 0.2, "k": 6}
    training = StudentTraining(**RECIPE, evaluate=("toy_choice",), eval_steps=3)
    tasks = {"toy_choice": MeasuredTask(num_fewshot=None, generation_kwargs={}, metric=None)}
    answering = Answering(prompting=Prompting(), batch_size=32, tasks=tasks)
    job = StudentJob(method=method, training=training, texts=None, answering=answering)
    documents, answers = write_validation(made, tmp_path / "toy_choice")
    write_jsonl(tmp_path / "validation.jsonl", answers)
    arguments = Namespace(
        name="test", seed=0, base=[made / "student"], text=[texts], validation=[tmp_path / "validation.jsonl"],
        documents=[documents], caches=[shard],
        teachers=[], tokenizers=[], checkpoints=tmp_path / "checkpoints", output=tmp_path / "stage",
    )  # fmt: skip
    student.main(arguments, job)
    asked = call(made, tmp_path / "command", *[word for word in measured(made) if not word.endswith(".jsonl")])
    place = asked.index("--teacher")
    assert cli.main(asked[:place] + asked[place + 2 :]) == 0
    assert_same(tmp_path / "command", tmp_path / "stage", rtol=0, atol=0)
    for table in ("curve.csv", "evaluations.csv"):
        assert (tmp_path / "command" / table).read_text() == (tmp_path / "stage" / table).read_text()
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


def test_the_same_call_goes_on_and_no_other(
    capsys: pytest.CaptureFixture[str], made: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    sentence = refuse(capsys, *call(made, tmp_path / "out", steps=5))
    assert f"{tmp_path / 'out.checkpoints'} holds the checkpoints of a training on other texts" in sentence
    assert (tmp_path / "out.checkpoints/checkpoint-2").is_dir()
    assert cli.main(asked) == 0
    assert_same(tmp_path / "out", trained, rtol=0, atol=0)
    header = (tmp_path / "out/curve.csv").read_text().partition("\n")[0]
    assert header == (trained / "curve.csv").read_text().partition("\n")[0]


def test_a_training_that_fails_before_a_checkpoint_leaves_nothing(
    capsys: pytest.CaptureFixture[str], made: Path, tmp_path: Path
) -> None:
    """So that the same place takes a call with other options."""
    assert cli.main(call(made, tmp_path / "out", learning_rate=1e20)) == 1
    assert "lower the learning_rate" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.checkpoints").write_text("mine")
    assert "out.checkpoints is a file" in refuse(capsys, *call(made, tmp_path / "out"))


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
            [sys.executable, "-m", *launcher, "logitfusion", *call(made, tmp_path / name, *measured(made))],
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
        for table in ("curve.csv", "evaluations.csv"):
            found, expected = (read_rows(folder / table) for folder in (tmp_path / name, trained))
            assert [row.keys() for row in found] == [row.keys() for row in expected]
            for one, other in zip(found, expected, strict=True):
                assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


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
        (["--combine", "weighted", "--weights", "0", "0"], "--weights are all 0, which leaves out every teacher."),
        (["--epochs", "1"], "--epochs needs either steps or epochs"),
        (["--patience", "2"], "--patience needs something to evaluate"),
        (
            ["--evaluate", "{made}/held_out.jsonl", "--patience", "1", "--best-by", "metric"],
            "best_by is metric, and nothing of evaluate is a task that has one",
        ),
        (["--texts", "sums"], "--texts sums is a task, no file (those end in .jsonl): say by --train how many"),
        (["--evaluate", "sums"], "--evaluate sums is a task, no file (those end in .jsonl): say by --validation how"),
        (["--texts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--output", "{made}/\udcff"], "--output has a character that is not Unicode"),
        (["--output", "{made}/tasks"], "{made}/tasks is there already; name another folder with --output, or delete"),
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
    assert all(row["loss"] == pytest.approx(row["sft"]) for row in read_rows(tmp_path / "out/curve.csv"))
    assert not (tmp_path / "out/evaluations.csv").exists()


# ---- evaluations ---------------------------------------------------------------------------------------------------


def loss_of(folder: Path, rows: list[dict[str, str]]) -> float:
    """The cross-entropy of responses and end of text, token by token, of a model that is read anew."""
    model, tokenizer = load_model(folder, device=torch.device("cpu")), load_tokenizer(folder)
    losses: list[Tensor] = []
    for row in rows:
        text = encode_text(tokenizer, row["prompt"], row["response"])
        log_probs = model(torch.tensor([text.ids])).logits[0].double().log_softmax(-1)
        losses += [-log_probs[place - 1, text.ids[place]] for place in text.places]
    return torch.stack(losses).mean().item()


def test_evaluations_are_of_the_student_as_it_is_then(made: Path, trained: Path, tmp_path: Path) -> None:
    """The last one of the written student, read anew: its loss, and the harness's own number."""
    first, last = read_rows(trained / "evaluations.csv")
    assert (first["step"], last["step"]) == (3, 4)
    assert first["loss"] > last["loss"]
    documents, rows = write_validation(made, tmp_path)
    lm = FusedLMEval(FusedLM.from_folders(trained), batch_size=4)
    found = lm_eval.evaluate(lm, open_documents(documents, split="validation").loaded)["results"]["toy_choice"]
    answers = [{"prompt": row["prompt"], "response": row["completion"]} for row in rows]
    assert len(answers) == 7
    assert last["toy_choice"] == last["metric"] == pytest.approx(found["acc,none"])
    assert last["sft"] == pytest.approx(loss_of(trained, [*ROWS[12:], *answers]), rel=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_patience_ends_a_training_and_keeps_the_best(
    made: Path, tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["--texts", str(made / "texts.jsonl"), "--evaluate", str(made / "held_out.jsonl")]
    recipe = {"steps": 60, "batch_size": 12, "learning_rate": 0.3 if method == "full" else 0.5, "precision": "fp32"}
    options = ["--eval-steps", "2", "--patience", "2", "--method", method]
    out = tmp_path / "out"
    assert cli.main(["distill", str(made / "student"), *texts, "--output", str(out), *options, *spelled(recipe)]) == 0
    losses = [row["loss"] for row in read_rows(out / "evaluations.csv")]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == best + 3 < 30
    assert f"stopped at step {2 * len(losses)} of 60; the student of step {2 * (best + 1)} is the best" in caplog.text
    if method == "full":
        assert loss_of(out, ROWS[12:]) == pytest.approx(losses[best], rel=1e-4)
    else:
        model = load_expert(out, device=torch.device("cpu"))
        save_model(model, load_tokenizer(out), tmp_path / "merged", model.dtype)
        assert loss_of(tmp_path / "merged", ROWS[12:]) == pytest.approx(losses[best], rel=1e-4)


def test_patience_is_kept_over_a_stop(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["--texts", str(made / "texts.jsonl"), "--evaluate", str(made / "held_out.jsonl")]
    recipe = {"steps": 60, "batch_size": 12, "learning_rate": 0.3, "precision": "fp32", "checkpoint_minutes": 1e-9}
    asked = ["distill", str(made / "student"), *texts, "--eval-steps", "2", "--patience", "2", *spelled(recipe)]
    assert cli.main([*asked, "--output", str(tmp_path / "straight")]) == 0
    table = (tmp_path / "straight/evaluations.csv").read_text()
    last = int(read_rows(tmp_path / "straight/evaluations.csv")[-1]["step"])

    class Interrupting(loop.Progress):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == last - 1:  # between the two evaluations that are not better
                raise JobKilledError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Progress", Interrupting)
        with pytest.raises(JobKilledError):
            cli.main([*asked, "--output", str(tmp_path / "broken")])
    assert cli.main([*asked, "--output", str(tmp_path / "broken")]) == 0
    assert (tmp_path / "broken/evaluations.csv").read_text() == table
    assert_same(tmp_path / "broken", tmp_path / "straight", rtol=0, atol=0)


def test_a_metric_that_is_better_when_it_is_lower_is_not_the_best_ones(
    capsys: pytest.CaptureFixture[str], made: Path, tmp_path: Path
) -> None:
    task = {"include_path": made / "tasks", "training_split": "test", "validation": 3, "train": 6}
    texts = ["--texts", "toy_text", "--evaluate", "toy_text", *spelled(task)]
    asked = ["distill", made / "student", *texts, "--output", tmp_path / "out", *spelled(RECIPE), "--patience", "1"]
    assert cli.main([*map(str, asked), "--best-by", "metric"]) == 1
    assert "best_by is metric, and not all tasks" in capsys.readouterr().err.splitlines()[-1]


def test_a_service_that_is_not_installed_is_a_sentence(
    capsys: pytest.CaptureFixture[str], made: Path, tmp_path: Path
) -> None:
    sentence = refuse(capsys, *call(made, tmp_path / "out"), "--report-to", "trackio")
    assert "report_to names trackio, which is not installed; install it" in sentence
    assert "--report-to" in refuse(capsys, *call(made, tmp_path / "out"), "--report-to", "mail")
