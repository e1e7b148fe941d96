"""A sample of the odd inputs again, each to a process of its own, whose end is what a user sees.

In one process a fault may hide: an exit code, what is left of a file when nobody cleans up, a stream that is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from command_calls import spawn
from command_lines import SMALL, command_lines, write_inputs
from odd_files import ODD, kinds, prepare
from odd_numbers import WRITTEN
from odd_texts import odd_texts
from outcomes import Case
from sizes import inputs

Watch = Callable[..., None]
LINES = b'{"prompt": "red", "id": "1"}\n{"prompt": "blue", "id": "2"}\n'


@inputs(2, 40)
def test_a_process(inputs: int, tmp_path: Path, tiny_models: dict[str, Path], watch: Watch) -> None:
    """Prompts, configs, places to write and numbers, in turn."""
    write_inputs(tmp_path)
    lines = command_lines(tmp_path, tiny_models)
    texts = {form: list(odd_texts(whole, form)) for form, whole in (("json", LINES), ("yaml", SMALL.encode()))}

    def make(number: int) -> Case:
        draw = Random(f"process {number}")
        match number % 4:
            case 0:
                odd = draw.choice(texts["json"])
                return Case(f"{number}: prompts, {odd.name}", lambda: written(odd.data, "prompts.jsonl", "generate"))
            case 1:
                odd = draw.choice(texts["yaml"])
                return Case(f"{number}: config, {odd.name}", lambda: written(odd.data, "small.yaml", "plan"))
            case 2:
                name = draw.choice([name for name in ODD if "pipe" not in name and "zero" not in name])
                return Case(f"{number}: --output, {name}", lambda: place(name))
        value = draw.choice(WRITTEN).replace("\0", "")
        return Case(f"{number}: --temperature {value!r}", lambda: spawn([*lines["generate"], f"--temperature={value}"]))

    def written(data: bytes, name: str, command: str) -> str:
        (tmp_path / name).write_bytes(data)
        try:
            return spawn(lines[command])
        finally:
            write_inputs(tmp_path)

    def place(name: str) -> str:
        path = prepare(tmp_path / "odd", name)
        before = kinds(tmp_path / "odd")
        try:
            return spawn([*lines["score"], f"--output={path}"])
        finally:
            after = kinds(tmp_path / "odd")
            assert {key: after.get(key) for key in before} == before, "what was there was replaced"

    watch((make(number) for number in range(inputs)), seconds=120)
