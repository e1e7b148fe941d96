"""Image sets in miniature, in the folders that ``config/paper`` names below one root (CoOp's layout, ImageNet's)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class CoopSet:
    """One of CoOp's sets.

    Attributes:
        images: the folder that the paths of its split start from.
        path: of an image there, of the class's name and a number.
        split: CoOp's file, beside or above the images.
    """

    images: str
    path: str
    split: str


COOP = {
    "caltech101": CoopSet(
        "caltech-101/101_ObjectCategories", "{name}/image_{number:04}.jpg", "caltech-101/split_zhou_Caltech101.json"
    ),
    "oxford_pets": CoopSet("oxford_pets/images", "{name}_{number}.jpg", "oxford_pets/split_zhou_OxfordPets.json"),
    "stanford_cars": CoopSet(
        "stanford_cars", "cars_train/{number:05}.jpg", "stanford_cars/split_zhou_StanfordCars.json"
    ),
    "flowers102": CoopSet(
        "oxford_flowers/jpg", "image_{number:05}.jpg", "oxford_flowers/split_zhou_OxfordFlowers.json"
    ),
    "food101": CoopSet("food-101/images", "{name}/{number}.jpg", "food-101/split_zhou_Food101.json"),
    "sun397": CoopSet("sun397/SUN397", "a/{name}/sun_{number}.jpg", "sun397/split_zhou_SUN397.json"),
    "dtd": CoopSet("dtd/images", "{name}/{name}_{number:04}.jpg", "dtd/split_zhou_DescribableTextures.json"),
    "eurosat": CoopSet("eurosat/2750", "{name}/{name}_{number}.jpg", "eurosat/split_zhou_EuroSAT.json"),
    "ucf101": CoopSet(
        "ucf101/UCF-101-midframes", "{name}/v_{name}_g{number:02}_c01.jpg", "ucf101/split_zhou_UCF101.json"
    ),
}
CLASSES = ("first_thing", "second_thing", "third_thing")
SYNSETS = ("n01440764", "n01443537", "n01484850")  # ImageNet's first classes
PARTS = {"train": 4, "val": 1, "test": 2}  # images of each class


def write_images(root: Path) -> None:
    """All sets, below one folder."""
    for one in COOP.values():
        _write_coop(root, one)
    _write_imagenet(root)
    _write_aircraft(root / "fgvc-aircraft-2013b" / "data")


def _write_coop(root: Path, one: CoopSet) -> None:
    split: dict[str, list[tuple[str, int, str]]] = {}
    number = 0
    for part, count in PARTS.items():
        split[part] = []
        for label, name in enumerate(CLASSES):
            for _ in range(count):
                number += 1
                path = one.path.format(name=name, number=number)
                _draw(root / one.images / path, label, number)
                split[part].append((path, label, name))
    (root / one.split).write_text(json.dumps(split), encoding="utf-8")


def _write_imagenet(root: Path) -> None:
    """With both sets that its heads are tested on out of distribution; V2's folders are the labels."""
    folders = {"imagenet/train": SYNSETS, "imagenet/val": SYNSETS, "imagenet-sketch/images": SYNSETS}
    folders["imagenetv2/imagenetv2-matched-frequency-format-val"] = tuple(map(str, range(len(SYNSETS))))
    for seed, (folder, names) in enumerate(folders.items()):
        for label, name in enumerate(names):
            for number in range(PARTS["train"]):
                _draw(root / folder / name / f"{name}_{number}.JPEG", label, 100 * seed + number)


def _write_aircraft(folder: Path) -> None:
    """With its official lists of images."""
    number = 0
    for part, count in PARTS.items():
        lines = []
        for label, name in enumerate(CLASSES):
            for _ in range(count):
                number += 1
                _draw(folder / "images" / f"{number:07}.jpg", label, number)
                lines.append(f"{number:07} {name}")
        (folder / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "variants.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")


def _draw(path: Path, label: int, seed: int) -> None:
    """Noise on the class's colour."""
    colour = np.array([label * 60, 160 - label * 60, label % 2 * 90])
    noise = np.random.default_rng(1000 * label + seed).integers(0, 60, (40, 48, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((noise + colour).astype(np.uint8)).save(path, "JPEG")
