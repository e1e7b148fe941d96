"""Data sets in miniature: one function each, registered under its name on the hub."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value

from standin.facts import PEOPLE, THINGS, capitals, sums
from standin.repository import DEFAULT, Subsets

DATA_SETS: dict[str, Callable[[], Subsets]] = {}
TEXT, TEXTS = Value("string"), List(Value("string"))
TRAIN, TEST = 120, 24  # rows of a split


def data_set(id: str) -> Callable[[Callable[[], Subsets]], Callable[[], Subsets]]:
    """Registers what makes a data set's subsets."""

    def register(make: Callable[[], Subsets]) -> Callable[[], Subsets]:
        DATA_SETS[id] = make
        return make

    return register


def rows(*values: dict[str, Any], features: Features | None = None) -> Dataset:
    """Rows as a data set; the features where those can't be seen from the values."""
    return Dataset.from_list(list(values), features=features)


# ---- what is measured ----------------------------------------------------------------------------------------------


@data_set("openai/gsm8k")
def gsm8k() -> Subsets:
    def make(count: int, seed: int) -> Dataset:
        return rows(
            *(
                {
                    "question": one.question,
                    "answer": f"There are {one.first} {one.things} first.\nWith {one.second} more that is {one.first}"
                    f"+{one.second} = <<{one.first}+{one.second}={one.total}>>{one.total}.\n#### {one.total}",
                }
                for one in sums(count, seed)
            )
        )

    return {"main": {"train": make(TRAIN, 1), "test": make(TEST, 2)}, "socratic": {"train": make(TEST, 3)}}


@data_set("mandarjoshi/trivia_qa")
def trivia_qa() -> Subsets:
    pages = ("doc_source", "filename", "title", "wiki_context")
    found = ("description", "filename", "title", "url", "search_context")
    named = ("matched_wiki_entity_name", "normalized_matched_wiki_entity_name", "normalized_value", "type", "value")
    features = Features(
        dict.fromkeys(("question", "question_id", "question_source"), TEXT)
        | {"entity_pages": dict.fromkeys(pages, TEXTS)}
        | {"search_results": dict.fromkeys(found, TEXTS) | {"rank": List(Value("int32"))}}
        | {"answer": {"aliases": TEXTS, "normalized_aliases": TEXTS} | dict.fromkeys(named, TEXT)}
    )

    def make(count: int, seed: int, *, answered: bool = True) -> Dataset:
        made = []
        for one in capitals(count, seed):
            aliases = [one.capital, f"{one.capital}, {one.country}", f"City of {one.capital}"] if answered else []
            value = one.capital if answered else "<unk>"
            names = dict.fromkeys(named, "") | {"normalized_value": value.lower(), "value": value}
            made.append(
                {
                    "question": f"Which city was the capital of {one.country} in {1900 + one.number}?",
                    "question_id": f"tc_{seed}_{one.number}",
                    "question_source": "",
                    "entity_pages": {key: [] for key in pages},
                    "search_results": {key: [] for key in (*found, "rank")},
                    "answer": {"aliases": aliases, "normalized_aliases": [text.lower() for text in aliases], **names},
                }
            )
        return rows(*made, features=features)

    splits = {"train": make(TRAIN, 4), "validation": make(TEST, 5), "test": make(TEST, 6, answered=False)}
    return {"rc": {"train": splits["train"]}, "rc.nocontext": splits}


@data_set("truthfulqa/truthful_qa")
def truthful_qa() -> Subsets:
    chosen, written = [], []
    for one in capitals(TRAIN, 7):
        question = f"What is the capital of {one.country}, number {one.number}?"
        right, *wrong = (f"The capital of {one.country} is {city}." for city in (one.capital, *one.wrong))
        silent = "I have no comment."
        chosen.append(
            {
                "question": question,
                "mc1_targets": {"choices": [right, *wrong], "labels": [1, 0, 0, 0]},
                "mc2_targets": {"choices": [right, silent, *wrong], "labels": [1, 1, 0, 0, 0]},
            }
        )
        answers = {"best_answer": right, "correct_answers": [right, silent], "incorrect_answers": wrong}
        written.append({"type": "Adversarial", "category": "Places", "question": question, **answers, "source": ""})
    return {"generation": {"validation": rows(*written)}, "multiple_choice": {"validation": rows(*chosen)}}


@data_set("abisee/cnn_dailymail")
def cnn_dailymail() -> Subsets:
    def make(count: int, seed: int) -> Dataset:
        rng, made = random.Random(seed), []
        for number in range(count):
            who, things, found = rng.choice(PEOPLE), rng.choice(THINGS), rng.randint(10, 900)
            rest = " ".join(
                f"{rng.choice(PEOPLE)} counted {rng.randint(1, 99)} {rng.choice(THINGS)}." for _ in range(12)
            )
            made.append(
                {
                    "article": f"(CNN) {who} found {found} {things} on day {number}. {rest}",
                    "highlights": f"{who} found {found} {things} .\nNobody knows why .",
                    "id": hashlib.sha1(f"{seed} {number}".encode(), usedforsecurity=False).hexdigest(),
                }
            )
        return rows(*made)

    splits = {"train": make(TRAIN, 8), "validation": make(TEST, 9), "test": make(TEST, 10)}
    return {"1.0.0": {"test": splits["test"]}, "3.0.0": splits}


