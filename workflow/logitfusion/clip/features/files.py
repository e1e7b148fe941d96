"""Tensor files that are whole and true, or not read at all: safetensors with their facts and a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from logitfusion.errors import UserError
from logitfusion.files import name_output, whole


def write_tensors(path: str | Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a file whole; equal arguments give equal bytes."""
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    kept = {"facts": facts, "checksum": checksum(tensors, facts)}
    # One entry only: safetensors writes several in a random order.
    with whole(path) as temporary:
        save_file(tensors, temporary, metadata={"logitfusion": json.dumps(kept, sort_keys=True)})


def read_facts(path: str | Path) -> dict[str, Any]:
    """The facts a file was written with, without its tensors.

    Raises:
        UserError: the file is missing or broken.
    """
    return _open(path, ())[0]["facts"]


def read_tensors(path: str | Path, names: Sequence[str]) -> dict[str, Tensor]:
    """A file's tensors, which are these; they and the facts are held against the checksum.

    Raises:
        UserError: the file is missing or broken.
    """
    kept, tensors = _open(path, names)
    if checksum(tensors, kept["facts"]) != kept["checksum"]:
        raise UserError(f"The features in {path} are damaged; delete {name_output(path)} and run again.")
    return tensors


def pack_text(lines: Sequence[str]) -> Tensor:
    """Lines, which have no line breaks, as bytes."""
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.zeros(0, dtype=torch.uint8)


def unpack_text(packed: Tensor) -> list[str]:
    """The lines of ``pack_text``."""
    text = packed.numpy().tobytes().decode("utf-8", "surrogateescape")
    return text.split("\n") if text else []


def pack_digests(digests: Sequence[str]) -> Tensor:
    """SHA-256 sums in hex -> ``[n, 32]`` uint8."""
    return torch.tensor([list(bytes.fromhex(one)) for one in digests], dtype=torch.uint8).reshape(-1, 32)


def unpack_digests(packed: Tensor) -> list[str]:
    """``[n, 32]`` uint8 -> SHA-256 sums in hex."""
    text = packed.contiguous().numpy().tobytes().hex()
    return [text[start : start + 64] for start in range(0, len(text), 64)]


def _open(path: str | Path, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            kept = json.loads(file.metadata()["logitfusion"])
            return {name: kept[name] for name in ("facts", "checksum")}, {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise UserError(f"The features {path} are not there; compute them first.") from None
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is not a readable feature file ({error}); delete {name_output(path)} and run again."
        ) from None


def checksum(tensors: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """The SHA-256, in hex, of tensors and of what JSON keeps of the facts beside them."""
    kept = json.loads(json.dumps(facts))  # keys that are numbers are sorted as the texts that they become
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
