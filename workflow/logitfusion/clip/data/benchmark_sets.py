"""The few-shot benchmark sets of CoOp (Zhou et al., arXiv 2109.01134) from a local folder, not downloaded.

Eleven to learn and to test on, and two to test ImageNet's heads on, out of distribution.

With one of CoOp's files ``split_zhou_*.json`` the split is CoOp's; its validation images are not used. Without, it is
the official split where there is one (as torchvision reads it), else a seeded one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logitfusion.clip.data.coop import read_coop
from logitfusion.clip.data.dataset import DataSet, ImageRow, make_data, split_rows
from logitfusion.clip.data.folders import class_folders, list_images
from logitfusion.clip.data.found import find_images
from logitfusion.clip.data.names import plain_name
from logitfusion.errors import UserError
from logitfusion.formats.text import read_text, split_lines


@dataclass(frozen=True)
class Listing:
    """What lies where a set was unpacked.

    Attributes:
        classes: the set's own names.
        train: (path, label) of the images to learn from.
        test: of those to test on; None where there is no official split.
        left_out: files that are not used -> why.
    """

    classes: list[str]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]] | None
    left_out: dict[str, str] = field(default_factory=dict)


def _keep_path(path: str | Path) -> str:
    """In place of torchvision's image loader: only the path is needed."""
    return str(path)


def _torchvision(name: str, train: tuple[str, ...], test: str = "test", **options: Any) -> Callable[[Path], Listing]:
    """A reader by a torchvision data set with official splits; ``train`` lists the splits that make the pool."""

    def read(root: Path) -> Listing:
        from torchvision import datasets

        def load(split: str) -> Any:
            return getattr(datasets, name)(str(root), split=split, loader=_keep_path, download=False, **options)

        splits = {split: load(split) for split in (*train, test)}
        items = {split: [data[place] for place in range(len(data))] for split, data in splits.items()}
        return Listing(list(splits[test].classes), [item for split in train for item in items[split]], items[test])

    return read


def _class_folders(*without: str) -> Callable[[Path], Listing]:
    """A reader of one folder a class, no official split; folders ``without`` are none of the set's classes."""

    def read(folder: Path) -> Listing:
        classes = [one for one in class_folders(folder) if one not in without]
        label_of = {one: label for label, one in enumerate(classes)}
        found = find_images(folder)
        files, left_out = [], dict(found.left_out)
        for file in found.images:
            label = label_of.get(file.relative_to(folder).parts[0])
            if label is None:
                left_out[str(file)] = "in no folder of one of the set's classes"
            else:
                files.append((str(file), label))
        return Listing(classes, files, None, left_out)

    return read


def _read_pets(root: Path) -> Listing:
    """``annotations/{trainval,test}.txt``: image, class from 1, species, breed. torchvision's class hides its paths."""
    folder = root / "oxford-iiit-pet"
    classes: dict[int, str] = {}
    parts = []
    for part in ("trainval", "test"):
        items = []
        for line in split_lines(read_text(folder / "annotations" / f"{part}.txt")):
            if line.strip() and not line.startswith("#"):
                image, number = line.split()[:2]
                classes[int(number) - 1] = image.rsplit("_", 1)[0]
                items.append((str(folder / "images" / f"{image}.jpg"), int(number) - 1))
        parts.append(items)
    return Listing([classes[label] for label in range(len(classes))], parts[0], parts[1])


def _read_imagenet(root: Path) -> Listing:
    """The folders ``train`` and ``val`` with a folder a class."""
    train, left_out = list_images(root / "train", (folders := class_folders(root / "train")))
    test: list[ImageRow] = []
    if (root / "val").is_dir():
        test, others = list_images(root / "val", folders)
        left_out |= others
    return Listing(_imagenet_names(folders), *map(_items, (train, test)), left_out)


def _read_imagenet_shift(folder: Path) -> Listing:
    """A folder a class, all images of which are tested on: ImageNet-V2's are numbers, ImageNet-Sketch's WordNet ids."""
    folders = class_folders(folder)
    test, left_out = list_images(folder, folders)
    return Listing(_imagenet_names(folders), [], _items(test), left_out)


def _items(rows: Iterable[ImageRow]) -> list[tuple[str, int]]:
    return [(row.path, row.label) for row in rows]