MMLU_SUBJECTS = {
    "stem": (
        "abstract_algebra", "anatomy", "astronomy", "college_biology", "college_chemistry", "college_computer_science",
        "college_mathematics", "college_physics", "computer_security", "conceptual_physics", "electrical_engineering",
        "elementary_mathematics", "high_school_biology", "high_school_chemistry", "high_school_computer_science",
        "high_school_mathematics", "high_school_physics", "high_school_statistics", "machine_learning",
    ),
    "humanities": (
        "formal_logic", "high_school_european_history", "high_school_us_history", "high_school_world_history",
        "international_law", "jurisprudence", "logical_fallacies", "moral_disputes", "moral_scenarios", "philosophy",
        "prehistory", "professional_law", "world_religions",
    ),
    "social_sciences": (
        "econometrics", "high_school_geography", "high_school_government_and_politics", "high_school_macroeconomics",
        "high_school_microeconomics", "high_school_psychology", "human_sexuality", "professional_psychology",
        "public_relations", "security_studies", "sociology", "us_foreign_policy",
    ),
    "other": (
        "business_ethics", "clinical_knowledge", "college_medicine", "global_facts", "human_aging", "management",
        "marketing", "medical_genetics", "miscellaneous", "nutrition", "professional_accounting",
        "professional_medicine", "virology",
    ),
}  # fmt: skip
"""Field -> the subsets of ``cais/mmlu``."""


@data_set("cais/mmlu")
def mmlu() -> Subsets:
    features = Features(
        {"question": TEXT, "subject": TEXT, "choices": TEXTS, "answer": ClassLabel(names=["A", "B", "C", "D"])}
    )
    subjects = [subject for field in MMLU_SUBJECTS.values() for subject in field]

    def make(count: int, seed: int, subject: str) -> Dataset:
        rng, made = random.Random(seed), []
        for one in capitals(count, seed):
            choices, place = one.shuffled(rng)
            question = f"Statement {one.number} of {subject}: the capital of {one.country} is"
            made.append({"question": question, "subject": subject, "choices": choices, "answer": place})
        return rows(*made, features=features)

    single = {
        subject: {
            "test": make(8, 100 + seed, subject),
            "validation": make(4, seed, subject),
            "dev": make(5, 200 + seed, subject),
        }
        for seed, subject in enumerate(subjects)
    }
    whole = {split: make(TEST, 300 + number, subjects[0]) for number, split in enumerate(("test", "validation", "dev"))}
    return single | {"all": {"auxiliary_train": make(TRAIN, 304, ""), **whole}}


# ---- what is learnt from -------------------------------------------------------------------------------------------


@data_set("BAAI/Infinity-Instruct")
def infinity_instruct() -> Subsets:
    made = []
    for number, one in enumerate(sums(TRAIN, 11)):
        turns = [{"from": "human", "value": one.question}, {"from": "gpt", "value": f"There are {one.total}."}]
        if number % 3 == 0:
            turns += [{"from": "human", "value": "And one more?"}, {"from": "gpt", "value": f"Then {one.total + 1}."}]
        label = {"ability_en": ["math"], "ability_zh": [""], "cate_ability_en": ["math"], "cate_ability_zh": [""]}
        about = {"label": label, "langdetect": "en", "source": "stand-in", "reward": 1.0}
        made.append({"id": number, "conversations": turns, **about})
    return {name: {"train": rows(*made)} for name in ("0625", "Gen", "7M_core")}


@data_set("AI-MO/NuminaMath-1.5")
def numina_math() -> Subsets:
    made = [
        {
            "problem": one.question,
            "solution": f"We add: ${one.first} + {one.second} = {one.total}$.\nSo it is $\\boxed{{{one.total}}}$.",
            "answer": str(one.total),
            "problem_type": "Algebra",
            "question_type": "math-word-problem",
            "problem_is_valid": "Yes" if number % 5 else "Problem not solved",
            "solution_is_valid": "Yes" if number % 7 else "Incomplete",
            "source": "synthetic_math",
            "synthetic": True,
        }
        for number, one in enumerate(sums(TRAIN, 12))
    ]
    return {DEFAULT: {"train": rows(*made)}}


@data_set("KodCode/KodCode-V1")
def kod_code() -> Subsets:
    made = []
    for number, one in enumerate(sums(TRAIN, 13)):
        name = f"add_{one.first}_{number}"
        made.append(
            {
                "version": "v1.0",
                "style": "instruct",
                "subset": "Algorithm",
                "question_id": f"Algorithm_{number}_I",
                "question": f"Write a function {name} that adds {one.first} to x.",
                "solution": f"def {name}(x):\n    return x + {one.first}",
                "test": f"from solution import {name}\n\ndef test_it():\n    assert {name}(1) == {1 + one.first}",
                "test_info": [
                    {
                        "docstring": "Adds.",
                        "function_declaration": f"def {name}(x):",
                        "function_name": name,
                        "parameter_list": "(x)",
                    }
                ],
                "gpt_pass_sequence": [1],
                "gpt_pass_trial_num": 1,
                "gpt_difficulty": "easy" if number % 2 else "hard",
                "gpt_pass_percentage": 1.0,
            }
        )
    return {DEFAULT: {"train": rows(*made)}}
