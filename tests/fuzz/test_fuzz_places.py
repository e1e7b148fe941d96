"""Options that name files and folders: whatever is there, it is read, written to, or refused in a sentence, at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from random import Random

import pytest
from command_calls import call
from command_lines import command_lines, options_with_a_value
from odd_files import ODD, kinds, prepare
from outcomes import Case
from sizes import inputs

Watch = Callable[..., None]
COMMANDS = [
    *("generate", "score", "distill-cache", "distill", "fewshot fit", "fewshot predict", "init", "plan", "materialise"),
]
PATHS = ("FILE", "DIR", "PATH", "SPEC", "FOLDER", "CONFIG", "MODEL")
WRITTEN = ("--output", "--trace", "--report", "--json", "--features", "--sort-into")


def path_options(command: str) -> list[str]:
    """Those whose value is a path; an empty one stands for the last word of the line."""
    actions = options_with_a_value(command)
    found = [
        one.option_strings[-1] for one in actions if one.type is Path or str(one.metavar).partition(".")[0] in PATHS
    ]
    return [*found, ""] if command in ("init", "plan", "materialise") else found


def replaced(line: list[str], option: str, value: str) -> list[str]:
    """The line with another value of an option, which it may lack."""
    if not option:
        return [*line[:-1], value]
    if option not in line:
        first = next(
            number for number, word in enumerate(line) if (number and word.startswith("-")) or number == len(line) - 1
        )
        return [*line[:first], option, value, *line[first:]]
    place = line.index(option) + 1
    return [*line[:place], value, *line[place + 1 :]]


def cases(command: str, line: list[str], folder: Path, inputs: int) -> Iterator[Case]:
    """Odd places for options of a path, each pair once."""

    def answer(option: str, name: str) -> dict[str, int] | None:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        (folder / "mine.yaml").unlink(missing_ok=True)
        path = prepare(folder / "odd", name)
        before = kinds(folder / "odd")
        reader = drain(folder / "odd") if option in WRITTEN else None
        try:
            call(replaced(line, option, str(path)))
        finally:
            after = kinds(folder / "odd")
            if reader is not None:
                reader()
            assert {key: after.get(key) for key in before} == before, "what was there was replaced"
        return before

    pairs = list(product(path_options(command), ODD))
    Random(command).shuffle(pairs)
    for option, name in pairs[:inputs]:
        yield Case(f"{command} {option}: {name}", lambda option=option, name=name: answer(option, name))


def drain(folder: Path) -> Callable[[], None]:
    """Read whatever is written to the pipes of a folder, until told to end."""
    pipes = [path for path in folder.iterdir() if path.is_fifo() and not path.is_symlink()]
    # Open for reading and writing, it is never at its end, and nobody waits for the other side.
    opened = [os.open(pipe, os.O_RDWR | os.O_NONBLOCK) for pipe in pipes]

    def end() -> None:
        for one in opened:
            os.close(one)

    return end


@inputs(20, 1000)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_odd_place(
    command: str, inputs: int, place: Path, tiny_models: dict[str, Path], watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)  # an empty name is this folder
    lines = command_lines(place, tiny_models)
    watch(cases(command, lines[command], place, inputs))
