"""Further benchmarks of the harness in miniature, registered as those of ``data_sets``."""

from __future__ import annotations

import random
from collections.abc import Iterator

from datasets import Dataset, Features, List

from standin.data_sets import TEST, TEXT, TEXTS, TRAIN, data_set, rows
from standin.facts import capitals, sums
from standin.repository import DEFAULT, Subsets

_SPLITS = {"train": TRAIN, "validation": TEST, "test": TEST}  # rows


def _seeded(seed: int) -> Iterator[tuple[str, int, int]]:
    """Split, rows, and a seed of its own."""
    for number, (split, count) in enumerate(_SPLITS.items()):
        yield split, count, seed + number


@data_set("HuggingFaceH4/MATH-500")
def math_500() -> Subsets:
    made = [
        {
            "problem": one.question,
            "solution": f"We add: ${one.first} + {one.second} = \\boxed{{{one.total}}}$.",
            "answer": str(one.total),
            "subject": "Prealgebra",
            "level": 1 + number % 5,
            "unique_id": f"test/prealgebra/{number}.json",
        }
        for number, one in enumerate(sums(TEST, 20))
    ]
    return {DEFAULT: {"test": rows(*made)}}


@data_set("allenai/ai2_arc")
def ai2_arc() -> Subsets:
    def make(count: int, seed: int) -> Dataset:
        rng, made = random.Random(seed), []
        for one in capitals(count, seed):
            choices, place = one.shuffled(rng)
            question = f"Which city governs {one.country}, number {one.number}?"
            listed = {"text": choices, "label": [*"ABCD"]}
            made.append(
                {"id": f"{seed}_{one.number}", "question": question, "choices": listed, "answerKey": "ABCD"[place]}
            )
        return rows(*made)

    return {
        subset: {split: make(count, seed) for split, count, seed in _seeded(first)}
        for subset, first in (("ARC-Challenge", 30), ("ARC-Easy", 40))
    }


@data_set("Rowan/hellaswag")
def hellaswag() -> Subsets:
    def make(count: int, seed: int, *, labelled: bool) -> Dataset:
        rng, made = random.Random(seed), []
        for one in capitals(count, seed):
            choices, place = one.shuffled(rng)
            first, second = f"A guide talks about {one.country}, number {one.number}.", "She"
            made.append(
                {
                    "ind": one.number,
                    "activity_label": "Showing a city",
                    "ctx_a": first,
                    "ctx_b": second.lower(),
                    "ctx": f"{first} {second}",
                    "endings": [f"shows {city} [step] to the visitors." for city in choices],
                    "source_id": f"activitynet~v_{seed}",
                    "split": "train",
                    "split_type": "indomain",
                    "label": str(place) if labelled else "",
                }
            )
        return rows(*made)

    return {DEFAULT: {split: make(count, seed, labelled=split != "test") for split, count, seed in _seeded(50)}}


@data_set("EleutherAI/drop")
def drop() -> Subsets:
    date = dict.fromkeys(("day", "month", "year"), TEXT)
    kept = {"number": TEXT, "date": date, "spans": TEXTS, "worker_id": TEXT, "hit_id": TEXT}
    several = {"number": TEXTS, "date": List(date), "spans": List(TEXTS), "worker_id": TEXTS, "hit_id": TEXTS}
    features = Features(
        dict.fromkeys(("section_id", "passage", "question", "query_id"), TEXT)
        | {"answer": kept, "validated_answers": several}
    )

    def make(count: int, seed: int) -> Dataset:
        none = {"day": "", "month": "", "year": ""}
        made = []
        for number, one in enumerate(sums(count, seed)):
            answer = {"number": str(one.total), "date": none, "spans": [], "worker_id": "", "hit_id": ""}
            again = {"number": [str(one.total)], "date": [none], "spans": [[]], "worker_id": [""], "hit_id": [""]}
            passage, _, question = one.question.partition(". ")
            about = {
                "section_id": f"nfl_{seed}",
                "passage": f"{passage}.",
                "question": question,
                "query_id": f"{seed}_{number}",
            }
            made.append(about | {"answer": answer, "validated_answers": again})
        return rows(*made, features=features)

    return {DEFAULT: {split: make(count, seed) for split, count, seed in _seeded(60) if split != "test"}}


@data_set("SaylorTwift/bbh")
def bbh() -> Subsets:
    steps = [{"input": f"(({one.first} + {one.second} * 1 - 0)) =", "target": str(one.total)} for one in sums(TEST, 70)]
    causes = [
        {
            "input": f"{one.question} Did the buying cause it?\nOptions:\n- Yes\n- No",
            "target": "Yes" if one.total % 2 else "No",
        }
        for one in sums(TEST, 71)
    ]
    return {"multistep_arithmetic_two": {"test": rows(*steps)}, "causal_judgement": {"test": rows(*causes)}}
