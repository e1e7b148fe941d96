"""One trained head in one safetensors file: tensors, and what is needed to use them elsewhere. No pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from logitfusion.clip.features.files import checksum
from logitfusion.clip.heads import CacheHead, FusedHead, Head, LinearHead
from logitfusion.errors import UserError
from logitfusion.files import name_output, whole

VERSION = 2
_KINDS = {kind.__name__: kind for kind in (LinearHead, CacheHead, FusedHead)}
_EPOCH = "epoch_{}."


def save_head(
    path: str | Path,
    head: Head,
    *,
    class_names: Sequence[str],
    encoders: dict[str, str],
    metadata: dict[str, Any] | None = None,
    snapshots: Sequence[Head] = (),
) -> None:
    """Write a head, whole or not at all.

    Args:
        class_names: in the order of the logits.
        encoders: the hash of each encoder by its name, as ``load_head`` will be asked for.
        metadata: anything JSON can hold: preprocessing, prompts, shots, versions.
        snapshots: the head after each epoch, for an evaluation that reports an oracle; only tensors that differ are
            written again.
    """
    tensors = _tensors(head)
    for epoch, snapshot in enumerate(snapshots):
        changed = {name: tensor for name, tensor in _tensors(snapshot).items() if not tensor.equal(tensors[name])}
        tensors |= {_EPOCH.format(epoch) + name: tensor for name, tensor in changed.items()}
    header = {
        "version": VERSION,
        "kind": type(head).__name__,
        "values": {f.name: value for f in fields(head) if not isinstance(value := getattr(head, f.name), Tensor)},
        "class_names": list(class_names),
        "encoders": encoders,
        "epochs": len(snapshots),
        "metadata": metadata or {},
    }
    header["checksum"] = checksum(tensors, header)
    with whole(path) as temporary:
        text = json.dumps(header, sort_keys=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"logitfusion": text})


def load_head(path: str | Path, *, encoders: dict[str, str] | None = None) -> tuple[Head, dict[str, Any]]:
    """The head and its header: ``version class_names encoders epochs metadata ...``.

    Args:
        encoders: the hashes at hand; each that is named must be the one that the head was trained on.

    Raises:
        UserError: the file is missing, broken, of an unknown version, or of another encoder.
    """
    header, tensors = _read(path)
    for name, found in (encoders or {}).items():
        expected = header["encoders"].get(name)
        if found != expected:
            was = "was trained without it" if expected is None else f"was trained on {expected[:12]}"
            raise UserError(f"{path} {was}, but encoder {name} is {found[:12]}: use the same weights, or train again.")
    return _build(header, tensors), header


def load_snapshots(path: str | Path) -> list[Head]:
    """The heads after each epoch, if they were saved."""
    header, tensors = _read(path)
    heads = []
    for epoch in range(header["epochs"]):
        changed = {name: tensors.get(_EPOCH.format(epoch) + name, tensor) for name, tensor in tensors.items()}
        heads.append(_build(header, changed))
    return heads


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("logitfusion")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a readable head file ({error}); give one that `fewshot` wrote. If it was one, delete"
            f" {name_output(path)} and train again."
        ) from None
    try:
        header = json.loads(text or "null")
    except json.JSONDecodeError:
        header = None
    if not isinstance(header, dict) or not isinstance(header.get("version"), int):
        raise UserError(f"{path} is a safetensors file, but not of a few-shot head: give one that `fewshot` wrote.")
    if header["version"] != VERSION:
        way = "fit it again" if header["version"] < VERSION else "update logitfusion, or fit it again"
        raise UserError(
            f"{path} has version {header['version']} of the head file, and this logitfusion reads version {VERSION}:"
            f" {way}."
        )
    told = header.pop("checksum", None)
    if checksum(tensors, header) != told:
        raise UserError(f"{path} is damaged: it is not what `fewshot` wrote; copy it again, or fit it again.")
    return header, tensors


def _tensors(head: Head) -> dict[str, Tensor]:
    return {f.name: value for f in fields(head) if isinstance(value := getattr(head, f.name), Tensor)}


def _build(header: dict[str, Any], tensors: dict[str, Tensor]) -> Head:
    kind = _KINDS[header["kind"]]
    names = {f.name for f in fields(kind)}
    return kind(**header["values"], **{name: tensor for name, tensor in tensors.items() if name in names})