def _imagenet_names(folders: list[str]) -> list[str]:
    """open_clip's names for prompts of folders that are ImageNet's WordNet ids, or its classes' numbers, else theirs.

    It calls two pairs of classes alike, which prompts could not tell apart: one of each has WordNet's name for it.
    """
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    ids = ImageNetInfo("imagenet-1k").label_names()  # sorted, which is the order of open_clip's names
    own = {"n04008634": "projectile", "n04355933": "sunglass"}  # beside missile and sunglasses
    names = [own.get(id, name) for id, name in zip(ids, IMAGENET_CLASSNAMES, strict=True)]
    named = dict(zip([*ids, *map(str, range(len(ids)))], names * 2, strict=True))
    return [named[folder] for folder in folders] if set(folders) <= named.keys() else folders


def _read_sun(folder: Path) -> Listing:
    """Classes as in ``ClassName.txt`` (``/a/abbey``, ``/c/church/indoor``): the folders that hold images themselves."""
    files = sorted(file for file in folder.rglob("*.jpg"))
    # Without the letter: c/church/indoor -> "indoor church", as in CoOp.
    named = [" ".join(reversed(file.relative_to(folder).parts[1:-1])) for file in files]
    classes = sorted(set(named))
    label_of = {one: label for label, one in enumerate(classes)}
    return Listing(classes, [(str(file), label_of[one]) for file, one in zip(files, named, strict=True)], None)


def _read_ucf(root: Path) -> Listing:
    """``ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt`` and middle frames named as their videos."""
    lists = root / "ucfTrainTestlist"
    frames = {file.stem: str(file) for file in (root / "UCF-101-midframes").rglob("*.jpg")}
    classes = [line.split()[1] for line in split_lines(read_text(lists / "classInd.txt")) if line.strip()]
    label_of = {one: label for label, one in enumerate(classes)}
    parts = []
    for part in ("trainlist01", "testlist01"):
        videos = [line.split()[0] for line in split_lines(read_text(lists / f"{part}.txt")) if line.strip()]
        parts.append([(frames[Path(video).stem], label_of[Path(video).parent.name]) for video in videos])
    return Listing([_words(one) for one in classes], parts[0], parts[1])


def _words(name: str) -> str:
    """``ApplyEyeMakeup`` -> ``Apply Eye Makeup``."""
    return "".join(f" {letter}" if letter.isupper() and place else letter for place, letter in enumerate(name))


@dataclass(frozen=True)
class Benchmark:
    """Where a set is and how its classes are prompted.

    Attributes:
        read: lists its images, given the root (or the image folder, if ``from_images``).
        images: folders below the root, torchvision's and CoOp's, that the paths in CoOp's file start from.
        prompts: CoOp's hand-made template; for ImageNet the seven of Tip-Adapter are open_clip's simple templates.
        from_images: whether ``read`` takes the image folder.
        names: the set's own name of a class -> CoOp's, which the literature prompts with.
    """

    read: Callable[[Path], Listing]
    images: tuple[str, ...]
    prompts: tuple[str, ...]
    from_images: bool = False
    names: Callable[[str], str] = str


CALTECH101_NAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
EUROSAT_NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}


def _year_first(name: str) -> str:
    """``Audi S4 Sedan 2012`` -> ``2012 Audi S4 Sedan``."""
    *words, year = name.split()
    return " ".join([year, *words]) if year.isdigit() else name


