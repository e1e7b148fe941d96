"""Artefacts whose bytes have changed: noticed in a sentence, or read as what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from artefacts import ARTEFACTS, NAMES, Artefact, copy_model, read_model, same
from damage import damage
from outcomes import Case
from sizes import inputs

Watch = Callable[..., None]


def damaged(path: Path, read: Callable[[], object], kind: str, inputs: int) -> Iterator[Case]:
    """The same file, damaged anew for each case."""
    expected, whole = read(), path.read_bytes()

    def call(changed: bytes) -> object:
        path.write_bytes(changed)
        return read()

    for name, changed in damage(whole, kind, inputs):
        yield Case(name, lambda changed=changed: call(changed), lambda found: same(found, expected))


@inputs(60, 2000)
@pytest.mark.parametrize("kind", ARTEFACTS)
def test_a_damaged_artefact(kind: str, inputs: int, tmp_path: Path, watch: Watch) -> None:
    artefact: Artefact = ARTEFACTS[kind]
    path = tmp_path / NAMES.get(kind, f"{kind}.safetensors")
    artefact.write(path)
    watch(damaged(path, lambda: artefact.read(path), kind, inputs))


@inputs(5, 150)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "record.json", "tokenizer.json"])
def test_a_damaged_model(name: str, inputs: int, tiny_models: dict[str, Path], tmp_path: Path, watch: Watch) -> None:
    folder = copy_model(tiny_models["base"], tmp_path / "model")

    def read() -> object:
        (folder / ".seen.json").unlink(missing_ok=True)
        return read_model(folder)

    watch(damaged(folder / name, read, name, inputs))
