"""Three splits that never share a prompt, and a test split that does not move when the training size changes."""

from __future__ import annotations

import random
from typing import Any

from logitfusion.config.tasks import Answer, Examples, GeneratedRows
from logitfusion.errors import UserError
from logitfusion.tasks.answers import normalise, parse_number
from logitfusion.tasks.rows import fill, find_answers

SPLITS = ("test", "validation", "train")


def make_examples(rows: list[dict[str, Any]], definition: Examples) -> list[dict[str, Any]]:
    """Prompted examples, one for each distinct prompt: ``id, prompt, completion, answers``.

    Prompts are compared without case and spacing; of equal prompts the first row stays. Prompts longer than the
    definition's ``max_prompt_chars`` are left out.
    """
    examples, seen = [], set()
    longest = definition.max_prompt_chars
    for number, row in enumerate(rows):
        prompt = fill(definition.prompt, row)
        key = " ".join(prompt.lower().split())
        if key in seen or (longest is not None and len(prompt) > longest):
            continue
        seen.add(key)
        answers = find_answers(row, definition.target)
        _check_answers(answers, definition.answer)
        completion = definition.completion.replace("{answer}", answers[0])
        examples.append({"id": number, "prompt": prompt, "completion": completion, "answers": answers})
    return examples


def split_seed(definition: Examples) -> int | None:
    """The seed that shuffles a definition's examples; None for generated ones, which are random draws already."""
    return None if isinstance(definition.source, GeneratedRows) else definition.split_seed


def _check_answers(answers: list[str], form: Answer) -> None:
    """Refuse rows whose gold answer could never be judged right."""
    if form.kind == "number" and parse_number(answers[0]) is None:
        raise UserError(f"A row's answer {answers[0]!r} is not a number, as the definition's answer.kind asks.")
    if form.kind == "choice" and answers[0].casefold() not in {choice.casefold() for choice in form.choices}:
        raise UserError(f"A row's answer {answers[0]!r} is none of the definition's answer.choices; add it.")
    if form.kind == "text" and len(normalise(answers[0]).split()) > form.max_words:
        raise UserError(
            f"A row's answer {answers[0]!r} has more words than the definition's answer.max_words; raise it."
        )


def split_examples(
    examples: list[dict[str, Any]], sizes: dict[str, int], *, seed: int | None, task: str = "task"
) -> dict[str, list[dict[str, Any]]]:
    """Disjoint ``test``, ``validation`` and ``train`` lists of the asked sizes, drawn in this order.

    With ``seed`` None the examples' own order is kept: a generator's rows are random draws already, and more of them
    must not move the test split.

    Raises:
        UserError: there are not enough distinct examples.
    """
    needed = sum(sizes[name] for name in SPLITS)
    if needed > len(examples):
        raise UserError(
            f"Task {task!r} asks for {needed} examples (train + validation + test), and its source has {len(examples)}"
            " distinct ones; lower the sizes."
        )
    order = list(examples)
    if seed is not None:
        random.Random(seed).shuffle(order)
    splits, start = {}, 0
    for name in SPLITS:
        splits[name] = order[start : start + sizes[name]]
        start += sizes[name]
    return splits
