"""Tensor files that are whole and true, or not read at all: safetensors with their facts and a digest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from logitfusion.artefact import DIGEST, UNSEALED, check_seal, parse_artefact, seal
from logitfusion.errors import UserError, first_line
from logitfusion.files import whole
from logitfusion.formats.json import parse_json


def write_tensors(path: str | Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a file whole, with a digest of all of its bytes; equal arguments give equal bytes."""
    # One entry only: safetensors writes several in a random order.
    header = {"logitfusion": json.dumps({DIGEST: UNSEALED, "facts": facts}, sort_keys=True)}
    with whole(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=header)
        seal(temporary)


def read_tensors(
    path: str | Path, kind: Any = dict[str, Any], mend: str | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """The facts that a file was written with, and its tensors.

    Args:
        kind: the type of the facts, a section mostly.
        mend: what to do about a damaged file, see ``check_seal``.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    check_seal(path, mend)
    try:
        with safe_open(path, framework="pt") as file:
            facts = parse_json(file.metadata()["logitfusion"], str(path))["facts"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:  # sealed, but not by write_tensors
        raise UserError(f"{path} is not a readable file of tensors ({first_line(error)}).") from None
    return parse_artefact(path, kind, facts), tensors


def need_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], needed: Mapping[str, tuple[torch.dtype, int]]
) -> None:
    """Refuse a file that lacks a tensor, or has one of another type or rank, or with a number that is not finite.

    Args:
        needed: name -> type and rank.

    Raises:
        UserError: names the tensor.
    """
    for name, (dtype, rank) in needed.items():
        if name not in tensors:
            raise UserError(f"{path} is not of this version of logitfusion: it lacks the tensor {name!r}.")
        value = tensors[name]
        if value.dtype != dtype or value.ndim != rank:
            given = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
            raise UserError(f"{path} is not of this version of logitfusion: its tensor {name!r} is {given}.")
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{path} has numbers that are not finite in {name!r}; make it again.")


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
