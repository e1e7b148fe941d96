"""Encoders by name on the command line; nothing here needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from logitfusion.clip.encoders.entries import find_in_folder
from logitfusion.clip.encoders.packages import find_package
from logitfusion.errors import UserError

CLIP_FORMS = (
    "a folder that holds a CLIP (results/<run>/clip/encoder, or one of transformers' CLIPs), open_clip:MODEL/TAG (or"
    " TAG@REVISION), or checkpoint:MODEL:FILE"
)
AUXILIARY_FORMS = (
    "timm:MODEL, timm:MODEL@REVISION, torchvision:MODEL, torchvision:MODEL/WEIGHTS, checkpoint:MODEL:FILE, or"
    " package:PACKAGE:MODEL (PACKAGE: NAME==VERSION or a wheel; with several files in it package:PACKAGE:FILE:MODEL)"
)


def parse_clip(spec: str) -> dict[str, Any]:
    """The entry of ``load_clip`` for one of ``CLIP_FORMS``; its path is absolute.

    Raises:
        UserError: it is none of them, or its file is not there.
    """
    source, _, rest = spec.partition(":")
    named, revision = _parse_revision(rest)
    model, _, tag = named.rpartition("/")
    if source == "open_clip" and model and tag:
        return {"source": "open_clip", "model": model, "pretrained": tag, **revision}
    if source == "checkpoint":
        return {"source": "path", **_parse_activation(_parse_checkpoint(spec, rest))}
    if Path(spec).is_dir():
        return find_in_folder(Path(spec).resolve())
    if Path(spec).is_file():
        raise UserError(f"{spec} is a file; say which of open_clip's models it is of, as checkpoint:MODEL:{spec}.")
    raise UserError(f"There is no CLIP {spec!r}; give {CLIP_FORMS}.")


def parse_auxiliary(spec: str) -> dict[str, Any]:
    """The entry of ``load_auxiliary`` for one of ``AUXILIARY_FORMS``; its path is absolute.

    Raises:
        UserError: it is none of them, or its file is not there.
    """
    source, _, rest = spec.partition(":")
    model, slash, weights = rest.partition("/")
    named, revision = _parse_revision(rest)
    if source == "timm" and named:
        return {"source": "timm", "model": named, "pretrained": True, **revision}
    if source == "torchvision" and model and bool(slash) == bool(weights):
        return {"source": "torchvision", "model": model, "weights": weights or "DEFAULT"}
    if source == "checkpoint":
        return {"source": "checkpoint", **_parse_checkpoint(spec, rest)}
    if source == "package":
        place, *file, model = rest.split(":") if rest.count(":") in (1, 2) else ("", "")
        if not place or not model:
            raise UserError(f"{spec!r} needs package and model; write it as package:NAME==VERSION:MODEL.")
        return find_package(place, file[0] if file else None, model)
    raise UserError(f"There is no auxiliary encoder {spec!r}; give {AUXILIARY_FORMS}.")


def _parse_revision(rest: str) -> tuple[str, dict[str, str]]:
    """What stands before @REVISION of the hub, and the entry's key for that, if it is given."""
    named, _, revision = rest.partition("@")
    return named, {"revision": revision} if revision else {}


def _parse_activation(entry: dict[str, str]) -> dict[str, Any]:
    """MODEL-gelu is the answer to the question which activation a checkpoint of MODEL was trained with.

    open_clip itself has names for the other answer, MODEL-quickgelu.
    """
    plain = entry["model"].removesuffix("-gelu")
    return {**entry, "model": plain, "quick_gelu": False} if plain != entry["model"] else dict(entry)


def _parse_checkpoint(spec: str, rest: str) -> dict[str, str]:
    model, _, file = rest.partition(":")
    if not model or not file:
        raise UserError(f"{spec!r} needs both model and file; write it as checkpoint:MODEL:FILE.")
    if not Path(file).is_file():
        raise UserError(f"The weights file {file} of {spec!r} is not there.")
    return {"model": model, "path": str(Path(file).resolve())}
