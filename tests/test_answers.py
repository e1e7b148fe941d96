"""Answers of our library's definitions: texts that are right, wrong, or no answer at all."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import lm_eval.tasks  # noqa: F401, its registries are filled by the import
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lm_eval.api.filter import FilterEnsemble
from lm_eval.filters import build_filter_ensemble
from lm_eval.tasks._yaml_loader import _load_module_with_cache, load_yaml

from logitfusion.tasks.definition import LIBRARY

INVALID = "[invalid]"
WORDS = st.text("bcdfghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8)
OURS = (  # those that judge with our own filters
    "sst2_reviews", "sums", "common_knowledge", "sciq_passages", "conclusions", "last_words", "relatives",
    "returned_code", "sorted_numbers",
)  # fmt: skip


def answers() -> ModuleType:
    """The module that definitions name, as the harness loads it."""
    return _load_module_with_cache(LIBRARY / "answers.py")


@functools.cache
def read(name: str) -> dict[str, Any]:
    return load_yaml(LIBRARY / f"{name}.yaml")


def judge(name: str, text: str, gold: str) -> tuple[str, bool]:
    """What the harness finds in a text, and whether its first metric calls that right."""
    definition = read(name)
    (chain,), (metric, *_) = definition["filter_list"], definition["metric_list"]
    components = [[step["function"], {k: v for k, v in step.items() if k != "function"}] for step in chain["filter"]]
    found = apply(build_filter_ensemble(chain["name"], components), text)
    return found, bool(metric["metric"](references=[gold], predictions=[found]))


def apply(chain: FilterEnsemble, text: str) -> Any:
    """A chain of filters on one text."""
    responses: Any = [[text]]
    for step in chain.filters:
        responses = step().apply(responses, [{}])
    (found,) = responses
    return found


@pytest.mark.parametrize("name", OURS)
@given(text=st.text())
@example(text="٣")
@example(text="1" * 400)
@example(text="-")
@example(text="1,,.5")
@example(text="[invalid]")
def test_no_text_breaks_the_judgement(name: str, text: str) -> None:
    found, right = judge(name, text, "negative" if name == "sst2_reviews" else "1,234.5")
    assert isinstance(found, str)
    assert not (found == INVALID and right)


@pytest.mark.parametrize("name", OURS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_gold_completion_is_right(name: str, data: st.DataObject) -> None:
    """The completion that an expert learns, however it goes on after a stop string, must be judged right."""
    words = 1 if name in ("relatives", "last_words") else 5
    texts = st.lists(WORDS, min_size=1, max_size=words).map(" ".join)
    numbers = st.one_of(st.integers(), st.integers(-9999, 9999).map(lambda value: f"{value:,}")).map(str)
    golds = {"sst2_reviews": st.sampled_from(["negative", "positive"]), "sums": numbers}
    gold = data.draw(golds.get(name, texts))
    _, right = judge(name, f" {gold}" + data.draw(st.sampled_from(["", "\nQ"])), gold)
    assert right


@pytest.mark.parametrize("gold", ["St. Petersburg", "J. K. Rowling", "Dr. Smith", "A", "H2O.", "U.S. Navy"])
def test_a_gold_text_with_points_or_articles_is_right(gold: str) -> None:
    assert judge("common_knowledge", f" {gold}", gold)[1]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("positive", "positive"),
        (" Positive.\nReview", "positive"),
        ("\n\n NEGATIVE!", "negative"),
        ("positively", INVALID),
        ("It is positive", INVALID),
        ("neither\npositive", INVALID),
        ("", INVALID),
    ],
)
def test_choices(text: str, answer: str) -> None:
    assert judge("sst2_reviews", text, "positive") == (answer, answer == "positive")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 12", "12"),
        ("-3", "-3"),
        ("1,234,567 km", "1234567"),
        ("2.50", "2.50"),
        ("4.", "4"),
        ("12\n13", "12"),
        ("\n\n12", "12"),
        ("the 5", INVALID),
        ("", INVALID),
        ("--3", INVALID),
    ],
)
def test_numbers(text: str, answer: str) -> None:
    assert judge("sums", text, "12") == (answer, answer == "12")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" The Blue  Whale.", "blue whale"),
        ("blue; or green", "blue or green"),
        ("blue\nQuestion: and?", "blue"),
        ("it has a colour that is blue, I think", INVALID),
        ("...", "..."),
        ("", INVALID),
    ],
)
def test_texts(text: str, answer: str) -> None:
    assert judge("common_knowledge", text, "the blue whale") == (answer, answer == "blue whale")


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        (" a + b\n\ndef", "a + b", True),
        ("a+b", "a+b", True),
        (" a - b", "a - b", False),
        (" A + B", "A + B", False),
        ("", INVALID, False),
    ],
)
def test_code(text: str, answer: str, right: bool) -> None:
    assert judge("returned_code", text, "a + b") == (answer, right)


@pytest.mark.parametrize("text", ["10, 23, 42", "10,23,42", " 10, 23, 42\nNumbers: 7"])
def test_lists_in_the_right_order(text: str) -> None:
    assert judge("sorted_numbers", text, "10, 23, 42")[1]
    assert not judge("sorted_numbers", text, "10, 42, 23")[1]


@pytest.mark.parametrize(
    ("said", "share"),
    [
        ("10, 23, 42", 1.0),
        ("10,42, 23", 1 / 3),
        ("10, 23", 2 / 3),
        ("10, 23, 42, 7", 3 / 4),
        (INVALID, 0.0),
        (",,", 0.0),
    ],
)
def test_right_places_of_a_list(said: str, share: float) -> None:
    assert answers().right_places(["10, 23, 42"], [said]) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Gregor.\nHe", "Gregor"),
        ("Gregor's", "Gregor's"),
        ("“well-known”, he", "well-known"),
        (" 42 of", "42"),
        ("...", INVALID),
        ("", INVALID),
    ],
)
def test_first_words(text: str, answer: str) -> None:
    assert judge("last_words", text, "Gregor") == (answer, answer == "Gregor")


@given(st.integers(), st.integers())
@example(2**53, 2**53 + 1)
@example(10**400, 10**401)
def test_two_whole_numbers_are_equal_only_if_they_are(one: int, other: int) -> None:
    assert judge("sums", f" {one}", f"{other:,}")[1] == (one == other)


def test_numbers_are_equal_by_value() -> None:
    assert judge("sums", "7.0", "7")[1]
    assert judge("sums", "1,000", "1000.00")[1]


def test_metrics_have_the_names_that_tables_use() -> None:
    """The harness reports a function under its own name."""
    named = (answers().accuracy, answers().exact_match, answers().equal_numbers)
    assert [metric.__name__ for metric in named] == ["accuracy", "exact_match", "exact_match"]
