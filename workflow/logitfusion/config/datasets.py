"""Image data sets of the few-shot track."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from logitfusion.config.packages import DebianPackage, NpmPackage, Package
from logitfusion.config.section import (
    FOLDER,
    Count,
    PositiveShare,
    Prompt,
    Section,
    Seed,
    Sha256,
    Some,
    Text,
    number,
    one_of,
    text,
)

DataPackage = text(
    r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+~:-]*\Z|^(?!.*==)[^{}\x00-\x1f]+\.(tgz|deb)\Z",
    "NAME==VERSION of npm (emoji) or Debian (all others), or the path of a fetched one, without braces",
)


def _allow_shifted(schema: dict[str, Any]) -> None:
    """For editors: a shifted set takes all that it lacks from its origin, so only its source is needed."""
    schema["required"] = ["source"]


class _DataSet(Section):
    model_config = ConfigDict(json_schema_extra=_allow_shifted)

    test_images: Count | None = None
    """At most so many test images, drawn by seed."""
    seed: Seed = 0
    """Of the split and of what test_images draws."""
    prompts: Some[Prompt] | None = None
    """Sentences with {} for the class; the set's own when left out. A shifted set is asked with those of its origin."""
    shift_of: str | None = None
    """A set of the same classes whose heads are tested on this one, out of distribution; its values are defaults."""


class _Packaged(_DataSet):
    registry: ClassVar[type[Package]]

    package: DataPackage
    """NAME==VERSION of the registry, or the path of a fetched package."""
    sha256: Sha256 | None = None
    """SHA-256 of the package; needed with NAME==VERSION."""

    @property
    def packages(self) -> tuple[Package, ...]:
        """The package, if it has to be fetched."""
        fetched = "==" in self.package and self.sha256 is not None
        return (self.registry.model_construct(package=self.package, sha256=self.sha256),) if fetched else ()


class EmojiSet(_Packaged):
    """Emojis of an npm package emoji-datasource-*."""

    registry: ClassVar[type[Package]] = NpmPackage

    source: Literal["emoji"]
    vendor: Text
    """google, twitter, apple or facebook, as in the package's name."""
    classes: Annotated[dict[str, Some[str]], Field(min_length=2)]
    """Class, as it is written in a prompt -> the package's subcategories that it is made of."""
    build_share: number(ge=0, lt=1) = 0.25
    """The share of each class that is left to build a CLIP from."""
    test_share: number(gt=0, lt=1) = 0.5
    """The test's share of the rest."""


class FashionMnist(_Packaged):
    """Fashion-MNIST out of Debian's package."""

    registry: ClassVar[type[Package]] = DebianPackage

    source: Literal["fashion_mnist"]


class PackagedFolders(_Packaged):
    """Folders of images in a package of Debian."""

    registry: ClassVar[type[Package]] = DebianPackage

    source: Literal["packaged"]
    below: Text
    """The folder inside the package that holds those of the classes."""
    classes: Annotated[dict[str, Text], Field(min_length=2)]
    """Class, as it is written in a prompt -> its folder."""
    test_share: PositiveShare = 0.5
    """The test's share of the images."""


def _read_names(value: Any) -> Any:
    """A mapping of texts, or the path of one."""
    texts = list(value.values()) if isinstance(value, dict) else [value]
    if value is not None and not all(isinstance(one, str) for one in texts):
        raise PydanticCustomError("cross", "must map folders to texts, or name a JSON file of such a mapping")
    odd = [str(key) for key in value if not re.search(FOLDER, str(key))] if isinstance(value, dict) else []
    if odd:
        raise PydanticCustomError("cross", "has {folder}, which is no name of a folder", {"folder": repr(odd[0])})
    return value


class FolderSet(_DataSet):
    """A folder of images for each class."""

    source: Literal["folder"]
    path: Text
    """A folder with one folder of images for each class."""
    test_path: str | None = None
    """A second such folder; without it, test_share of the images."""
    test_share: PositiveShare = 0.5
    """The test's share of the images."""
    class_names: Annotated[dict[str, str] | str | None, BeforeValidator(_read_names)] = None
    """Folder -> the class as it is written in a prompt, or a JSON file of that."""


class CsvSet(_DataSet):
    """Images listed in a CSV."""

    source: Literal["csv"]
    path: Text
    """A CSV with the columns path, label and perhaps split (train or test)."""
    root: str | None = None
    """Where its paths start; the CSV's folder when left out."""
    test_share: PositiveShare = 0.5
    """The test's share of the images, without a column split."""


class BenchmarkSet(_DataSet):
    """One of the benchmark sets, from a local folder."""

    source: Literal["torchvision"]
    name: Literal[
        "imagenet", "caltech101", "oxford_pets", "stanford_cars", "flowers102", "food101", "fgvc_aircraft", "sun397",
        "dtd", "eurosat", "ucf101", "imagenet_v2", "imagenet_sketch",
    ]  # fmt: skip
    """The set; the last two are tested on alone, with shift_of: imagenet."""
    root: Text
    """The folder in torchvision's or CoOp's layout; nothing is downloaded."""
    coop_split: str | None = None
    """CoOp's split_zhou_*.json; else the official or a seeded split."""
    images: str | None = None
    """The folder of its images, if it is none of the usual."""
    test_share: PositiveShare = 0.5
    """The test's share of the images, where there is no official split."""


DataSet = one_of(
    "source", emoji=EmojiSet, fashion_mnist=FashionMnist, packaged=PackagedFolders, folder=FolderSet, csv=CsvSet,
    torchvision=BenchmarkSet,
)  # fmt: skip
