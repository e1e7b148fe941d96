"""Support sets: k images of each class, drawn once, the same for every method, kept as a manifest.

A class's images have one random order for each seed, by their ids alone. So the 1-shot set is a part of the 2-shot set,
and neither another class, nor its images, nor the order of the table moves a class's draw.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.draws import group_places, shuffled
from logitfusion.errors import UserError
from logitfusion.files import whole
from logitfusion.formats.csv import read_csv

COLUMNS = ("id", "path", "index", "label", "class", "seed", "rank")


@dataclass(frozen=True)
class SupportSet:
    """Drawn images, class by class, each class in the order of its draw.

    Attributes:
        rows: the images.
        ranks: the place of each in its class's draw, from 0.
        seed: of the draw.
    """

    rows: list[ImageRow]
    ranks: list[int]
    seed: int

    def first(self, shots: int) -> SupportSet:
        """The support set of at most ``shots`` images a class."""
        kept = [place for place, rank in enumerate(self.ranks) if rank < shots]
        return SupportSet([self.rows[place] for place in kept], [self.ranks[place] for place in kept], self.seed)

    def short(self, shots: int) -> dict[int, int]:
        """The classes with fewer than ``shots`` images here: label -> how many."""
        have = Counter(row.label for row in self.rows)
        return {label: count for label, count in sorted(have.items()) if count < shots}


def draw_support(ids: Sequence[str], labels: Sequence[int], shots: int, seed: int) -> list[int]:
    """The places of ``shots`` images of each class, by label, each class in the order of its draw.

    A class with fewer images gives all it has.

    Raises:
        ValueError: ``shots`` below 1, or an id that is there twice.
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, not {shots}")
    if len(set(ids)) != len(ids):
        raise ValueError("an id is there twice")
    drawn = []
    for _, places in sorted(group_places(labels).items()):
        order = shuffled([ids[place] for place in places], seed, "support")
        drawn += [places[rank] for rank in order[:shots]]
    return drawn


def make_support(pool: Sequence[ImageRow], shots: int, seed: int) -> SupportSet:
    """The support set of a pool; smaller ones are its ``first``."""
    drawn = [pool[place] for place in draw_support([row.id for row in pool], [row.label for row in pool], shots, seed)]
    ranks = [rank for places in group_places([row.label for row in drawn]).values() for rank in range(len(places))]
    return SupportSet(drawn, ranks, seed)


def write_support(path: str | Path, support: SupportSet, classes: Sequence[str]) -> None:
    """Write the manifest: a CSV of ``id, path, index, label, class, seed, rank``."""
    with whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row, rank in zip(support.rows, support.ranks, strict=True):
            index = "" if row.index is None else row.index
            writer.writerow([row.id, row.path, index, row.label, classes[row.label], support.seed, rank])


def read_support(path: str | Path, pool: Sequence[ImageRow], classes: Sequence[str]) -> SupportSet:
    """Read a manifest and check it against the pool it was drawn from.

    The rows are the pool's own, so that a manifest written on another machine finds its images here.

    Raises:
        UserError: no manifest, an image that is not in the pool or has another class there, a class whose ranks are not
            0, 1, 2, ... in this order, or more than one seed.
    """
    known = {row.id: row for row in pool}
    rows, ranks, seeds, count = [], [], set(), Counter()
    columns, lines = read_csv(path, "support manifest")
    if tuple(columns) != COLUMNS:
        raise UserError(f"The support manifest {path} needs the columns {', '.join(COLUMNS)}.")
    for number, line in enumerate(lines, start=1):
        where = f"The support manifest {path}, image {number},"
        row = known.get(line["id"])
        if row is None:
            raise UserError(f"{where} names the image {line['id']!r}, which is not in the training pool.")
        if (line["label"], line["class"]) != (str(row.label), classes[row.label]):
            raise UserError(
                f"{where} gives {row.id!r} the class {line['class']!r}; the data set has {classes[row.label]!r}."
            )
        if line["rank"] != str(count[row.label]):
            raise UserError(f"{where} has the rank {line['rank']!r}; the class's next is {count[row.label]}.")
        count[row.label] += 1
        rows.append(row)
        ranks.append(int(line["rank"]))
        seeds.add(line["seed"])
    if len({row.id for row in rows}) != len(rows):
        raise UserError(f"The support manifest {path} has an image twice.")
    if len(seeds) != 1 or not (seed := seeds.pop()).lstrip("-").isdigit():
        raise UserError(f"The support manifest {path} needs images, and one seed for all of them.")
    return SupportSet(rows, ranks, int(seed))


def read_draw(path: str | Path) -> list[tuple[str, int]]:
    """The ids of a manifest with their ranks: all that a fit needs, which reads neither the pool nor the test set.

    Raises:
        UserError: no manifest.
    """
    columns, lines = read_csv(path, "support manifest")
    if tuple(columns) != COLUMNS or not all(line["rank"].isdigit() for line in lines):
        raise UserError(f"The support manifest {path} needs the columns {', '.join(COLUMNS)}.")
    return [(line["id"], int(line["rank"])) for line in lines]
