"""The command line's options: whatever is written after one, the answer is right or a sentence says what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from random import Random

import pytest
from command_calls import call, is_strict_json
from command_lines import command_lines, options_with_a_value
from odd_numbers import WRITTEN, draw_written
from outcomes import Case
from sizes import inputs

Watch = Callable[..., None]
COMMANDS = ["generate", "score", "distill-cache", "distill", "fewshot fit", "fewshot predict"]
NUMBERS = ("N", "NUMBER", "P", "K", "SHARE", "auto|N", "WEIGHT")


def is_answer(printed: str, empty: bool = False) -> bool:
    """Strict JSON without an empty text that nobody asked for; or words, and no numbers that are none."""
    if printed.startswith("{"):
        return is_strict_json(printed) and ('"tokens": 0' not in printed or empty)
    return not any(word in printed.lower().split() for word in ("nan", "inf", "-inf"))


def numeric_options(command: str) -> list[str]:
    """Those whose value is a number."""
    found = []
    for action in options_with_a_value(command):
        if action.type in (int, float) or str(action.metavar) in NUMBERS or "N" in str(action.metavar).split("|"):
            found.append(action.option_strings[-1])
    return found


def cases(command: str, line: list[str], folder: Path, inputs: int, run: Callable[..., str]) -> Iterator[Case]:
    """Each option with each number of the list, in an order of their own, then with drawn ones."""

    def answer(words: list[str]) -> str:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return run([*line, *words])

    options = numeric_options(command)
    pairs = list(product(options, WRITTEN))
    Random(command).shuffle(pairs)
    for number in range(inputs):
        draw = Random(f"{command} {number}")
        option, value = pairs[number] if number < len(pairs) else (draw.choice(options), draw_written(draw))
        words = [f"{option}={value}"] if draw.random() < 0.5 else [option, value]
        is_right = partial(is_answer, empty=option == "--max-new-tokens")
        yield Case(f"{command} {words}", lambda words=words: answer(words), is_right)


@inputs(20, 500)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_number_of_an_option(
    command: str, inputs: int, place: Path, tiny_models: dict[str, Path], watch: Watch
) -> None:
    lines = command_lines(place, tiny_models)
    watch(cases(command, lines[command], place, inputs, call), seconds=60)  # a thousand views of a picture take some