# The pool is train + val where 16 shots need it (Flowers102 has 10 + 10 a class), and CoOp's choice for FGVC-Aircraft.
BENCHMARKS: dict[str, Benchmark] = {
    "imagenet": Benchmark(_read_imagenet, ("", "images", "imagenet/images", "imagenet"), ("a photo of a {}.",), True),
    "imagenet_v2": Benchmark(
        _read_imagenet_shift,
        ("imagenetv2/imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency-format-val"),
        ("a photo of a {}.",),
        True,
    ),
    "imagenet_sketch": Benchmark(
        _read_imagenet_shift, ("imagenet-sketch/images", "images", "sketch"), ("a photo of a {}.",), True
    ),
    "caltech101": Benchmark(
        # CoOp's 100 classes: without the clutter, and without the second crop of the same faces.
        _class_folders("BACKGROUND_Google", "Faces_easy"),
        ("caltech101/101_ObjectCategories", "caltech-101/101_ObjectCategories", "101_ObjectCategories"),
        ("a photo of a {}.",),
        True,
        lambda name: CALTECH101_NAMES.get(name, name),
    ),
    "oxford_pets": Benchmark(
        _read_pets, ("oxford-iiit-pet/images", "oxford_pets/images", "images"), ("a photo of a {}, a type of pet.",)
    ),
    "stanford_cars": Benchmark(
        _torchvision("StanfordCars", ("train",)), ("stanford_cars", ""), ("a photo of a {}.",), names=_year_first
    ),
    "flowers102": Benchmark(
        _torchvision("Flowers102", ("train", "val")),
        ("flowers-102/jpg", "oxford_flowers/jpg", "jpg"),
        ("a photo of a {}, a type of flower.",),
    ),
    "food101": Benchmark(
        _torchvision("Food101", ("train",)), ("food-101/images", "images"), ("a photo of {}, a type of food.",)
    ),
    "fgvc_aircraft": Benchmark(
        _torchvision("FGVCAircraft", ("train",)),
        ("fgvc-aircraft-2013b/data/images", "fgvc_aircraft/images", "images"),
        ("a photo of a {}, a type of aircraft.",),
    ),
    "sun397": Benchmark(_read_sun, ("SUN397", "sun397/SUN397"), ("a photo of a {}.",), True),
    "dtd": Benchmark(
        _torchvision("DTD", ("train", "val")), ("dtd/dtd/images", "dtd/images", "images"), ("{} texture.",)
    ),
    "eurosat": Benchmark(
        _class_folders(),
        ("eurosat/2750", "eurosat/EuroSAT", "2750"),
        ("a centered satellite photo of {}.",),
        True,
        lambda name: EUROSAT_NAMES.get(name, name),
    ),
    "ucf101": Benchmark(
        _read_ucf, ("UCF-101-midframes", "ucf101/UCF-101-midframes"), ("a photo of a person doing {}.",)
    ),
}


def read_benchmark(entry: dict[str, Any]) -> DataSet:
    """One of the sets.

    Keys: ``name`` (of ``BENCHMARKS``); ``root``, where torchvision would look for it, or the set's folder in CoOp's
    layout; optional ``coop_split``, the path of CoOp's JSON, and ``images``, the folder that its paths start from, if
    it is none of the usual; ``test_share`` and ``seed`` for a seeded split; optional ``prompts``.

    Raises:
        UserError: no such set, root or file, or files that don't fit the set.
    """
    name, root, images, coop = entry["name"], Path(entry["root"]), entry.get("images"), entry.get("coop_split")
    share, seed, prompts = entry.get("test_share"), entry.get("seed"), entry.get("prompts")
    if name not in BENCHMARKS:
        raise UserError(f"There is no benchmark set {name!r}; it is one of {', '.join(sorted(BENCHMARKS))}.")
    if not root.is_dir():
        raise UserError(f"The root {root} of {name} is not a folder; download the set there, nothing does it for you.")
    bench = BENCHMARKS[name]
    prompts = prompts or list(bench.prompts)
    place = root
    if coop or bench.from_images:
        place = Path(images) if images else _image_folder(name, root)
    if coop:
        classes, train, test, left_out = read_coop(Path(coop), place)
        rows, tested, split = train, test, "CoOp"
    else:
        found = _read_listing(name, place)
        classes, rows, left_out = found.classes, _rows(found.train, place), found.left_out
        if found.test is None:
            rows, tested, split = split_rows(name, rows, share, seed)
        else:
            tested, split = _rows(found.test, place), "official"
    return make_data(name, [plain_name(bench.names(one)) for one in classes], prompts, rows, tested, split, left_out)


def _read_listing(name: str, place: Path) -> Listing:
    try:
        return BENCHMARKS[name].read(place)
    except UserError as error:
        raise UserError(f"{name} can't be read from {place}: {error}") from None
    except (RuntimeError, OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(
            f"{name} can't be read from {place} ({type(error).__name__}: {error}); it must be there as torchvision"
            " unpacks it, or give coop_split."
        ) from error


def _image_folder(name: str, root: Path) -> Path:
    """The first of the usual folders of a set's images that exists."""
    usual = [root / folder for folder in BENCHMARKS[name].images]
    for folder in usual:
        # ImageNet's usual folders are parents of others: the one with the training images is meant.
        if folder.is_dir() and (name != "imagenet" or (folder / "train").is_dir()):
            return folder
    raise UserError(f"The images of {name} are in none of {', '.join(map(str, usual))}; correct root or give images.")


def _rows(items: list[tuple[str, int]], place: Path) -> list[ImageRow]:
    return [ImageRow(Path(path).relative_to(place).as_posix(), path, int(label)) for path, label in items]
