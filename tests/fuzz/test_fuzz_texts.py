"""Files of text that people and other programs write: what is odd about them is read as it is meant, or refused."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from checkout import ROOT
from damage import damage
from odd_texts import FORMATS, Odd, odd_texts
from outcomes import Case
from sizes import inputs

from logitfusion.cli.distill_cache import _check
from logitfusion.cli.generate import _read_prompts
from logitfusion.cli.score import _read_pairs
from logitfusion.clip.data.lists import read_lines
from logitfusion.clip.data.names import read_names
from logitfusion.config.load import load_config
from logitfusion.files import read_json, read_jsonl

Watch = Callable[..., None]


def _read_prompt_file(path: Path) -> Any:
    return _read_prompts(Namespace(prompt=None, prompts=str(path), chat=False))


JSON = b'{"prompt": "red", "id": "1"}\n'
LINES = JSON + b'{"prompt": "blue", "id": "2"}\n'
PAIRS = b'{"context": "red", "continuation": "b"}\n{"context": "c", "continuation": "d"}\n'
READERS: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
    "a file of JSON": ("json", b'{"a": "red", "b": {"c": [1, 2.5]}}\n', read_json),
    "lines of JSON": ("json", LINES, read_jsonl),
    "prompts": ("json", LINES, _read_prompt_file),
    "pairs": ("json", PAIRS, lambda path: _read_pairs(str(path))),
    "names of classes": ("json", b'{"red": "red", "green": "green"}\n', read_names),
    "a list of images": ("csv", b"path,label\n1.png,red\n2.png,red\n3.png,blue\n", read_lines),
    "a config": ("yaml", (ROOT / "config/smoke.yaml").read_bytes(), lambda path: load_config(path).dump()),
}


def cases(kind: str, path: Path) -> Iterator[Case]:
    """Every oddity of the format of a kind of file."""
    form, whole, read = READERS[kind]
    path.write_bytes(whole)
    expected = read(path)

    def call(odd: Odd) -> Any:
        path.write_bytes(odd.data)
        return read(path)

    for odd in odd_texts(whole, form):
        right = {"same": lambda found: found == expected, "refused": lambda found: False}.get(
            odd.fate, lambda found: True
        )
        yield Case(f"{kind}: {odd.name}", lambda odd=odd: call(odd), right)


@pytest.mark.parametrize("kind", READERS)
def test_an_odd_text(kind: str, tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    watch(cases(kind, tmp_path / "odd"), seconds=5)


@inputs(40, 3000)
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_text(
    kind: str, inputs: int, tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell whether a changed letter was meant; but it is read or refused, at once."""
    monkeypatch.chdir(ROOT)
    _, whole, read = READERS[kind]
    path = tmp_path / "odd"

    def call(data: bytes) -> Any:
        path.write_bytes(data)
        return read(path)

    watch((Case(name, lambda data=data: call(data)) for name, data in damage(whole, kind, inputs)), seconds=5)
