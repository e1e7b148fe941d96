"""Files of text that people and other programs write: what is odd about them is read as it is meant, or refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from command_calls import call
from damage import damage
from odd_texts import Odd, odd_texts
from outcomes import Case
from sizes import inputs

from logitfusion.clip.data.lists import read_lines
from logitfusion.clip.data.names import read_names
from logitfusion.config.load import load_config
from logitfusion.files import read_json, read_jsonl

Watch = Callable[..., None]


LINES = b'{"prompt": "red", "id": "1"}\n{"prompt": "blue", "id": "2"}\n'
TEXTS = b'{"prompt": "red", "response": "b"}\n{"prompt": "c", "response": "d"}\n'
PAIRS = b'{"context": "red", "continuation": "b"}\n{"context": "c", "continuation": "d"}\n'
READERS: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
    "a file of JSON": ("json", b'{"a": "red", "b": {"c": [1, 2.5]}}\n', read_json),
    "lines of JSON": ("json", LINES, read_jsonl),
    "names of classes": ("json", b'{"red": "red", "green": "green"}\n', read_names),
    "a list of images": ("csv", b"path,label\n1.png,red\n2.png,red\n3.png,blue\n", read_lines),
    "a config": ("yaml", (ROOT / "config/smoke.yaml").read_bytes(), lambda path: load_config(path).dump()),
}


# Oddities that a reader takes as they come: it asks nothing of the values (configs of models hold NaN), or a file of
# plain texts is fine too.
NUMBERS = {"not a number", "infinity", "a number beyond all"}
VALUES = NUMBERS | {"a list", "a number", "null", "a null for a text", "an object for a text"}
TAKEN = {
    "a file of JSON": VALUES,
    "lines of JSON": VALUES | {"nothing", "white space", "only a byte order mark", "two values"},
    "prompts": {"a list", "a number", "null", "bytes of zero"},
}

# What a command is given, and what is right of its answer to the whole file.
GIVEN: dict[str, tuple[bytes, list[str]]] = {
    "prompts": (LINES, ["generate", "--max-new-tokens", "1", "--prompts"]),
    "pairs": (PAIRS, ["score", "--pairs"]),
    "texts": (TEXTS, ["distill-cache", "--k", "2", "--texts"]),
}


def cases(kind: str, form: str, whole: bytes, read: Callable[[Path], Any], path: Path) -> Iterator[Case]:
    """Every oddity of the format of a kind of file."""
    path.write_bytes(whole)
    expected = read(path)

    def answer(odd: Odd) -> Any:
        path.write_bytes(odd.data)
        return read(path)

    def is_right(fate: str) -> Callable[[Any], bool]:
        return lambda found: fate == "either" or (fate == "same" and found == expected)

    for odd in odd_texts(whole, form):
        right = is_right("either" if odd.name in TAKEN.get(kind, ()) else odd.fate)
        yield Case(f"{kind}: {odd.name}", lambda odd=odd: answer(odd), right)


@pytest.mark.parametrize("kind", READERS)
def test_an_odd_text(kind: str, tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    watch(cases(kind, *READERS[kind], tmp_path / "odd"), seconds=5)


@pytest.mark.parametrize("kind", GIVEN)
def test_an_odd_text_of_a_command(kind: str, tiny_models: dict[str, Path], tmp_path: Path, watch: Watch) -> None:
    whole, words = GIVEN[kind]

    def read(path: Path) -> str:
        if kind != "texts":
            return call([*words, path, "--large", tiny_models["large"]])
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        call([*words, path, "--teacher", tiny_models["base"], "--output", tmp_path / "cache"])
        return call(["distill-cache", "--verify", tmp_path / "cache"])

    watch(cases(kind, "json", whole, read, tmp_path / "odd"), seconds=10)


@inputs(20, 1500)
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_text(kind: str, inputs: int, tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell whether a changed letter was meant; but it is read or refused, at once."""
    monkeypatch.chdir(ROOT)
    _, whole, read = READERS[kind]
    path = tmp_path / "odd"

    def answer(data: bytes) -> Any:
        path.write_bytes(data)
        return read(path)

    watch((Case(name, lambda data=data: answer(data)) for name, data in damage(whole, kind, inputs)), seconds=5)
