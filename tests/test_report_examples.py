"""The examples of a page: columns, outcomes, thousandths, and what is kept where not all fit."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.report.index.examples import examples_sections, packed_size
from logitfusion.report.index.text_examples import TextExamples, cut_texts, encode_texts
from logitfusion.report.style import COLOURS, assign_colours, save_figure


def make_source(**counts: int) -> TextExamples:
    """Task -> how many examples; nothing steers ``alone``, two experts steer ``steered``."""
    judged = {}
    for task, count in counts.items():
        rows = [
            {"method": method, "subtask": "t", "id": number, "prompt": f"p{number}", "gold": "g",
             "text": "a b" if number else "é", "answer": None if number % 3 == 2 else "x",
             "correct": number % 3 == 0, "format_failure": number % 3 == 2,
             "tokens": ["a", " b"], "weights": [[0.12345, 1.0], [0.0, 2.0]] if method == "steered" else [[], []],
             "expert": [0, -1], "seconds": 1.0}
            for method in ("alone", "steered") for number in reversed(range(count))
        ]  # fmt: skip
        judged[task] = pd.DataFrame(rows)
    experts = {task: {"steered": ("one", "two")} for task in counts}
    return TextExamples("T", "N", judged, ("alone", "steered", "absent"), experts, assign_colours(("one", "two")))


def test_columns_are_by_id_with_each_prompt_once() -> None:
    columns = encode_texts(make_source(t=4), "t")
    assert columns["id"] == [0, 1, 2, 3]
    assert columns["prompt"] == ["p0", "p1", "p2", "p3"]
    assert list(columns["methods"]) == ["alone", "steered"]
    steered = columns["methods"]["steered"]
    assert steered["outcome"] == "rwnr"
    assert steered["answer"] == ["x", "x", None, "x"]
    assert steered["weights"][0] == [123, 1000, 0, 2000]
    assert steered["expert"][0] == [0, -1]


def test_a_text_is_kept_unless_its_tokens_spell_it() -> None:
    columns = encode_texts(make_source(t=2), "t")
    assert columns["methods"]["steered"]["text"] == ["é", None]
    assert columns["methods"]["alone"]["text"] == ["é", "a b"]
    assert "tokens" not in columns["methods"]["alone"]


def test_the_first_of_each_task_are_kept_as_many_as_fit() -> None:
    source = make_source(large=400, small=5)
    (whole,) = examples_sections([source], full_page="full")
    assert [part["shown"] for part in whole.data["examples"]["tracks"][0]["parts"]] == [400, 5]
    room = 1500
    (cut,) = examples_sections([source], full_page="full", most_bytes=room)
    large, small = cut.data["examples"]["tracks"][0]["parts"]
    assert (small["shown"], small["total"], large["total"]) == (5, 5, 400)
    kept = cut.data[large["data"]]
    assert kept["id"] == list(range(large["shown"]))
    assert 5 < large["shown"] < 400
    assert sum(packed_size(cut.data[part["data"]]) for part in (large, small)) <= room
    more = cut_texts(encode_texts(source, "large"), large["shown"] + 1)
    assert packed_size(more) + packed_size(cut.data[small["data"]]) > room


def test_no_examples_are_no_section() -> None:
    assert examples_sections([], full_page="full") == []


def test_colours_are_by_place_and_differ() -> None:
    names = [f"n{place}" for place in range(len(COLOURS))]
    shades = assign_colours(names)
    assert len(set(shades.values())) == len(names)
    assert assign_colours([*names, "more"])["n3"] == shades["n3"]


def test_a_drawing_is_one_picture_with_a_name_and_a_description(tmp_path: Path) -> None:
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    save_figure(figure, tmp_path / "plot.svg", "A < B", "a line & more")
    text = (tmp_path / "plot.svg").read_text()
    assert re.search(r'<svg role="img" aria-label="A &lt; B"', text)
    assert "<title>A &lt; B</title>" in text
    assert "<desc>a line &amp; more</desc>" in text
    assert "date" not in text
