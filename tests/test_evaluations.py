"""Evaluations by the harness are those of its own model, and the command takes what its own command takes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from commands import refuse, run
from harness_tasks import write_tasks
from lm_eval.tasks import TaskManager
from sqlitedict import SqliteDict
from test_harness import CHAT
from test_stops import llama3_like, make_random

from logitfusion.errors import UserError
from logitfusion.evaluate.faults import explaining
from logitfusion.files import read_json
from logitfusion.fusion import FusedLM
from logitfusion.models.load import save_model

# Whole evaluations


@pytest.fixture(autouse=True)
def _nothing_about_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results tell the versions of everything, which takes as long as all of the models."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    for name, changes in {"toy_code": {"unsafe_code": True}, "toy_bare": {"fewshot_split": None}}.items():
        definition = yaml.safe_load((folder / "toy_words.yaml").read_text(encoding="utf-8"))
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(definition | {"task": name} | changes), encoding="utf-8")
    group = {"group": "toys", "task": ["toy_choice", "toy_words"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "toys.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random model with a chat template."""
    tokenizer, folder = llama3_like(), tmp_path_factory.mktemp("chat")
    tokenizer.chat_template = CHAT
    save_model(make_random(tokenizer, 0), tokenizer, folder)
    return folder


CALLS = [
    {"apply_chat_template": True, "system_instruction": "Be brief.", "num_fewshot": 2},
    {"apply_chat_template": True, "num_fewshot": 1, "fewshot_as_multiturn": False},
    {"system_instruction": "Be brief.", "gen_kwargs": "max_gen_toks=3,until=o", "fewshot_random_seed": 7},
    {"predict_only": True, "gen_kwargs": {"max_new_tokens": 4, "max_gen_toks": None}, "num_fewshot": 1},
]


@pytest.mark.parametrize("options", CALLS)
def test_evaluations_are_those_of_hf(chat_model: Path, tasks: Path, options: dict[str, Any], tmp_path: Path) -> None:
    folder = {"hf": {"pretrained": str(chat_model)}, "logitfusion": {"large": str(chat_model)}}
    oracle, found = (
        lm_eval.simple_evaluate(
            model=name,
            model_args=folder[name],
            device="cpu",
            batch_size=1,
            tasks=["toys"],
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            limit=4,
            bootstrap_iters=0,
            use_cache=str(tmp_path / name),
            **options,
        )
        for name in ("hf", "logitfusion")
    )
    assert found["results"].keys() == oracle["results"].keys() >= {"toys", "toy_choice"}
    for name in ("toy_choice", "toy_words"):
        for ours, expected in zip(found["samples"][name], oracle["samples"][name], strict=True):
            assert ours["arguments"] == expected["arguments"]
            if name == "toy_words":
                assert ours["resps"] == expected["resps"]
    for key in ("fewshot_seed", "gen_kwargs", "limit"):
        assert found["config"][key] == oracle["config"][key]
    cached, expected = (set(SqliteDict(str(tmp_path / f"{name}_rank0.db"))) for name in ("logitfusion", "hf"))
    assert cached == expected != set()


