"""Few-shot CLIP: encoders, data sets, support sets, and the methods that are compared."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from logitfusion.config.datasets import DataSet
from logitfusion.config.encoders import Auxiliary, ClipEncoder
from logitfusion.config.section import Batch, Count, Distinct, Name, Positive, Section, Seed, Share, Views


def _read_setting(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise PydanticCustomError("cross", "must be a number or a text, and is {value}", {"value": repr(value)})
    return value


class FewShotMethod(Section):
    """A few-shot method, and what differs from its default settings."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, BeforeValidator(_read_setting)]] = Field(init=False)

    method: str | None = None
    """Which one, if it is not the name; all other keys are its settings (`logitfusion fewshot methods`)."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that are given."""
        return dict(self.__pydantic_extra__)


class Clip(Section):
    """The few-shot track."""

    encoder: ClipEncoder
    """The CLIP."""
    auxiliaries: dict[Name, Auxiliary] = {}
    """Name -> a second image encoder. Several are joined to one, in the order of their names."""
    datasets: Annotated[dict[Name, DataSet], Field(min_length=1)]
    """Name -> images to draw support sets from and to test on."""
    shots: Annotated[Distinct[Count], Field(min_length=1)] = (1, 2, 4, 8, 16)
    """Support images of each class; a class that has fewer gives all. Smaller sets are parts of larger ones."""
    seeds: Annotated[Distinct[Seed], Field(min_length=1)] = (0, 1, 2)
    """Every method is fitted with each; a seed decides the support set and the fit."""
    views: Views = 8
    """Of each support image in the feature cache: itself, and random crops."""
    seed: Seed | None = None
    """Of the random crops; the top-level seed when left out."""
    batch_size: Batch = 64
    """Views that are encoded at a time."""
    max_megapixels: Positive = 64.0
    """Larger images are skipped and named (megapixels)."""
    max_skipped: Share = 0.01
    """The share of unreadable images that is tolerated."""
    methods: Annotated[dict[Name, FewShotMethod], Field(min_length=1)]
    """Name -> {method: one of the few-shot methods, and settings of it}; {} is the method of that name."""
    baselines: Distinct[str] = ()
    """Methods that the gains of all others are counted from."""
    oracle: Distinct[str] = ()
    """Methods whose best test epoch is reported too, labelled so: how much a choice on test data flatters."""
    shown: str | None = None
    """The method whose answers are compared with CLIP's own in pictures; left out, amu, or the last that learns."""

    @model_validator(mode="after")
    def _check(self) -> Clip:
        if "clip" in self.auxiliaries:
            raise PydanticCustomError("sentence", "The name 'clip' is CLIP's own; rename that auxiliary.")
        for name, entry in self.datasets.items():
            if "==" in getattr(entry, "package", "") and entry.sha256 is None:
                words = f"Config key 'clip.datasets.{name}' lacks the key 'sha256' of its package; add it."
                raise PydanticCustomError("sentence", words.replace("{", "{{"))
        return self
