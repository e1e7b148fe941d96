"""Our definitions of the papers' tasks say what the harness's own say, and differ where they say so."""

from __future__ import annotations

import pytest
from lm_eval.tasks.cnn_dailymail import utils as theirs
from lm_eval.utils import apply_template

from logitfusion.tasks.definition import LIBRARY, read_definition
from logitfusion.tasks.find import HARNESS
from logitfusion.tasks.library.rouge import rouge2

PAIRS = {
    "cnn_dailymail_rouge2": HARNESS / "cnn_dailymail/cnn_dailymail.yaml",
    "truthfulqa_mc1_0shot": HARNESS / "truthfulqa/truthfulqa_mc1.yaml",
    "mmlu_all": HARNESS / "mmlu/default/mmlu_anatomy.yaml",
}


def read(name: str) -> tuple[dict, dict]:
    """Our definition and the harness's."""
    return read_definition(LIBRARY / f"{name}.yaml").content, read_definition(PAIRS[name]).content


@pytest.mark.parametrize("name", PAIRS)
def test_data_and_answers_are_those_of_the_harness(name: str) -> None:
    mine, its = read(name)
    for key in ("dataset_path", "output_type", "doc_to_target", "doc_to_choice"):
        assert mine.get(key) == its.get(key), key
    evaluated = [one.get("test_split") or one.get("validation_split") for one in (mine, its)]
    assert evaluated[0] == evaluated[1]
    assert mine.get("num_fewshot", 0) == 0
    assert mine["training_split"] is not None


def test_prompts_are_those_of_the_harness_where_they_are_0_shot() -> None:
    news, subject = {"article": "Text."}, {"question": " Why? ", "choices": list("abcd")}
    for name, document in (("cnn_dailymail_rouge2", news), ("mmlu_all", subject)):
        mine, its = read(name)
        assert apply_template(mine["doc_to_text"], document) == apply_template(its["doc_to_text"], document)


def test_truthfulqa_loses_its_examples_and_nothing_else() -> None:
    mine, its = (apply_template(one["doc_to_text"], {"question": "Why?"}) for one in read("truthfulqa_mc1_0shot"))
    assert its.endswith(f"\n\n{mine}")
    assert its.count("Q: ") == 7


@pytest.mark.parametrize(
    "text",
    [
        "Tom found 31 coins .\nNobody knows why .",
        "tom finds  31 coins",
        "Nothing alike here",
        "",
        "coins 31 found Tom, and nobody knows why; nobody knows why.",
    ],
)
def test_rouge_2_is_the_harnesss(text: str) -> None:
    reference = "Tom found 31 coins .\nNobody knows why ."
    assert rouge2([reference], [text]) == theirs.process_results({"highlights": reference}, [text])["rouge2"]


def test_rouge_2_by_hand() -> None:
    """Three of the prediction's four bigrams are among the reference's three: F = 2 (3/4) (3/3) / (3/4 + 3/3)."""
    assert rouge2(["one two three four"], ["one two three four five"]) == pytest.approx(6 / 7)
    assert rouge2(["the dogs run"], ["the dog runs"]) == 1, "words are stemmed"
