"""The precision of a model's weights: the one that is asked for, else that of its entry in the config, else its own."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from logitfusion.config.loading import Dtype
from logitfusion.errors import UserError, first_line
from logitfusion.files import read_json
from logitfusion.formats.json import parse_json
from logitfusion.integrity import read_record

# Weights of 8 bits have a scale each, and weights of 64 nobody reads so.
_WEIGHTS = {"F64": torch.float32, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_NAMES = {"float64": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_dtype(folder: str | Path, asked: Dtype | torch.dtype = "auto") -> torch.dtype:
    """The precision that a model folder is loaded in.

    Args:
        folder: of a whole model.
        asked: ``"auto"`` takes what the model's entry in the config says, which its record keeps, else the
            checkpoint's own.

    Raises:
        UserError: a precision that is none.
    """
    if isinstance(asked, torch.dtype):
        return asked if asked in (*_NAMES.values(), torch.float64) else to_dtype(str(asked).removeprefix("torch."))
    if asked != "auto":
        return to_dtype(asked)
    known = read_record(folder) or {}
    noted = known.get("dtype") or known.get("config", {}).get("dtype") or "auto"  # of a model's entry
    return own_dtype(folder) if noted == "auto" else to_dtype(noted)


def to_dtype(name: str) -> torch.dtype:
    """The precision of a name.

    Raises:
        UserError: names those that there are.
    """
    if name not in _NAMES or name == "float64":
        raise UserError(f"The dtype {name!r} does not exist: use auto, float32, bfloat16 or float16.")
    return _NAMES[name]


def written_dtype(asked: Dtype) -> torch.dtype:
    """The precision of files that are made here (of packages, random or pruned ones): fp32 unless it is asked for."""
    return torch.float32 if asked == "auto" else to_dtype(asked)


def own_dtype(folder: str | Path) -> torch.dtype:
    """The precision of a checkpoint: what its config says, as transformers reads it, else that of most of its weights.

    Old checkpoints name none in their configs; transformers then takes that of the first weight it meets, which may be
    a norm that was kept in fp32.
    """
    config = read_json(Path(folder) / "config.json")
    for part in (config, config.get("text_config") or {}):
        named = str(part.get("dtype") or part.get("torch_dtype") or "").removeprefix("torch.")
        if named in _NAMES:
            return _NAMES[named]
    counts: Counter[torch.dtype] = Counter()
    for file in sorted(Path(folder).glob("*.safetensors")):
        for tensor in _read_header(file).values():
            if tensor.get("dtype") in _WEIGHTS:
                counts[_WEIGHTS[tensor["dtype"]]] += tensor["data_offsets"][1] - tensor["data_offsets"][0]
    return counts.most_common(1)[0][0] if counts else torch.float32


def _read_header(file: Path) -> dict[str, Any]:
    """What a safetensors file holds, by name, without reading its tensors."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = parse_json(opened.read(min(length, 2**27)).decode(), str(file))
    except (OSError, ValueError, struct.error, UserError) as error:
        raise UserError(f"The weights in {file} can't be read ({first_line(error)}); they are damaged.") from error
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}
