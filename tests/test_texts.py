"""Texts to learn from: which rows become texts, and how sources are mixed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from checkout import ROOT
from hub_fixture import ask_standin
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.utils import apply_template
from pydantic import ValidationError

from logitfusion.config.errors import explain
from logitfusion.config.load import resolve_config
from logitfusion.config.section import canonical, parse
from logitfusion.config.texts import FileTexts, HubTexts, TextTask
from logitfusion.errors import UserError
from logitfusion.files import read_jsonl
from logitfusion.tasks.candidates import survey
from logitfusion.tasks.conversations import UnusableError, read_turns
from logitfusion.tasks.formatting import make_field
from logitfusion.tasks.hub_rows import fetch_rows
from logitfusion.tasks.mixtures import apportion, write_mixture
from logitfusion.tasks.streaming import Source


def write_lines(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def chat(*contents: Any, layout: str = "role", system: str | None = None) -> list[dict[str, str]]:
    """A conversation that the user begins."""
    roles, text = (("user", "assistant"), "content") if layout == "role" else (("human", "gpt"), "value")
    turns = [{layout: roles[number % 2], text: content} for number, content in enumerate(contents)]
    return ([{layout: "system", text: system}] if system else []) + turns


# ---- conversations ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_both_layouts_are_one_conversation(system: str | None) -> None:
    contents = ("Hello", "Hi", "More", "No")
    expected = chat(*contents, system=system)
    assert read_turns(expected) == expected
    assert read_turns(chat(*contents, layout="from", system=system)) == expected
    assert read_turns(chat(*contents, "What follows has no answer", system=system)) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no list of turns"),
        ("Hello", "no list of turns"),
        ([], "no answer"),
        (chat("Hello"), "no answer"),
        (chat("Hello", system="Be brief."), "no answer"),
        ([{"role": "assistant", "content": "Hi"}], "turns that do not alternate"),
        (chat("Hello", "Hi") + chat("a", "b")[1:], "turns that do not alternate"),
        (chat("Hello", "Hi") + chat("a", "b", system="Late"), "turns that do not alternate"),
        (chat("Hello", " \n"), "a turn without text"),
        (chat("Hello", None), "a turn without text"),
        (chat("Hello", "\ud800"), "characters that are not Unicode"),
        ([{"role": "tool", "content": "7"}], "a turn of the role 'tool'"),
        ([{"speaker": "user", "text": "Hello"}], "a turn that is neither"),
        (["Hello", "Hi"], "a turn that is neither"),
    ],
)
def test_what_no_template_can_write_is_left_out_with_its_reason(value: Any, reason: str) -> None:
    with pytest.raises(UnusableError, match=reason):
        read_turns(value)


# ---- prompts and completions -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "template",
    [
        "{{question}}",
        "Q: {{question.strip()}}\n",
        "{% if extra %}{{extra}} {% endif %}{{choices.text[1]}}",
        "{% for one in choices.text %}{{loop.index}}. {{one}}\n{% endfor %}",
        "{{question | trim | regex_replace('W(.)', 't')}}",
        "{% for place in range(2) %}{{choices.text[place]}}{% endfor %}",
    ],
)
def test_templates_are_those_of_the_harness(template: str) -> None:
    row = {"question": " What? ", "extra": None, "choices": {"text": ["a", "b"]}, "unused": 1}
    field = make_field(template)
    assert set(field.columns) <= {"question", "extra", "choices"}
    needed = {name: row[name] for name in field.columns}
    assert field.read(needed) == apply_template(template, row)


def test_nothing_is_never_written_as_a_word() -> None:
    for spec, row in (
        ("{{a}}", {"a": None}),
        ("{{a.b}}", {"a": {}}),
        ("a", {"a": None}),
        ("a", {"a": ["x"]}),
        ("{{a + 1}}", {"a": "1"}),
    ):
        with pytest.raises(UnusableError):
            make_field(spec).read(row)
    assert make_field("a").read({"a": 7}) == "7"


# ---- filters ---------------------------------------------------------------------------------------------------------
ROWS = [
    {"q": "one", "a": "1", "kind": "x", "good": True},
    {"q": "two", "a": "2", "kind": "y", "good": False},
    {"q": "three", "a": "3", "kind": None, "good": 1},
    {"q": "four", "a": "", "kind": "x", "good": True},
    {"q": "fifteen letters", "a": "5", "kind": "x", "good": True},
]


def pick(tmp_path: Path, rows: Sequence[Any] = ROWS, **reading: Any) -> tuple[list[int], dict[str, int]]:
    """The numbers of the rows that are texts, and why others are not."""
    path = write_lines(tmp_path / "rows.jsonl", rows)
    entry = FileTexts.model_validate({"path": path, "prompt": "q", "completion": "a", **reading})
    found = survey(Source(entry))
    return found.numbers.tolist(), dict(found.left_out)


@pytest.mark.parametrize(
    ("reading", "numbers"),
    [
        ({}, [0, 1, 2, 4]),
        ({"where": {"kind": "x"}}, [0, 4]),
        ({"where": {"kind": ["x", "y"]}}, [0, 1, 4]),
        ({"where": {"kind": None}}, [2]),
        ({"where": {"good": True}}, [0, 4]),
        ({"where": {"good": 1}}, [2]),
        ({"where": {"kind": "x", "good": [True, False]}}, [0, 4]),
        ({"min_chars": 5}, [2, 4]),
        ({"max_chars": 5}, [0, 1]),
        ({"min_chars": 6, "max_chars": 6}, [2]),
    ],
)
def test_filters_keep_what_they_say(reading: dict[str, Any], numbers: list[int], tmp_path: Path) -> None:
    found, left_out = pick(tmp_path, **reading)
    assert found == numbers
    assert sum(left_out.values()) == len(ROWS) - len(numbers)


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        ({"where": {"kind": ["x", "z"]}}, """No row of .*rows.jsonl has "z" in the column 'kind'.*"x", "y", null"""),
        ({"where": {"good": [1, True, 0]}}, "has 0 in the column 'good'"),
        ({"where": {"good": "Yes"}}, 'has "Yes" in the column .*true, false, 1'),
        ({"where": {"kin": "x"}}, "line 1, has no field 'kin' .it has q, a, kind, good.; correct"),
        ({"prompt": "{{question}}"}, "line 1, has no field 'question'"),
        ({"min_chars": 99}, "no texts to learn from .4 have fewer characters than min_chars, 1 have no text"),
    ],
)
def test_a_filter_that_can_not_be_meant_is_refused(reading: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        pick(tmp_path, **reading)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"q": "a", "a": "b"}\n{"q": \n', r"rows.jsonl, line 2, is not JSON"),
        (b'\n["q"]\n', r"rows.jsonl, line 2, is no JSON object"),
        (b'{"q": "\xff"}\n', r"is not UTF-8"),
        (b"", r"no texts to learn from .it is empty"),
        (None, r"rows.jsonl does not exist"),
    ],
)
def test_a_file_that_can_not_be_read_is_one_sentence(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        survey(Source(FileTexts(path=str(path), prompt="q", completion="a")))
    assert "\n" not in str(caught.value)


# ---- the config ------------------------------------------------------------------------------------------------------
PART = {"path": "rows.jsonl", "prompt": "q", "completion": "a"}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([PART | {"completion": None}], "'texts.0' must name its column of messages, or its prompt and completion"),
        ([PART | {"messages": "chat"}], "'texts.0' must name its column of messages, or"),
        ([PART | {"prompt": "{{q"}], "'texts.0.prompt' is a template that Jinja can't read"),
        (
            [PART | {"completion": "{{a | shout}}"}],
            "'texts.0.completion' is a template that Jinja can't read (No filter",
        ),
        ([PART | {"where": {"kind": []}}], "'texts.0.where.kind' must be a value of the column, or a list"),
        ([PART | {"where": {"kind": {"not": 1}}}], "'texts.0.where.kind' must be a value of the column, or a list"),
        ([PART | {"min_chars": 3, "max_chars": 2}], "a min_chars above its max_chars"),
        ([PART | {"share": 0.5}, PART], "give each a share, or none"),
        ([PART | {"share": 0.5}, PART | {"share": 0.4}], "shares that sum to 0.9; they must sum to 1"),
        ([PART | {"columns": "q"}], "unknown key 'columns'"),
        ([{"dataset": "a/b", "split": "train[:9]", "messages": "chat"}], "'texts.0.split' is 'train"),
    ],
)
def test_a_config_that_means_nothing_is_refused(parts: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TextTask.model_validate({"texts": parts, "train": 1})
    assert words in explain(caught.value)


def test_a_task_reaches_its_stage_as_it_was_written() -> None:
    parts = [PART | {"where": {"a": 1, "b": [True, None, "x", 0.5]}}, {"dataset": "a/b", "split": "x", "messages": "m"}]
    task = TextTask.model_validate({"texts": parts, "train": 1})
    assert parse(TextTask, canonical(task)) == task
    assert list(map(type, task.texts)) == [FileTexts, HubTexts]


# ---- mixtures --------------------------------------------------------------------------------------------------------
@given(st.integers(0, 10**6), st.lists(st.integers(1, 10**6), min_size=1, max_size=6))
def test_sizes_are_the_nearest_whole_numbers(count: int, shares: list[int]) -> None:
    sizes = apportion(count, shares)
    assert sum(sizes) == count
    assert all(abs(size - count * share / sum(shares)) < 1 for size, share in zip(sizes, shares, strict=True))


@pytest.fixture
def files(tmp_path: Path) -> list[dict[str, Any]]:
    """Two files; 20 of the first one's prompts stand twice in it, 10 of the second's in the first too."""
    first = [{"q": f"Question {number % 80}", "a": str(number)} for number in range(100)]
    second = [{"chat": chat(f" question  {number}\n", "Yes", "And?", "No")} for number in range(70, 130)]
    return [
        {"path": write_lines(tmp_path / "first.jsonl", first), "prompt": "q", "completion": "a"},
        {"path": write_lines(tmp_path / "second.jsonl", second), "messages": "chat"},
    ]


def mix(folder: Path, parts: Sequence[dict[str, Any]], shares: Sequence[float] = (0.6, 0.4), **keys: Any) -> Any:
    """Both splits and what became of each source, of a mixture."""
    texts = [part | {"share": share} for part, share in zip(parts, shares, strict=True)] if shares else list(parts)
    task = TextTask.model_validate({"texts": texts, "train": 50, "validation": 10, **keys})
    sources = [Source(entry) for entry in task.texts]
    folder.mkdir(exist_ok=True)
    told = write_mixture(task, sources, folder / "train.jsonl", folder / "validation.jsonl")
    return read_jsonl(folder / "train.jsonl"), read_jsonl(folder / "validation.jsonl"), told


def prompt_of(text: dict[str, Any]) -> str:
    prompt = text["messages"][0]["content"] if "messages" in text else text["prompt"]
    return " ".join(prompt.split()).lower()


def count_by_source(texts: Sequence[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(text["id"].partition(":")[0] for text in texts))


def ids(texts: Sequence[dict[str, Any]]) -> set[str]:
    return {text["id"] for text in texts}


def test_a_mixture_has_its_shares_and_no_prompt_twice(files: list[dict[str, Any]], tmp_path: Path) -> None:
    train, validation, told = mix(tmp_path / "out", files)
    assert (count_by_source(train), count_by_source(validation)) == ({"1": 30, "2": 20}, {"1": 6, "2": 4})
    prompts = [prompt_of(text) for text in (*train, *validation)]
    assert len(set(prompts)) == len(prompts) == len(ids(train) | ids(validation)) == 60
    assert [(one["rows"], one["texts"], one["train"], one["validation"]) for one in told] == [
        (100, 80, 30, 6),
        (60, 50, 20, 4),
    ]
    assert all(text["completion"] == f" {int(text['id'][2:])}" for text in train if text["id"][0] == "1")
    order = [text["id"][0] for text in train]
    assert order != sorted(order), "whoever reads the first of the file reads both"


def test_without_shares_all_rows_are_equally_likely(files: list[dict[str, Any]], tmp_path: Path) -> None:
    train, validation, _ = mix(tmp_path / "out", files, (), train=120, validation=10)
    assert (count_by_source(train), count_by_source(validation)) == ({"1": 74, "2": 46}, {"1": 6, "2": 4})


def test_more_texts_move_none_of_the_earlier_ones(files: list[dict[str, Any]], tmp_path: Path) -> None:
    few, more = (mix(tmp_path / str(count), files, train=count) for count in (50, 90))
    assert few[1] == more[1]
    assert ids(few[0]) < ids(more[0])
    assert mix(tmp_path / "again", files) == few
    other = mix(tmp_path / "seed", files, seed=1)
    assert ids(other[0]) != ids(few[0])
    assert ids(other[1]) != ids(few[1])


def test_repeated_prompts_stay_on_one_side(files: list[dict[str, Any]], tmp_path: Path) -> None:
    train, validation, told = mix(tmp_path / "out", files, distinct=False, train=60, validation=30)
    assert not {*map(prompt_of, train)} & {*map(prompt_of, validation)}
    assert len({*map(prompt_of, train)}) < len(train), "but each may be there several times"
    assert [one["texts"] for one in told] == [100, 60]


def test_too_few_texts_are_one_sentence(files: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"asks for 88 texts of \S+second.jsonl, which has 50 in 60 rows; lower train"):
        mix(tmp_path / "out", files, (0.2, 0.8), train=100)
    assert not (tmp_path / "out/train.jsonl").exists()


def test_the_tutorial_prints_what_its_config_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/tutorials/texts.md").read_text(encoding="utf-8")
    printed = re.search(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    written = dict(re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END", page, re.MULTILINE | re.DOTALL))
    for name in ("data/chats.jsonl", "data/sums.jsonl"):
        Path(name).write_text(written[name], encoding="utf-8")
    task = resolve_config(yaml.safe_load(written["config/garden.yaml"])).tasks["garden"]
    write_mixture(task, [Source(entry) for entry in task.texts], Path("train.jsonl"), Path("validation.jsonl"))
    assert Path("train.jsonl").read_text(encoding="utf-8") == printed


# ---- data sets of the hub --------------------------------------------------------------------------------------------
def test_texts_of_the_hub_are_those_of_their_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        {"conversations": chat(f"Hello {n}", "Hi", layout="from"), "lang": "en" if n % 3 else "zh", "n": n}
        for n in range(2500)
    ]
    for number, part in enumerate((rows[:1700], rows[1700:])):
        datasets.Dataset.from_list(part).to_parquet(tmp_path / f"{number}.parquet")
    lines = "".join(json.dumps({"problem": f"{n} + 1", "answer": n + 1}) + "\n" for n in range(50))
    parts = [
        {"dataset": "lab/chats", "split": "train+test", "messages": "conversations", "where": {"lang": "en"}},
        {"dataset": "lab/sums", "split": "train", "prompt": "{{problem}} =", "completion": "answer"},
    ]
    task = TextTask.model_validate({"texts": parts, "train": 1600, "validation": 60})
    with ask_standin(monkeypatch, tmp_path) as hub:
        names = {
            f"{split}.parquet": (tmp_path / f"{n}.parquet").read_bytes() for n, split in enumerate(("train", "test"))
        }
        hub.add("lab/chats", names, kind="datasets")
        hub.add("lab/sums", {"train.jsonl": lines}, kind="datasets")
        fetched = [fetch_rows(entry.hub_rows, tmp_path / "revisions") for entry in task.texts]
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub.asked.clear()
        sources = [Source(entry, one) for entry, one in zip(task.texts, fetched, strict=True)]
        told = write_mixture(task, sources, tmp_path / "train.jsonl", tmp_path / "validation.jsonl")
        assert not hub.asked
        with pytest.raises(UserError, match=r"'lab/chats' has no column 'chat' .it has conversations, lang, n."):
            survey(Source(task.texts[0].model_copy(update={"messages": "chat"}), fetched[0]))
    assert [(one["dataset"], one["rows"], one["texts"]) for one in told] == [
        ("lab/chats", 2500, 1666),
        ("lab/sums", 50, 50),
    ]
    for text in read_jsonl(tmp_path / "train.jsonl") + read_jsonl(tmp_path / "validation.jsonl"):
        place, number = map(int, text.pop("id").split(":"))
        assert text == (
            {"messages": chat(f"Hello {number}", "Hi")}
            if place == 1
            else {"prompt": f"{number} + 1 =", "completion": f" {number + 1}"}
        )
