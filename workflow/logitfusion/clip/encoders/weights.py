"""Files of weights, from anywhere: read, never run."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile, is_zipfile

import numpy as np
import torch
from numpy._core import multiarray
from safetensors.torch import load_file
from torch import Tensor

from logitfusion.clip.encoders.errors import EncoderError, wrong_key
from logitfusion.clip.encoders.torchscript import is_archive, read_archive
from logitfusion.errors import first_line

_SMALL = 2**26  # bytes that any file may unpack to
CONTAINERS = ("state_dict", "model", "teacher", "student")

# What training scripts keep beside weights: scores and counters of numpy's types, and their own arguments. These are
# values; what runs code stays refused, inside of an array of objects too. numpy 1 had the functions elsewhere.
_VALUES = [
    *((part, f"numpy.{core}.multiarray.{part.__name__}") for core in ("core", "_core")
      for part in (multiarray.scalar, multiarray._reconstruct)),
    np.ndarray,
    np.dtype,
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
    argparse.Namespace,
]  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        state: its tensors by name, on the CPU.
        quick_gelu: whether the code beside them has QuickGELU; None if there is no code, or none that says so.
    """

    state: dict[str, Tensor]
    quick_gelu: bool | None = None


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of ``read_checkpoint``."""
    return read_checkpoint(path).state


def read_checkpoint(path: str | Path) -> Checkpoint:
    """A file of safetensors, of torch, or a TorchScript archive.

    No code is run that a file may hold or name; a file that can't be read without is refused.

    Raises:
        UserError: no such file, or not a file of weights only.
    """
    path = Path(path)
    if not path.is_file():
        raise wrong_key(f"The weights file {path} is not there", "path")
    try:
        if path.suffix == ".safetensors":
            return Checkpoint(load_file(path))
        _refuse_packed(path)
        if is_archive(path):
            archive = read_archive(path)
            return Checkpoint(archive.state, archive.quick_gelu)
        with torch.serialization.safe_globals(_VALUES):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile and pickle each have their own types
        raise _unsafe(path, error) from error
    for _ in CONTAINERS:  # one may hold itself
        if isinstance(state, dict) and (inner := next((name for name in CONTAINERS if name in state), None)):
            state = state[inner]
    tensors = [value for value in state.values() if isinstance(value, Tensor)] if isinstance(state, dict) else []
    if not tensors or any(value.is_meta for value in tensors):  # meta: shapes without numbers
        remedy = "give a state dict"
        raise EncoderError(f"The file {path} holds no weights by name", config=remedy, option=remedy)
    return Checkpoint({name: value for name, value in state.items() if isinstance(value, Tensor)})


def _refuse_packed(path: Path) -> None:
    """torch keeps weights as they are: what unpacks to many times its size may take any memory, and is no such file."""
    if not is_zipfile(path):
        return
    with ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > 2 * path.stat().st_size + _SMALL:
        raise ValueError(f"it unpacks to {unpacked / 2**20:,.0f} MiB, and files of weights are not packed")


def _unsafe(path: Path, error: Exception) -> EncoderError:
    reason = "it is empty" if path.stat().st_size == 0 else why_unsafe(error)
    remedy = "where that file is from, save the plain state dict again, as safetensors for instance"
    return EncoderError(f"The weights in {path} can't be read safely ({reason})", config=remedy, option=remedy)


def why_unsafe(error: Exception) -> str:
    """torch's own message is a page on how to run the file after all; here it says what the file wants to run."""
    named = re.search(r"(?:GLOBAL:? |Unsupported global: |type )([\w.]+\.[\w.]+)", str(error))
    if named:
        return f"it asks for {named[1]}, which is code"
    line = re.sub(r"\x1b\[[\d;]*m", "", first_line(error))
    return "no file of weights that torch knows" if line.startswith("Weights only load failed") else line