# The command


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness without its own thousands of definitions, which take ten seconds to read."""
    monkeypatch.setattr(
        "lm_eval.tasks.TaskManager",
        lambda include_path, metadata=None, **_: TaskManager(
            include_path=include_path, include_defaults=False, metadata=metadata
        ),
    )


@pytest.fixture
def command(chat_model: Path, tasks: Path) -> list[str | Path]:
    return ["evaluate", "--large", chat_model, "--include-path", tasks, "--limit", "3", "--tasks"]


def test_samples_are_kept(capsys: pytest.CaptureFixture[str], command: list, tmp_path: Path) -> None:
    generation = ["--gen-kwargs", '{"max_gen_toks": 2, "until": ["a,b"]}', "--seed", "1,None,3,4"]
    chat = ["--apply-chat-template", "--chat-template-args", '{"enable_thinking": true}', "--num-fewshot", 1]
    single = ["--fewshot-as-multiturn", "false", "--system-instruction", "Be brief."]
    output = tmp_path / "results.json"
    options = [*generation, *chat, *single, "--log-samples", "--output", output, "--metadata", "note=5"]
    assert "exact_match" in run(capsys, *command, "toy_words", *options)
    results = read_json(output)
    rows = results["samples"]["toy_words"]
    assert len(rows) == 3
    prompt, asked = rows[0]["arguments"][0]
    assert prompt.startswith("<s>system: Be brief.")
    assert prompt.endswith("me?")
    assert prompt.count("<s>") == 2
    assert asked["max_gen_toks"] == 2
    assert asked["until"] == ["a,b"]
    seeds = {name: results["config"][f"{name}_seed"] for name in ("random", "numpy", "torch", "fewshot")}
    assert seeds == {"random": 1, "numpy": None, "torch": 3, "fewshot": 4}
    assert "samples" not in _evaluated(capsys, command, output)


def _evaluated(capsys: pytest.CaptureFixture[str], command: list, output: Path) -> dict[str, Any]:
    run(capsys, *command, "toy_words", "--output", output)
    return read_json(output)


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens"])
def test_the_command_line_wins_against_the_task(
    capsys: pytest.CaptureFixture[str], command: list, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "results.json"
    options = ["--gen-kwargs", f"{name}=1,until=[]", "temperature=0.5", "--log-samples", "--output", output]
    run(capsys, *command, "toy_words", *options)
    (row, *_) = read_json(output)["samples"]["toy_words"]
    assert row["arguments"][0][1] == {"max_gen_toks": 1, "until": [], "do_sample": False, "temperature": 0.5}
    assert "do_sample=true" in caplog.text


def test_answers_alone_are_kept(capsys: pytest.CaptureFixture[str], command: list, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    run(capsys, *command, "toy_words", "--predict-only", "--output", output)
    results = read_json(output)
    assert len(results["samples"]["toy_words"]) == 3
    assert not any("exact_match" in name for name in results["results"]["toy_words"])


def test_tasks_that_run_code_need_a_word(capsys: pytest.CaptureFixture[str], command: list, tasks: Path) -> None:
    assert "--confirm-run-unsafe-code" in refuse(capsys, *command, "toy_code")
    assert "toy_code" in run(capsys, *command, "toy_code", "--confirm-run-unsafe-code")
    error = ValueError("Attempted to run task: x which is marked as unsafe. Set confirm_run_unsafe_code=True to ...")
    with pytest.raises(UserError, match="--confirm-run-unsafe-code"), explaining("x,y"):
        raise error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--limit", 0], "--limit"),
        (["--limit", -3], "--limit"),
        (["--limit", 2.5], "--limit"),
        (["--limit", "nan"], "--limit"),
        (["--num-fewshot", -1], "--num-fewshot"),
        (["--num-fewshot", 50], "toy_words"),
        (["--seed", "a"], "--seed"),
        (["--seed", "1,2"], "--seed"),
        (["--seed", "-1"], "--seed"),
        (["--seed", 2**32], "--seed"),
        (["--gen-kwargs", "temperature"], "--gen-kwargs"),
        (["--gen-kwargs", "{temperature: 1}"], "--gen-kwargs"),
        (["--gen-kwargs", "num_beams=4"], "num_beams"),
        (["--gen-kwargs", "do_sample=true"], "temperature"),
        (["--gen-kwargs", "max_gen_toks=100000"], "max_gen_toks"),
        (["--metadata", "x"], "--metadata"),
        (["--log-samples"], "--output"),
        (["--predict-only"], "--output"),
        (["--fewshot-as-multiturn"], "--apply-chat-template"),
        (["--chat-template-args", "{}"], "--apply-chat-template"),
        (["--apply-chat-template", "tools"], "tools"),
        (["--apply-chat-template", "--chat-template-args", "x"], "JSON"),
    ],
)
@pytest.mark.usefixtures("few_tasks")
def test_the_command_refuses_what_it_can_not_do(
    capsys: pytest.CaptureFixture[str], command: list, options: list, words: str
) -> None:
    assert words in refuse(capsys, *command, "toy_words", *options)


@pytest.mark.usefixtures("few_tasks")
def test_unknown_groups_and_missing_examples_are_refused(
    capsys: pytest.CaptureFixture[str], command: list, tasks: Path, tmp_path: Path
) -> None:
    assert "'toyz'" in refuse(capsys, *command, "toyz")
    assert "'sums' is one of our library: give its folder, --include-path " in refuse(capsys, *command, "sums")
    for change, words in (({"doc_to_text": "{{nothing.at.all}}"}, "nothing"), ({"test_split": "gone"}, "toy_new")):
        definition = yaml.safe_load((tasks / "toy_words.yaml").read_text(encoding="utf-8"))
        (tmp_path / "new.yaml").write_text(yaml.safe_dump(definition | {"task": "toy_new"} | change), encoding="utf-8")
        assert words in refuse(capsys, *command[:3], "--include-path", tmp_path, "--tasks", "toy_new")


def test_errors_of_the_model_are_no_errors_of_tasks(tiny_models: dict[str, Path]) -> None:
    def fail() -> None:
        FusedLM.from_folders(tiny_models["large"]).score(["a"], [object()])

    for call, ours in ((fail, True), (lambda: json.loads("{"), False), (lambda: random.sample([1], 3), False)):
        with pytest.raises(Exception) as caught, explaining("x"):  # noqa: PT011, any of them
            call()
        assert ours == (caught.value.__cause__ is None)  # theirs are told in a sentence of ours
