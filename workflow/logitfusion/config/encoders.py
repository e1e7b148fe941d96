"""Image encoders of the few-shot track: the CLIP, and auxiliary ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, model_serializer

from logitfusion.config.clip_recipe import ClipRecipe
from logitfusion.config.packages import PackageFile
from logitfusion.config.section import (
    Positive,
    PositiveShare,
    Real,
    Requirement,
    Revision,
    Section,
    Seed,
    Sha256,
    Text,
    one_of,
)

Pretraining = Text | None
Side = Annotated[int, Field(ge=1, le=4096)]


class ImageTower(PackageFile):
    """A pretrained image classifier in a wheel."""

    model: Text
    """The model's name in timm."""


class BuiltClip(Section):
    """A CLIP built here of two pretrained towers."""

    source: Literal["built"]
    pairs: str
    """An emoji data set; its captioned pictures that are neither support nor test are learnt from."""
    image_tower: ImageTower
    """The image encoder; file: its weights inside the wheel."""
    text_tower: PackageFile
    """The text encoder; file: the zip of a sentence encoder inside the wheel."""
    recipe: ClipRecipe = ClipRecipe()
    """How the MLP between the towers is trained."""
    pretraining: Pretraining = None
    """What it was trained on, in words: every table names it."""

    @property
    def packages(self) -> tuple[PackageFile, ...]:
        """Those of both towers."""
        return self.image_tower, self.text_tower


class OpenClip(Section):
    """Weights of open_clip."""

    source: Literal["open_clip"]
    model: Text
    """ViT-B-16, RN50, ...; QuickGELU is chosen by the weights."""
    pretrained: Text
    """openai, laion2b_s34b_b88k, ..."""
    revision: Revision = "main"
    """Of the weights' repository on the hub."""
    pretraining: Pretraining = None
    """What it was trained on, in words: every table names it."""


class PathClip(Section):
    """A checkpoint of this machine, or the folder of a CLIP: results/<run>/clip/encoder of another run, say."""

    source: Literal["path"]
    path: Text
    """A checkpoint, or a folder that holds a CLIP (one of transformers, too)."""
    model: Text | None = None
    """The model of open_clip that a checkpoint is of; a folder says so itself."""
    quick_gelu: bool | None = None
    """Whether a checkpoint was trained with that activation, where neither model nor file says it (OpenAI's do)."""
    pretraining: Pretraining = None
    """What it was trained on, in words: every table names it."""


class RandomClip(Section):
    """A tiny CLIP of random initialisation, for tests."""

    source: Literal["random"]
    seed: Seed = 0
    """Of the random weights."""
    pretraining: Pretraining = None
    """What it was trained on, in words: every table names it."""


ClipEncoder = one_of("source", built=BuiltClip, open_clip=OpenClip, path=PathClip, random=RandomClip)


class Preprocess(Section):
    """In place of timm's own data config; only what is given counts."""

    input_size: Annotated[tuple[Side, Side, Side], Strict(False)] | None = None
    """[3, height, width] (pixels)."""
    crop_pct: PositiveShare | None = None
    """Share of the side that a centre crop keeps."""
    mean: Annotated[tuple[Real, Real, Real], Strict(False)] | None = None
    """Of each channel."""
    std: Annotated[tuple[Positive, Positive, Positive], Strict(False)] | None = None
    """Of each channel."""
    interpolation: Literal["bicubic", "bilinear"] | None = None
    """Of resizing."""

    @model_serializer(mode="wrap")
    def _only_given(self, serialize: Any) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if value is not None}


class _Auxiliary(Section):
    model: Text
    """An architecture of timm or torchvision."""
    pretraining: Pretraining = None
    """What it was trained on, in words: every table names it, or says that it is unknown."""
    preprocess: Preprocess = Preprocess()
    """In place of timm's own data config."""


class PackageAuxiliary(_Auxiliary):
    """Weights in a wheel."""

    source: Literal["package"]
    package: Requirement
    """NAME==VERSION."""
    sha256: Sha256
    """SHA-256 of the downloaded wheel."""
    file: Text
    """The weights inside the wheel."""

    @property
    def packages(self) -> tuple[PackageFile, ...]:
        """The package."""
        return (PackageFile(package=self.package, sha256=self.sha256, file=self.file),)


class TimmAuxiliary(_Auxiliary):
    """Weights of timm."""

    source: Literal["timm"]
    pretrained: bool = True
    """false: random weights (tests)."""
    revision: Revision = "main"
    """Of the weights' repository on the hub."""


class TorchvisionAuxiliary(_Auxiliary):
    """Weights of torchvision."""

    source: Literal["torchvision"]
    weights: Text
    """IMAGENET1K_V2 and the like."""


class CheckpointAuxiliary(_Auxiliary):
    """A checkpoint of this machine; MoCo v3 and DINO are understood."""

    source: Literal["checkpoint"]
    path: Text
    """The checkpoint."""


Auxiliary = one_of(
    "source",
    package=PackageAuxiliary,
    timm=TimmAuxiliary,
    torchvision=TorchvisionAuxiliary,
    checkpoint=CheckpointAuxiliary,
)
