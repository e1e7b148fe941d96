"""Emojis of the npm packages ``emoji-datasource-*``: a few-shot data set, its twin by another vendor, and captions.

Each emoji is drawn by several vendors. Some emojis of a class build a CLIP (picture and caption), the others are its
few-shot pool and test; another vendor's pictures of the same test emojis are a test out of distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitfusion.clip.data.dataset import DataSet, ImageRow, make_data
from logitfusion.clip.data.draws import draw_share
from logitfusion.errors import UserError
from logitfusion.fetch.archives import unpack_tar
from logitfusion.files import read_json, remove, whole
from logitfusion.integrity import check_files

PROMPTS = ["a picture of a {}.", "{}"]


@dataclass(frozen=True)
class Pair:
    """A picture and its caption, to build a CLIP from. ``id`` is the vendor and the emoji's code points."""

    id: str
    path: str
    caption: str


def unpack_emoji(package: str | Path, vendor: str, folder: str | Path, sha256: str | None = None) -> None:
    """Unpack a vendor's 64-pixel pictures, without variants of skin colour, and their table, into ``folder``.

    Raises:
        UserError: the package is not that vendor's, or its SHA-256 is another.
    """
    pictures = f"package/img/{vendor}/64/"

    def needed(name: str) -> bool:
        # Variants of skin colour have one of the five modifiers in their code points.
        return name == "package/emoji.json" or (name.startswith(pictures) and not _has_skin_colour(Path(name).stem))

    with whole(folder) as temporary:
        temporary.mkdir()
        names = unpack_tar(package, needed, temporary, sha256)
        if "package/emoji.json" not in names or len(names) < 2:
            raise UserError(f"{package} has no emojis by {vendor!r}; it is not the package emoji-datasource-{vendor}.")
        (temporary / "package" / "emoji.json").rename(temporary / "emoji.json")
        (temporary / "package" / "img" / vendor / "64").rename(temporary / "pictures")
        remove(temporary / "package")


def _has_skin_colour(points: str) -> bool:
    return any(point in SKIN_COLOURS for point in points.lower().split("-"))


SKIN_COLOURS = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})


def read_emoji(entry: dict[str, Any], package: str | Path, folder: str | Path) -> DataSet:
    """The few-shot data set, unpacked to ``folder``: the emojis of the classes that don't build the CLIP.

    Keys: ``classes``, a mapping from a class's name to its subcategories; ``vendor``; ``build_share``, the share of
    each class that is left to ``emoji_pairs``; ``test_share``, the test's share of the rest; ``seed``; optional
    ``prompts``. The splits go by figure (a cook, be it a man or a woman, is one figure), the same for every vendor.
    """
    vendor, classes, seed, prompts = entry["vendor"], entry["classes"], entry["seed"], entry.get("prompts") or PROMPTS
    unpack_emoji(package, vendor, folder, entry.get("sha256"))
    listed, building, tested = _split(entry, Path(folder))
    rows: dict[bool, list[ImageRow]] = {False: [], True: []}
    for place, (emoji, label) in enumerate(listed):
        if place not in building:
            rows[place in tested].append(ImageRow(_name(vendor, emoji), _picture(folder, emoji), label))
    return make_data(f"The emoji set of {vendor}", list(classes), prompts, rows[False], rows[True], f"seeded {seed}")


def emoji_pairs(entry: dict[str, Any], folder: str | Path) -> list[Pair]:
    """Pictures and captions to build a CLIP from: all emojis that belong to no class, ``build_share`` of each class.

    Raises:
        UserError: a file has changed since it was unpacked.
    """
    check_files(folder)
    vendor = entry["vendor"]
    listed, building, _ = _split(entry, Path(folder))
    held_out = {_name(vendor, emoji) for place, (emoji, _) in enumerate(listed) if place not in building}
    pairs = [Pair(_name(vendor, emoji), _picture(folder, emoji), caption(emoji)) for emoji in _read(Path(folder))]
    return [pair for pair in pairs if pair.id not in held_out]


def _split(entry: dict[str, Any], folder: Path) -> tuple[list[tuple[dict[str, Any], int]], set[int], set[int]]:
    """The classes' emojis with their labels, the places of those that build the CLIP, and of those of the test."""
    classes, seed = entry["classes"], entry["seed"]
    build_share, test_share = entry["build_share"], entry["test_share"]
    label_of = _labels(classes)
    listed = [(emoji, label_of[emoji["subcategory"]]) for emoji in _read(folder) if emoji["subcategory"] in label_of]
    missing = set(label_of) - {emoji["subcategory"] for emoji, _ in listed}
    if missing:
        raise UserError(f"No emoji is of the subcategory {sorted(missing)[0]!r}; correct the data set's classes.")
    members: dict[tuple[int, str], list[int]] = {}
    for place, (emoji, label) in enumerate(listed):
        members.setdefault((label, figure(emoji["unified"])), []).append(place)
    building = _draw(members, build_share, seed, "build")
    rest = {key: places for key, places in members.items() if places[0] not in building}
    return listed, building, _draw(rest, test_share, seed, "test")


def _draw(members: dict[tuple[int, str], list[int]], share: float, seed: int, purpose: str) -> set[int]:
    keys = list(members)
    drawn = draw_share([name for _, name in keys], [label for label, _ in keys], share, seed, purpose)
    return {place for number in drawn for place in members[keys[number]]}


def _labels(classes: dict[str, list[str]]) -> dict[str, int]:
    label_of: dict[str, int] = {}
    for label, (name, subcategories) in enumerate(classes.items()):
        for subcategory in subcategories:
            if subcategory in label_of:
                raise UserError(f"The emoji class {name!r} has the subcategory {subcategory!r}, which another has too.")
            label_of[subcategory] = label
    return label_of


def _read(folder: Path) -> list[dict[str, Any]]:
    """The table's emojis that have a picture, by code points; without the bare modifiers of skin colour."""
    emojis = [emoji for emoji in read_json(folder / "emoji.json") if not _has_skin_colour(emoji["unified"])]
    have = {file.name for file in (folder / "pictures").iterdir()}
    return sorted((emoji for emoji in emojis if emoji["image"] in have), key=lambda emoji: emoji["unified"])


def _name(vendor: str, emoji: dict[str, Any]) -> str:
    return f"{vendor}/{emoji['unified']}"


def _picture(folder: str | Path, emoji: dict[str, Any]) -> str:
    return str(Path(folder) / "pictures" / emoji["image"])


# Man, woman, person; male and female sign; "to the right".
_VARIANTS = frozenset({"1F468", "1F469", "1F9D1", "2640", "2642", "27A1"})


def figure(unified: str) -> str:
    """What an emoji shows, whatever its sex and the side it faces: the joined parts that are no variant of it."""
    parts = [part.strip("-").removesuffix("-FE0F") for part in unified.upper().split("200D")]
    return "-".join(part for part in parts if part not in _VARIANTS) or parts[0]


def caption(emoji: dict[str, Any]) -> str:
    """An emoji's name and its short names, in words: ``"grinning face with smiling eyes, grin, smile"``."""
    words = [" ".join(text.lower().replace("_", " ").split()) for text in [emoji["name"], *emoji["short_names"]]]
    return ", ".join(dict.fromkeys(words))
