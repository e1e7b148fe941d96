"""Encoders by name on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitfusion.clip.encoders.load import ClipEncoder, ImageEncoder, find_in_folder, load_auxiliary, load_clip
from logitfusion.errors import UserError

CLIP_FORMS = (
    "a folder that holds a CLIP (results/<run>/clip/encoder, say), open_clip:MODEL/TAG (or TAG@REVISION), or"
    " checkpoint:MODEL:FILE"
)
AUXILIARY_FORMS = (
    "timm:MODEL, timm:MODEL@REVISION, torchvision:MODEL, torchvision:MODEL/WEIGHTS, or checkpoint:MODEL:FILE"
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
        return {"source": "path", **_parse_checkpoint(spec, rest)}
    if Path(spec).is_dir():
        return find_in_folder(Path(spec).resolve())
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
    raise UserError(f"There is no auxiliary encoder {spec!r}; give {AUXILIARY_FORMS}.")


def _parse_revision(rest: str) -> tuple[str, dict[str, str]]:
    """What stands before @REVISION of the hub, and the entry's key for that, if it is given."""
    named, _, revision = rest.partition("@")
    return named, {"revision": revision} if revision else {}


def _parse_checkpoint(spec: str, rest: str) -> dict[str, str]:
    model, _, file = rest.partition(":")
    if not model or not file:
        raise UserError(f"{spec!r} needs both model and file; write it as checkpoint:MODEL:FILE.")
    if not Path(file).is_file():
        raise UserError(f"The weights file {file} of {spec!r} is not there.")
    return {"model": model, "path": str(Path(file).resolve())}


@dataclass(frozen=True)
class Encoders:
    """A CLIP and its auxiliaries, perhaps none."""

    clip: ClipEncoder
    auxiliary: list[ImageEncoder]

    def by_role(self) -> dict[str, ImageEncoder]:
        """``clip``, ``auxiliary 1``, ``auxiliary 2``, ...: their names in a head file."""
        return {"clip": self.clip} | {f"auxiliary {number}": one for number, one in enumerate(self.auxiliary, 1)}

    def fingerprints(self) -> dict[str, str]:
        return {role: encoder.fingerprint for role, encoder in self.by_role().items()}


def load_encoders(clip: dict[str, Any], auxiliary: Sequence[dict[str, Any]]) -> Encoders:
    """Encoders of entries as ``parse_clip`` and ``parse_auxiliary`` give them."""
    return Encoders(load_clip(clip), [load_auxiliary(entry) for entry in auxiliary])
