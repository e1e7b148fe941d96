"""The command ``logitfusion``: its answers are the package's, and what it can't do it says in one sentence."""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import refuse, run
from harness_tasks import TASKS, write_tasks
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.tasks import TaskManager
from test_fusion_lm import make_speller

from logitfusion import cli
from logitfusion.cli import evaluate, generate, score
from logitfusion.cli.generate import Stream, name_experts
from logitfusion.config.decoding import DecodingOptions
from logitfusion.files import read_json, read_jsonl, write_jsonl
from logitfusion.fusion import FusedLM
from logitfusion.fusion.decoding import Continuations
from logitfusion.models.load import load_tokenizer
from logitfusion.models.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[1]
PROMPTS = ["Hello world", "a", "Grüße →"]


def folders_of(tiny_models: dict[str, Path], *experts: str) -> list[str]:
    base = ["--base", str(tiny_models["base"])] if experts else []
    return [
        "--large",
        str(tiny_models["large"]),
        *base,
        *[part for name in experts for part in ("--expert", str(tiny_models[name]))],
    ]


def test_an_anchor_of_0_that_is_all_trusted_is_the_large_model(
    tiny_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--prompt", "Hello world", "--max-new-tokens", 6]
    alone = run(capsys, "generate", *folders_of(tiny_models), *asked)
    steered = folders_of(tiny_models, "expert_a", "expert_b")
    assert run(capsys, "generate", *steered, *asked, "--trust", 0, "--anchor", 0) == alone
    assert run(capsys, "generate", *steered, *asked, "--familiar", -1000) == alone
    assert "trust" in refuse(capsys, "generate", *steered, *asked, "--trust", 2)


def test_drafts_of_any_length_are_the_same_text(
    tiny_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["generate", *folders_of(tiny_models, "expert_a"), "--prompt", "Hello world", "--max-new-tokens", 9]
    plain = run(capsys, *asked)
    assert run(capsys, *asked, "--speculative", "--draft-tokens", 3) == plain
    assert "--draft-tokens" in refuse(capsys, *asked, "--speculative", "--draft-tokens", -1)


def give(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.fixture(scope="module")
def steered(tiny_models: dict[str, Path]) -> FusedLM:
    return FusedLM.from_folders(
        tiny_models["large"], tiny_models["base"], [tiny_models["expert_a"], tiny_models["expert_b"]]
    )


@pytest.fixture
def steered_folders(tiny_models: dict[str, Path]) -> list[str]:
    return folders_of(tiny_models, "expert_a", "expert_b")


# Generation


def test_one_prompt_prints_its_text(
    capsys: pytest.CaptureFixture[str], steered: FusedLM, steered_folders: list[str]
) -> None:
    found = run(capsys, "generate", *steered_folders, "--prompt", "Hello world", "--max-new-tokens", 12)
    expected = steered.generate(["Hello world"], max_new_tokens=12)[0].text
    assert found == expected.rstrip("\N{REPLACEMENT CHARACTER}") + "\n"


def test_standard_input_is_one_prompt(
    capsys: pytest.CaptureFixture[str],
    steered: FusedLM,
    steered_folders: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give(monkeypatch, "two\nlines\n")
    found = run(capsys, "generate", *steered_folders, "--max-new-tokens", 12)
    expected = steered.generate(["two\nlines"], max_new_tokens=12)[0].text
    assert found == expected.rstrip("\N{REPLACEMENT CHARACTER}") + "\n"


SAMPLED = {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 3}


@pytest.mark.parametrize("options", [{}, SAMPLED, {"stop": ["e", "\n"]}, {"batch_size": 1}])
def test_several_prompts_give_a_line_each_in_their_order(
    capsys: pytest.CaptureFixture[str], steered: FusedLM, steered_folders: list[str], options: dict[str, Any]
) -> None:
    flags = []
    for name, value in options.items():
        flags += [f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [value])]
    found = run(capsys, "generate", *steered_folders, "--prompt", *PROMPTS, "--max-new-tokens", 6, *flags)
    expected = steered.generate(PROMPTS, max_new_tokens=6, **options)
    rows = [json.loads(line) for line in found.splitlines()]
    assert [row["prompt"] for row in rows] == PROMPTS
    assert [(row["text"], row["finish_reason"], row["tokens"]) for row in rows] == [
        (row.text, row.finish_reason, len(row.token_ids)) for row in expected
    ]


@pytest.mark.parametrize(
    "text",
    [
        "".join(json.dumps({"prompt": prompt, "id": 1}) + "\n" for prompt in PROMPTS),
        "\n" + "\r\n\r\n".join(json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in PROMPTS),
        "\n".join(PROMPTS),
        "\r\n".join([*PROMPTS, "", ""]),
    ],
)
@pytest.mark.parametrize("place", ["file", "stdin"])
def test_a_file_of_prompts_is_json_or_text(
    capsys: pytest.CaptureFixture[str],
    tiny_models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    place: str,
) -> None:
    file = tmp_path / "prompts"
    file.write_bytes(text.encode())
    give(monkeypatch, text)
    source = file if place == "file" else "-"
    found = run(capsys, "generate", *folders_of(tiny_models), "--prompts", source, "--max-new-tokens", 1)
    assert [json.loads(line)["prompt"] for line in found.split("\n")[:-1]] == PROMPTS


def test_files_hold_the_continuations_and_every_token(
    capsys: pytest.CaptureFixture[str], steered: FusedLM, steered_folders: list[str], tmp_path: Path
) -> None:
    output, trace = tmp_path / "made/output.jsonl", tmp_path / "made/trace.jsonl"
    files = ["--output", output, "--trace", trace]
    printed = run(capsys, "generate", *steered_folders, "--prompt", *PROMPTS, "--max-new-tokens", 5, *files)
    expected = steered.generate(PROMPTS, max_new_tokens=5)
    assert printed == ""
    assert [row["text"] for row in read_jsonl(output)] == [row.text for row in expected]
    rows = read_jsonl(trace)
    assert [(row["prompt"], row["position"]) for row in rows] == [
        (number, position) for number, row in enumerate(expected) for position in range(len(row.token_ids))
    ]
    names = ["expert_a", "expert_b"]
    for row in rows:
        generation, position = expected[row["prompt"]], row["position"]
        assert row["token_id"] == generation.token_ids[position]
        assert row["token"] == steered.tokenizer.decode([row["token_id"]])
        assert row["weights"] == pytest.approx(dict(zip(names, generation.weights[position], strict=True)))
        assert row["expert"] == ([*names, None][generation.expert[position]])
    assert {row["expert"] for row in rows} - {None}


def test_a_streamed_prompt_has_its_files_too(
    capsys: pytest.CaptureFixture[str], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    files = ["--output", tmp_path / "output.jsonl", "--trace", tmp_path / "trace.jsonl"]
    run(capsys, "generate", *folders_of(tiny_models), "--prompt", "a", "--max-new-tokens", 3, *files)
    assert read_jsonl(tmp_path / "output.jsonl")[0]["tokens"] == 3
    assert [(row["weights"], row["expert"]) for row in read_jsonl(tmp_path / "trace.jsonl")] == [({}, None)] * 3


@pytest.fixture
def chatting(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """The large model with a chat template."""
    folder = tmp_path / "chatting"
    shutil.copytree(tiny_models["large"], folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = "<s>{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[me]"
    tokenizer.save_pretrained(folder)
    return folder


def test_a_chat_prompt_is_the_message_of_a_user(
    capsys: pytest.CaptureFixture[str], tiny_models: dict[str, Path], chatting: Path
) -> None:
    options = ["--prompt", "Hi", "Hey", "--max-new-tokens", 8]
    found = run(capsys, "generate", "--large", chatting, "--chat", *options).splitlines()
    large = FusedLM.from_folders(tiny_models["large"])
    expected = large.generate(["<s>[user]Hi[me]", "<s>[user]Hey[me]"], max_new_tokens=8)
    assert [json.loads(line)["text"] for line in found] == [row.text for row in expected]
    assert [json.loads(line)["prompt"] for line in found] == ["Hi", "Hey"]


def test_experts_have_names_that_tell_them_apart() -> None:
    assert name_experts([Path("x/a"), Path("y/b")]) == ["a", "b"]
    assert name_experts([Path("x/a"), Path("y/a")]) == ["x/a", "y/a"]
    assert len(set(name_experts([Path("a"), Path("a")]))) == 2


# Streaming


class Pieces(io.StringIO):
    """Keeps what was written at each time."""

    def __init__(self) -> None:
        super().__init__()
        self.grown: list[str] = []

    def flush(self) -> None:
        self.grown.append(self.getvalue())


def test_a_text_is_streamed_as_it_grows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    speller, pieces = make_speller("abc→defghij", ends=True), Pieces()
    monkeypatch.setattr(generate, "load_fusion", lambda arguments: speller)
    monkeypatch.setattr(sys, "stdout", pieces)
    assert cli.main(["generate", "--large", ".", "--prompt", "a", "--stop", "ghx", "hi", "--chat"][:-1]) == 0
    assert list(dict.fromkeys(pieces.grown)) == ["b", "bc", "bc→", "bc→d", "bc→de", "bc→def", "bc→defg", "bc→defg\n"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    text=st.text("ab→é", max_size=12),
    cut=st.integers(0, 2),
    stop=st.lists(st.text("ab→é", min_size=1, max_size=4), max_size=3),
)
def test_only_what_stays_is_streamed(text: str, cut: int, stop: list[str]) -> None:
    """Any text, byte by byte, perhaps ending within a character."""
    tokenizer, pieces = tiny_tokenizer(), Pieces()
    stream = Stream(pieces, stop)
    ids = tokenizer.encode(text)
    ids = ids[: len(ids) - cut] or ids
    options = DecodingOptions(max_new_tokens=max(len(ids), 1), stop=stop)
    rows = Continuations(
        [max(len(ids), 1)], options, tokenizer, {2}, lambda _, generation: stream.show(generation.text)
    )
    for token in ids:
        if rows.append(0, token, [], -1):
            break
    final = rows.all[0].text
    stream.finish(final)
    assert pieces.getvalue() == final.rstrip("\N{REPLACEMENT CHARACTER}") + "\n"
    assert all(final.startswith(grown) for grown in pieces.grown[:-1])
    assert "\N{REPLACEMENT CHARACTER}" not in pieces.getvalue()


# Scores


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    texts = [("Hello", " world"), ("", "abc"), ("2 + 2 = ", "4"), ("a", "b")]
    write_jsonl(file, [{"context": context, "continuation": text, "id": 7} for context, text in texts])
    return file


def test_scores_are_those_of_the_fusion(
    capsys: pytest.CaptureFixture[str], steered: FusedLM, steered_folders: list[str], pairs: Path, tmp_path: Path
) -> None:
    printed = run(capsys, "score", *steered_folders, "--pairs", pairs, "--batch-size", 2)
    rows = [json.loads(line) for line in printed.splitlines()]
    texts = read_jsonl(pairs)
    expected = steered.score([row["context"] for row in texts], [row["continuation"] for row in texts])
    assert [row["logprob"] for row in rows] == pytest.approx([value for value, _ in expected], abs=1e-3)
    assert [row["is_greedy"] for row in rows] == [greedy for _, greedy in expected]
    assert [row["tokens"] for row in rows] == [6, 3, 2, 1]
    run(capsys, "score", *steered_folders, "--pairs", pairs, "--batch-size", 2, "--output", tmp_path / "scores.jsonl")
    assert read_jsonl(tmp_path / "scores.jsonl") == rows


# Evaluation


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness without its own thousands of definitions, which take ten seconds to read."""
    monkeypatch.setattr(
        "lm_eval.tasks.TaskManager",
        lambda include_path, **_: TaskManager(include_path=include_path, include_defaults=False),
    )


def test_an_evaluation_prints_the_harness_table(
    capsys: pytest.CaptureFixture[str], steered_folders: list[str], tasks: Path, tmp_path: Path
) -> None:
    options = ["--include-path", tasks, "--limit", 3, "--num-fewshot", 1, "--output", tmp_path / "results.json"]
    fixed = ["--weights", "1.0,0.5", "--max-length", 500]
    printed = run(capsys, "evaluate", *steered_folders, *fixed, "--tasks", ", ".join(TASKS), *options)
    results = read_json(tmp_path / "results.json")
    for task in TASKS:
        assert re.search(rf"^\|{task} *\|", printed, re.MULTILINE)
        assert results["results"][task]
    assert results["n-samples"]["toy_choice"]["effective"] == 3
    assert results["n-shot"]["toy_choice"] == 1
    assert results["config"]["model_args"]["weights"] == [1.0, 0.5]
    for metric in ("acc", "acc_norm", "exact_match", "word_perplexity"):
        assert re.search(rf"\|{metric} *\|", printed)


@pytest.mark.usefixtures("few_tasks")
def test_unknown_tasks_are_refused_with_a_guess(
    capsys: pytest.CaptureFixture[str], tiny_models: dict[str, Path], tasks: Path
) -> None:
    options = ["evaluate", *folders_of(tiny_models), "--include-path", tasks]
    assert "toy_choice" in refuse(capsys, *options, "--tasks", "toy_words,toy_choise")
    assert "'zzz'" in refuse(capsys, *options, "--tasks", "zzz")
    assert "names no task" in refuse(capsys, *options, "--tasks", ",")


@pytest.mark.usefixtures("few_tasks")
def test_patterns_name_tasks(tasks: Path) -> None:
    assert set(evaluate._find_tasks("toy_*", tasks)[0]) == set(TASKS)


@pytest.mark.usefixtures("few_tasks")
def test_an_evaluation_refuses_what_it_can_not_do(
    capsys: pytest.CaptureFixture[str], tiny_models: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    options = ["evaluate", *folders_of(tiny_models), "--tasks", "toy_words", "--include-path"]
    assert "nowhere" in refuse(capsys, *options, tmp_path / "nowhere")
    assert "chat template" in refuse(capsys, *options, tasks, "--apply-chat-template")
    assert "max_gen_toks" in refuse(capsys, *options, tasks, "--max-length", 4)
    assert "at least 1" in refuse(capsys, *options, tasks, "--batch-size", 0)
    moved = tmp_path / "moved"
    moved.mkdir()
    text = (tasks / "toy_words.yaml").read_text(encoding="utf-8").replace("data.jsonl", "gone.jsonl")
    (moved / "toy_words.yaml").write_text(text, encoding="utf-8")
    assert "gone.jsonl" in refuse(capsys, *options, moved)


@pytest.mark.usefixtures("few_tasks")
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"test_split": "nowhere"}, "there is no 'nowhere'"),
        ({"metric_list": [{"metric": "nonsense"}]}, "one of its metrics is unknown"),
        ({"filter_list": [{"name": "a", "filter": [{"function": "nonsense"}]}]}, "Unknown filter 'nonsense'"),
        ({"num_fewshot": 99}, "num_fewshot asks for; lower it"),
        ({"num_fewshot": 99, "fewshot_config": {"sampler": "first_n"}}, "num_fewshot asks for; lower it"),
        ({"doc_to_text": "{{'a\\ud800' ~ word}}"}, "not Unicode"),
        ({"output_type": "loglikelihood_rolling", "doc_to_target": "answer", "metric_list": []}, "of type int"),
    ],
)
def test_what_is_wrong_with_a_task_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
    tiny_models: dict[str, Path],
    tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.setattr("evaluate.load", None)  # asks the network
    definition = yaml.safe_load((tasks / "toy_words.yaml").read_text(encoding="utf-8"))
    (tmp_path / "toy_words.yaml").write_text(yaml.safe_dump(definition | changed), encoding="utf-8")
    options = ["evaluate", *folders_of(tiny_models), "--tasks", "toy_words", "--include-path", tmp_path]
    assert cli.main([str(part) for part in options]) == 1
    assert words in capsys.readouterr().err.strip().split("\n")[-1]


# Bad input


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--weights", "much"], "--weights can't be 'much'"),
        (["--weights", "1e31"], "--weights must be"),
        (["--weights", "1,2,3"], "3 were given"),
        (["--rule", "guess"], "--rule must be one of grid, newton"),
        (["--selection", "guess"], "--selection must be one of"),
        (["--bounds", "2", "1"], "--bounds must hold the lower weight first"),
        (["--step", "0"], "--step must be more than 0"),
        (["--temperature", "-1"], "--temperature must be at least 0"),
        (["--top-p", "0"], "--top-p must be"),
        (["--batch-size", "0"], "--batch-size must be"),
        (["--stop", ""], "stop string"),
        (["--prompt", ""], "Prompt 1 "),
        (["--prompt", "\udcff"], "not Unicode"),
        (["--chat"], "chat template"),
        (["--base", "nowhere"], "nowhere"),
        (["--expert", "nowhere"], "nowhere"),
        (["--large", "nowhere"], "nowhere"),
        (["--large", "."], "has no config.json"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    capsys: pytest.CaptureFixture[str],
    steered_folders: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refuse(capsys, "generate", *steered_folders, "--prompt", "a", *flags)


@pytest.mark.parametrize("given", ["base", "expert"])
def test_experts_and_their_base_come_together(
    capsys: pytest.CaptureFixture[str], tiny_models: dict[str, Path], given: str
) -> None:
    other = [f"--{given}", tiny_models["base"]]
    assert "--base and --expert" in refuse(capsys, "generate", *folders_of(tiny_models), *other, "--prompt", "a")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"prompt": "a"}\n{"prompt": "b"\n', "line 2, is not JSON"),
        (b'{"prompt": "a"}\nplain\n', "line 2, is not JSON"),
        (b'{"prompt": "a"}\n\n{"text": "b"}\n', 'line 3, needs a text under "prompt"'),
        (b'{"prompt": "a"}\n["b"]\n', "line 2, needs"),
        (b'{"prompt": 1}\n', "line 1, needs"),
        (b'{"prompt": "\\ud800"}\n', "line 1, has a character"),
        (b"\xff\xfe", "not UTF-8"),
        (b"\n\n", "no prompts"),
        (b'[{"prompt": "a"},\n{"prompt": "b"}]', "one JSON list"),
        (None, "does not exist"),
    ],
)
def test_files_that_can_not_be_used_are_refused(
    capsys: pytest.CaptureFixture[str],
    tiny_models: dict[str, Path],
    tmp_path: Path,
    content: bytes | None,
    words: str,
) -> None:
    file = tmp_path / "prompts.jsonl"
    if content is not None:
        file.write_bytes(content)
    sentence = refuse(capsys, "generate", *folders_of(tiny_models), "--prompts", file)
    assert words in sentence
    assert "prompts.jsonl" in sentence or content == b"\n\n"


def test_a_byte_order_mark_is_no_text(
    capsys: pytest.CaptureFixture[str], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    printed = []
    for content in (b'{"prompt": "a"}', b'\xef\xbb\xbf{"prompt": "a"}', b"\xef\xbb\xbfa\n"):
        file.write_bytes(content)
        printed.append(run(capsys, "generate", *folders_of(tiny_models), "--prompts", file, "--max-new-tokens", 2))
    assert printed[0] == printed[1] == printed[2]


def test_two_files_have_two_names(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    same = ["--output", tmp_path / "a", "--trace", tmp_path / "b" / ".." / "a"]
    sentence = refuse(capsys, "generate", "--large", tmp_path, "--prompt", "a", *same)
    assert "a is named by --output and by --trace; name another one for each." in sentence


def test_a_folder_that_can_not_be_written_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_all(**_: object) -> str:  # root may write everywhere
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse_all)
    output = ["--output", tmp_path / "new" / "results.json"]
    sentence = refuse(capsys, "evaluate", "--large", tmp_path / "large", "--tasks", "sst2", *output)
    assert "results.json can't be written (permission denied); name another place with --output." in sentence


def test_a_folder_is_no_file(capsys: pytest.CaptureFixture[str], tiny_models: dict[str, Path], tmp_path: Path) -> None:
    assert "is a folder" in refuse(capsys, "score", *folders_of(tiny_models), "--pairs", tmp_path)


@pytest.mark.parametrize("options", [("--output",), ("--trace",)])
def test_a_folder_as_output_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...]
) -> None:
    assert "is a folder" in refuse(capsys, "generate", "--large", tmp_path, "--prompt", "a", *options, tmp_path)


def test_pairs_need_both_texts(
    capsys: pytest.CaptureFixture[str], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [{"context": "a", "continuation": "b"}, {"context": "a"}])
    sentence = refuse(capsys, "score", *folders_of(tiny_models), "--pairs", tmp_path / "pairs.jsonl")
    assert 'line 2, needs a text under "continuation"' in sentence


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("CUDA out of memory"), "GPU"),
        (OSError(28, "No space left on device"), "no space left"),
    ],
)
def test_a_full_machine_is_told_in_words(
    capsys: pytest.CaptureFixture[str],
    tiny_models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(generate, "load_fusion", fail)
    assert words in refuse(capsys, "generate", *folders_of(tiny_models), "--prompt", "a")


def test_other_errors_are_not_hidden(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, pairs: Path
) -> None:
    monkeypatch.setattr(score, "load_fusion", lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["score", *folders_of(tiny_models), "--pairs", str(pairs)])


def test_a_failure_leaves_no_file(
    capsys: pytest.CaptureFixture[str], tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "_trace", lambda *_: iter([{"prompt": 0}, object()]))
    options = ["--prompt", "a", "b", "--max-new-tokens", "1", "--trace", str(tmp_path / "trace.jsonl")]
    with pytest.raises(TypeError):
        cli.main(["generate", *folders_of(tiny_models), *options])
    assert list(tmp_path.iterdir()) == []


# The process


def start(*argv: object) -> subprocess.Popen:
    path = os.pathsep.join([str(ROOT / "workflow"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "logitfusion", *map(str, argv)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("command", "option"), [([], "fewshot"), *(([name], "--large") for name in ("generate", "score", "evaluate"))]
)
def test_help_needs_no_torch(command: list[str], option: str) -> None:
    program = (
        "import sys; from logitfusion.cli import main\n"
        "try: main([*sys.argv[1:], '--help'])\n"
        "finally: print(sorted({'torch', 'transformers', 'lm_eval', 'numpy'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
    called = [sys.executable, "-c", program, *command]
    printed = subprocess.run(called, env=environment, capture_output=True, text=True).stdout
    assert option in printed
    assert printed.endswith("[]\n")


def test_a_closed_pipe_is_silent(tiny_models: dict[str, Path]) -> None:
    process = start("generate", *folders_of(tiny_models), "--prompt", "a", "--max-new-tokens", 2000)
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == ""


def test_ctrl_c_is_silent(
    capsys: pytest.CaptureFixture[str],
    tiny_models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    # In the background of a shell Python inherits an ignored SIGINT; a user's terminal gives it the usual one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr(Stream, "show", lambda *_: signal.raise_signal(signal.SIGINT))
    assert cli.main(["generate", *folders_of(tiny_models), "--prompt", "a"]) == 130
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_a_command_line_that_is_wrong_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["generate"], ["typo"], ["score", "--larg", "x"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(argv)
        assert caught.value.code == 2
        assert "usage: logitfusion" in capsys.readouterr().err


def test_the_command_is_installed_under_its_name() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = scripts["logitfusion"].partition(":")
    assert getattr(importlib.import_module(module), function) is cli.main
