"""Feature files: fp16 safetensors with labels, ids and a checksum, whole and true or not read at all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from logitfusion.errors import UserError
from logitfusion.files import name_output, whole


@dataclass(frozen=True)
class Stored:
    """What a file holds: ``values [n, views, D]`` fp16, ``labels [n]`` int64, ids, and the skipped ids -> why."""

    values: Tensor
    labels: Tensor
    ids: list[str]
    skipped: dict[str, str]


def write_stored(path: str | Path, stored: Stored, description: dict[str, Any]) -> None:
    """Write a file whole; equal arguments give equal bytes."""
    names = "\n".join(stored.ids).encode("utf-8", "surrogateescape")  # ids have no line breaks
    tensors = {
        "values": stored.values.contiguous(),
        "labels": stored.labels.contiguous(),
        "ids": torch.frombuffer(bytearray(names), dtype=torch.uint8) if names else torch.zeros(0, dtype=torch.uint8),
    }
    facts = {"description": description, "skipped": stored.skipped, "checksum": _checksum(tensors)}
    # One entry only: safetensors writes several in a random order.
    with whole(path) as temporary:
        save_file(tensors, temporary, metadata={"logitfusion": json.dumps(facts, sort_keys=True)})


def read_description(path: str | Path) -> dict[str, Any]:
    """The description a file was written with, without its tensors.

    Raises:
        UserError: the file is missing or broken.
    """
    return _open(path, with_tensors=False)[0]["description"]


def read_stored(path: str | Path) -> Stored:
    """A file's content, held against its checksum.

    Raises:
        UserError: the file is missing or broken.
    """
    facts, tensors = _open(path, with_tensors=True)
    if _checksum(tensors) != facts["checksum"]:
        raise UserError(f"The features in {path} are damaged; delete {name_output(path)} and run again.")
    names = tensors["ids"].numpy().tobytes().decode("utf-8", "surrogateescape")
    ids = names.split("\n") if names else []
    return Stored(tensors["values"], tensors["labels"], ids, facts["skipped"])


def _open(path: str | Path, *, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["logitfusion"])
            tensors = {name: file.get_tensor(name) for name in ("values", "labels", "ids")} if with_tensors else {}
            return facts, tensors
    except FileNotFoundError:
        raise UserError(f"The features {path} are not there; compute them first.") from None
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is not a readable feature file ({error}); delete {name_output(path)} and run again."
        ) from None


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
