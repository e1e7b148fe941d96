"""TorchScript archives (OpenAI's own CLIP files are some), of which the weights are read and no code is run.

``torch.jit.load`` compiles an archive's code and runs parts of it, so an archive from elsewhere would be a program
from elsewhere. The weights lie beside the code as in any file of torch: raw storages, and a table of modules that says
which tensor is where. Without the code that table is read by ``torch.load(weights_only=True)``, to which the modules
are named as empty ones.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor

_MOST_MODULES = 100_000
# Lists of numbers that TorchScript writes by functions of its own.
_LISTS = [(list, f"torch.jit._pickle.build_{kind}list") for kind in ("int", "double", "bool", "tensor")]


def is_archive(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive: a zip of weights with code beside them."""
    if not is_zipfile(path):
        return False
    with ZipFile(path) as archive:
        return any(_inside(name) == "constants.pkl" for name in archive.namelist())


@dataclass(frozen=True)
class Archive:
    """A TorchScript archive's weights and source text.

    Attributes:
        state: the tensors of the modules by name, as ``state_dict`` has them, and other tensors that they keep.
        code: the text of its modules.
    """

    state: dict[str, Tensor]
    code: str

    @cached_property
    def quick_gelu(self) -> bool | None:
        """Whether its activation is QuickGELU, ``x * sigmoid(1.702 * x)``; None if its code has no known one."""
        if re.search(r"torch\.sigmoid\(torch\.mul\(", self.code):
            return True
        return False if "torch.gelu(" in self.code else None


def read_archive(path: str | Path) -> Archive:
    """What is in a TorchScript archive, on the CPU.

    Raises:
        Exception: torch's own and zipfile's, of files that are damaged, or whose table names more than weights.
    """
    weights, code = io.BytesIO(), []
    with ZipFile(path) as archive, ZipFile(weights, "w") as copy:
        for name in archive.namelist():
            inside = _inside(name)
            if inside in ("data.pkl", "version", "byteorder", ".data/version") or inside.startswith("data/"):
                copy.writestr(name, archive.read(name))
            elif inside.startswith("code/") and inside.endswith(".py"):
                code.append(archive.read(name).decode(errors="replace"))
    weights.seek(0)
    asked = torch.serialization.get_unsafe_globals_in_checkpoint(weights)
    modules: list[Any] = [(_Module, name) for name in asked if name.startswith("__torch__.")]
    weights.seek(0)
    with torch.serialization.safe_globals([*modules, *_LISTS]):
        module = torch.load(weights, map_location="cpu", weights_only=True)
    if not isinstance(module, _Module):
        raise ValueError("it holds no module")
    return Archive(dict(_tensors(module, "", count())), "\n".join(code))


def _inside(name: str) -> str:
    """A file's place below the archive's own folder, which is called like the model."""
    return PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix()


class _Module:
    """A module of an archive: its attributes, and nothing that it could do."""

    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def _tensors(
    module: _Module, prefix: str, entered: Iterator[int], above: tuple[int, ...] = ()
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module and its parts by name; a module that is part of itself is entered once."""
    if next(entered) > _MOST_MODULES:  # parts of many parts, each of which is part of many again
        raise ValueError(f"it holds more than {_MOST_MODULES:,} modules")
    here = (*above, id(module))
    for name, value in vars(module).get("attributes", {}).items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Module) and id(value) not in here:
            yield from _tensors(value, f"{prefix}{name}.", entered, here)
