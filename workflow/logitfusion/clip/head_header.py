"""What a head file says of its head: names, settings and versions, each of a type."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Literal, Self, get_type_hints

from pydantic import ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from logitfusion.clip.calibration import Calibration
from logitfusion.clip.fitting.compare import Comparison
from logitfusion.clip.heads import CacheHead, FusedHead, Head, LinearHead
from logitfusion.config.encoders import (
    CheckpointAuxiliary,
    OpenClip,
    PathClip,
    TimmAuxiliary,
    TorchvisionAuxiliary,
)
from logitfusion.config.section import Count, Listed, NonNegative, Section, Seed, Sha256, Text, Whole, one_of

KINDS: dict[str, type[Head]] = {kind.__name__: kind for kind in (LinearHead, CacheHead, FusedHead)}


class _ClipFolder(Section):
    """A folder that says itself which CLIP it holds."""

    source: Literal["built", "transformers"]
    path: Text


class _Wheel(Section):
    """An auxiliary encoder out of a package on this machine."""

    source: Literal["package"]
    package: Text | None = None
    model: Text
    path: Text
    file: Text
    sha256: Sha256


_Clip = one_of("source", open_clip=OpenClip, path=PathClip, built=_ClipFolder, transformers=_ClipFolder)
_Auxiliary = one_of(
    "source", timm=TimmAuxiliary, torchvision=TorchvisionAuxiliary, checkpoint=CheckpointAuxiliary, package=_Wheel
)


class Entries(Section):
    """Where a head's encoders came from: entries of ``load_clip`` and ``load_auxiliary``."""

    clip: _Clip
    auxiliary: Listed[_Auxiliary]


class Metadata(Section):
    """What is known of how a head was made; a head of ``save_head`` alone may lack all of it, and have more."""

    model_config = ConfigDict(extra="allow")

    prompts: Listed[str] = ()
    """Templates of CLIP's texts."""
    transforms: dict[str, str] = Field(default_factory=dict)
    """Encoder -> what its preprocessing does."""
    shots: Count | None = None
    seed: Seed | None = None
    views: Count | None = None
    images: Whole | None = None
    seconds: NonNegative | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    folders: Listed[str] = ()
    """The folders that the classes were filed under, in the order of the classes."""
    entries: Entries | None = None
    counts: Listed[Whole] = ()
    """Images of each class."""
    digests: Listed[Sha256] = ()
    """The SHA-256 of the images that were learnt from."""
    calibration: Calibration | None = None
    clip_calibration: Calibration | None = None
    comparison: Comparison | None = None


class Header(Section):
    """The header of a head file."""

    version: Whole
    kind: Literal["LinearHead", "CacheHead", "FusedHead"]
    """The class of ``heads``."""
    values: dict[str, Any]
    """What is no tensor of it, see ``values_of``."""
    class_names: Annotated[list[str], Field(min_length=2)]
    """In the order of the logits."""
    encoders: dict[str, str]
    """The hash of each by its name."""
    epochs: Annotated[int, Field(ge=0, le=100_000)]
    """Snapshots, of the head after each epoch."""
    metadata: Metadata

    @model_validator(mode="after")
    def _count_classes(self) -> Self:
        """Lists by class have as many parts as there are classes, of which each is there once."""
        for name in ("counts", "folders"):
            if len(getattr(self.metadata, name)) not in (0, len(self.class_names)):
                message = f"has {name} of other classes than class_names"
                raise PydanticCustomError("cross", message, {"key": "metadata"})
        if len(set(self.class_names)) < len(self.class_names):
            raise PydanticCustomError("cross", "names a class twice", {"key": "class_names"})
        return self


@cache
def values_of(kind: str) -> type[Section]:
    """The section of a kind of head's fields that are no tensors; None stands for a tensor that it lacks."""
    types = get_type_hints(KINDS[kind])
    own: dict[str, Any] = {}
    for field in fields(KINDS[kind]):
        if types[field.name] == Tensor | None:
            own[field.name] = (None, None)
        elif types[field.name] is not Tensor:
            own[field.name] = (types[field.name], ...)
    return create_model(kind, __base__=Section, **own)
