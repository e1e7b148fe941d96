"""Models of strangers: their configs, tokenizers, weights and templates are read as they are meant, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from command_calls import call, is_strict_json
from damage import damage
from outcomes import Case
from safetensors.torch import load_file, save_file
from sizes import inputs
from test_chat import make_tokenizer
from test_gguf import file, written  # noqa: F401 (fixtures)

from logitfusion.errors import UserError
from logitfusion.models import chat
from logitfusion.models.chat import ChatTemplate
from logitfusion.models.gguf_file import read_gguf

Watch = Callable[..., None]
VALUES = (0, -1, 1, 3, 2**31, 10**12, 10**30, 1.5, 1e30, float("nan"), float("inf"), True, None, "", "x", [], [1], {})


@pytest.fixture
def model(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A model without a record: it comes from somewhere."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_models["base"], folder)
    return folder


def generate(folder: Path) -> str:
    return call(["generate", "--large", folder, "--prompt", "a", "b", "--max-new-tokens", 2])


@inputs(6, 200)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_an_odd_value_of_a_model(name: str, inputs: int, model: Path, watch: Watch) -> None:
    """One value of a file of JSON is another; what is computed with it, nobody can call wrong."""
    path = model / name
    whole: dict[str, Any] = json.loads(path.read_text())
    places = [keys for keys in _places(whole) if "vocab" not in keys[:2] or len(keys) < 3]

    def answer(keys: tuple[str | int, ...], value: Any) -> str:
        changed = json.loads(json.dumps(whole))
        inner = changed
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        path.write_text(json.dumps(changed))
        return generate(model)

    def make(number: int) -> Case:
        draw = Random(f"{name} {number}")
        keys, value = draw.choice(places), draw.choice(VALUES)
        return Case(f"{name} {number}: {keys} = {value!r}", lambda: answer(keys, value), is_strict_json)

    watch((make(number) for number in range(inputs)), seconds=20)


def _places(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if place:
        yield place
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _places(one, (*place, key))


@inputs(6, 200)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_damaged_file_of_a_model(name: str, inputs: int, model: Path, watch: Watch) -> None:
    """Without a record nobody knows what it was, but a crash or a stall is a fault; of weights only the head is."""
    path = model / name
    whole = path.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little") if name.endswith(".safetensors") else len(whole)

    def answer(changed: bytes) -> str:
        path.write_bytes(changed + whole[head:])
        return generate(model)

    watch(
        (
            Case(words, lambda changed=changed: answer(changed), is_strict_json)
            for words, changed in damage(whole[:head], name, inputs)
        ),
        seconds=20,
    )


@inputs(6, 60)
def test_weights_that_are_no_numbers(inputs: int, model: Path, watch: Watch) -> None:
    path = model / "model.safetensors"
    whole = load_file(path)

    def answer(name: str, value: float, draw: Random) -> str:
        tensors = {key: tensor.clone() for key, tensor in whole.items()}
        tensors[name].view(-1)[draw.randrange(tensors[name].numel())] = value
        save_file(tensors, path, {"format": "pt"})
        try:
            return generate(model)
        except UserError as error:
            if name not in str(error):
                raise ValueError(f"the tensor is not named: {error}") from error
            raise

    def make(number: int) -> Case:
        draw = Random(f"weights {number}")
        name, value = draw.choice(sorted(whole)), draw.choice([float("nan"), float("inf"), -float("inf")])
        return Case(f"{number}: {value} in {name}", lambda: answer(name, value, draw), lambda found: False)

    watch(make(number) for number in range(inputs))


TEMPLATES = {
    "raises": "{{ raise_exception('no') }}",
    "raises nothing": "{{ raise_exception('') }}",
    "is no template": "{% for m in messages %}",
    "an unknown tag": "{% nothing %}",
    "an unknown filter": "{{ messages | nothing }}",
    "an unknown name": "{{ nothing.at.all }}",
    "divides by 0": "{{ 1 // 0 }}",
    "loops": "{% for a in range(10**9) %}{% endfor %}",
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "computes": "{{ 9 ** 9 ** 9 }}",
    "writes much": "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
    "writes much at once": "{{ 'x' * 10 ** 12 }}",
    "lists much": "{{ [0] * 10 ** 12 }}",
    "calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "leaves the sandbox": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "leaves by a format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "includes a file": "{% include 'hostname' %}",
    "imports a file": "{% import 'hostname' as x %}",
    "writes over a message": "{{ messages.append({}) }}",
    "a half of a surrogate pair": "{{ '\\ud800' }}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "much text": "x" * 10**6,
}


def test_an_odd_template(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 0.5)

    def write(text: str) -> str:
        text = ChatTemplate(make_tokenizer(text)).render([{"role": "user", "content": "Hi"}])
        assert "class" not in text, "it left the sandbox"
        return text.encode().decode()

    watch((Case(name, lambda text=text: write(text)) for name, text in TEMPLATES.items()), seconds=5)


@inputs(4, 200)
def test_a_damaged_gguf(inputs: int, file: Path, tmp_path: Path, watch: Watch) -> None:  # noqa: F811
    """A package's own digest is compared before; this is of a package that was made so."""
    whole = file.read_bytes()
    path = tmp_path / "odd.gguf"

    def read(data: bytes) -> Any:
        path.write_bytes(data)
        return read_gguf(path)[0]

    head = whole[:1500]  # what tells of the tensors; a flip within them can't be told
    watch(
        (Case(words, lambda data=data: read(data + whole[1500:])) for words, data in damage(head, "gguf", inputs)),
        seconds=20,
    )
