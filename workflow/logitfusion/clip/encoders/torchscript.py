"""TorchScript archives (OpenAI's own CLIP files are some), of which the weights are read and no code is run.

``torch.jit.load`` compiles the archive's code and runs parts of it, so an archive from elsewhere would be a program
from elsewhere. The weights lie beside the code: raw storages, and a pickle that says which tensor is where. That
pickle is read by an unpickler that knows tensors and empty modules and nothing else.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_archive(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive: a zip of weights with code beside them."""
    if not is_zipfile(path):
        return False
    with ZipFile(path) as archive:
        return any(PurePosixPath(name).parts[1:2] == ("code",) for name in archive.namelist())


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
        pickle.UnpicklingError: it names something that is no tensor and no module.
        ValueError: a tensor outside of its storage, or bytes in another order than this machine's.
    """
    with ZipFile(path) as archive:
        names = archive.namelist()
        (table,) = (name for name in names if PurePosixPath(name).parts[1:] == ("data.pkl",))
        root = PurePosixPath(table).parts[0]
        if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
            raise ValueError("its numbers are in another byte order")
        with archive.open(table) as file:
            module = _Reader(file, lambda key: archive.read(f"{root}/data/{key}")).load()
        texts = [name for name in names if name.startswith(f"{root}/code/") and name.endswith(".py")]
        code = "\n".join(archive.read(name).decode(errors="replace") for name in texts)
    return Archive(dict(_tensors(module, "")), code)


class _Module:
    """A module of an archive: its attributes, and nothing that it could do."""

    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Reader(pickle.Unpickler):
    """Unpickles modules without code, tensors, and plain values; whatever else is named is refused."""

    def __init__(self, file: Any, read: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self.read = read
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Module
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if module == "torch.jit._pickle" and name in ("build_intlist", "build_doublelist", "build_boollist"):
            return list
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no weights")

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage ``("storage", type, key, device, numbers)``, as a tensor of one dimension."""
        _, dtype, key, _, _ = pid
        if key not in self.storages:
            content = bytearray(self.read(key))
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    reach = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True)) if 0 not in size else -1
    if offset < 0 or min((*size, *stride), default=0) < 0 or reach >= len(storage):
        raise ValueError("a tensor reaches out of its storage")
    return storage.as_strided(size, stride, offset)


def _tensors(module: Any, prefix: str, above: tuple[int, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module and its parts by name; a module that holds itself is entered once."""
    if not isinstance(module, _Module):
        raise pickle.UnpicklingError("it holds no module")
    here = (*above, id(module))
    for name, value in vars(module).get("attributes", {}).items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Module) and id(value) not in here:
            yield from _tensors(value, f"{prefix}{name}.", here)
