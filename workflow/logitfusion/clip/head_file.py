"""One trained head in one safetensors file: tensors, and what is needed to use them elsewhere. No pickle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from logitfusion.artefact import parse_artefact
from logitfusion.clip.features.files import read_tensors, write_tensors
from logitfusion.clip.head_header import KINDS, Header, values_of
from logitfusion.clip.heads import Head
from logitfusion.errors import UserError, first_line
from logitfusion.files import name_output

VERSION = 3
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

    Raises:
        ValueError: another number of class names than the head has classes, or one that is there twice.
    """
    if len(class_names) != head.classes or len(set(class_names)) < head.classes:  # such a file could not be loaded
        raise ValueError(f"a head of {head.classes} classes has as many different class_names, not {list(class_names)}")
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
    write_tensors(path, tensors, header)


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
    return _build(path, header, tensors), header


def load_snapshots(path: str | Path) -> list[Head]:
    """The heads after each epoch, if they were saved."""
    header, tensors = _read(path)
    heads = []
    for epoch in range(header["epochs"]):
        changed = {name: tensors.get(_EPOCH.format(epoch) + name, tensor) for name, tensor in tensors.items()}
        heads.append(_build(path, header, changed))
    return heads


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    made = name_output(path)  # of a workflow's folder, or a file of the command line's
    mend = "give one that `fewshot` wrote: copy it again, or fit it again" if made == "it" else None
    facts, tensors = read_tensors(path, mend=mend)
    version = facts.get("version")
    if not isinstance(version, int) or "class_names" not in facts:
        raise UserError(f"{path} is a file of tensors, but not of a few-shot head: give one that `fewshot` wrote.")
    if version != VERSION:
        way = "fit it again" if version < VERSION else "update logitfusion, or fit it again"
        raise UserError(
            f"{path} has version {version} of the head file, and this logitfusion reads version {VERSION}: {way}."
        )
    header = parse_artefact(path, Header, facts)
    values = parse_artefact(path, values_of(header.kind), header.values)
    header = header.model_copy(update={"values": values.dump()})
    return header.dump(exclude_unset=True), tensors


def _tensors(head: Head) -> dict[str, Tensor]:
    return {f.name: value for f in fields(head) if isinstance(value := getattr(head, f.name), Tensor)}


def _build(path: str | Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> Head:
    kind, own = KINDS[header["kind"]], {}
    for name, tensor in tensors.items():
        if name in {f.name for f in fields(kind)}:
            own[name] = tensor
    try:
        head = kind(**{**header["values"], **own})
    except (TypeError, ValueError) as error:  # a tensor that is not there, or of another shape than the others
        raise UserError(f"{path} holds no {kind.__name__} ({first_line(error)}); fit it again.") from None
    if head.classes != len(header["class_names"]):
        raise UserError(
            f"{path} has weights for {head.classes} classes, and names for {len(header['class_names'])}; fit it again."
        )
    wrong = next((name for name, value in own.items() if not value.isfinite().all()), None)
    if wrong is not None:
        raise UserError(f"{path} has numbers that are not finite in {wrong!r}; fit it again.")
    return head
