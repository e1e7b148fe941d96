"""A data set for few-shot classification: the tidy table of its images, its classes and its prompts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from logitfusion.artefact import DIGEST, UNSEALED, check_seal, parse_artefact, seal
from logitfusion.clip.data.draws import draw_share, shuffled
from logitfusion.clip.data.names import label_by_text, same_text, text_key
from logitfusion.config.section import Listed, Section
from logitfusion.errors import UserError, first_line
from logitfusion.files import whole
from logitfusion.formats.json import parse_json

PROMPT = "a photo of a {}."


class DataFacts(Section):
    """What a data set's table says beside its images."""

    classes: Listed[str]
    prompts: Listed[str]
    split: str
    left_out: dict[str, str]


FACTS = tuple(DataFacts.model_fields)
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("index", pa.int64()),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class ImageRow:
    """One image.

    Attributes:
        id: names the image within its data set; does not depend on where the data set is.
        path: its file; with ``index``, an array file (.npy) of uint8 images ``[n, h, w]`` or ``[n, h, w, 3]``.
        label: its class, a place in ``DataSet.classes``.
        index: its place in the array file, or None.
    """

    id: str
    path: str
    label: int
    index: int | None = None


@dataclass(frozen=True)
class DataSet:
    """Images to draw support sets from and images to test on.

    Attributes:
        classes: the names, as they go into a prompt.
        prompts: templates with one ``{}`` each.
        train: the pool that support sets are drawn from; empty for a data set that is only tested on.
        test: the test images.
        split: who split them: ``official``, ``CoOp``, ``given`` (by the user's own files) or ``seeded S`` (by us, with
            seed S: not to be compared with published numbers); a cut test set is marked too.
        left_out: files that are there and not used -> why not.
    """

    classes: list[str]
    prompts: list[str]
    train: list[ImageRow]
    test: list[ImageRow]
    split: str
    left_out: dict[str, str] = field(default_factory=dict)


def make_data(
    name: str,
    classes: Sequence[str],
    prompts: Sequence[str],
    train: list[ImageRow],
    test: list[ImageRow],
    split: str,
    left_out: Mapping[str, str] | None = None,
) -> DataSet:
    """A data set whose parts fit together; ``name`` is for messages.

    Raises:
        UserError: what ``check_images`` and ``check_classes`` refuse, a class has no image to learn from, there is
            nothing to test on, or a prompt has no place for a class.
    """
    check_images(name, [*train, *test])
    if not test:
        raise UserError(f"{name} has no test images; correct its path or its test share.")
    check_classes(name, classes, [*train, *test])
    learned = {row.label for row in train}
    missing = [one for label, one in enumerate(classes) if label not in learned] if train else []
    if missing:
        raise UserError(f"{name} has no training image of the class {missing[0]!r} ({len(missing)} such classes).")
    wrong = [prompt for prompt in prompts if prompt.count("{}") != 1]
    if wrong or not prompts:
        raise UserError(
            f"{name}: a prompt needs one {{}} for the class, {wrong[0] if wrong else 'and there is none'!r}."
        )
    return DataSet(list(classes), list(prompts), train, test, split, dict(left_out or {}))


def check_images(name: str, rows: Iterable[ImageRow]) -> None:
    """Refuse a file that is there twice, under two spellings of its path too; ``name`` is for messages.

    Raises:
        UserError: such a file, or a line break in an image's name.
    """
    ids: set[str] = set()
    files: dict[tuple[str, int | None], str] = {}
    for row in rows:
        if "\n" in row.id:
            raise UserError(f"{name} has an image with a line break in its name ({row.id!r}); rename it.")
        file = (os.path.abspath(row.path), row.index)  # noqa: PTH100 (resolving links would ask the disk)
        if row.id in ids or file in files:
            other = files.get(file, row.id)
            spelt = f", once spelt {other!r}" if other != row.id else ""
            raise UserError(
                f"{name} has the image {row.id!r} twice{spelt}; each image is in one split, with one label."
            )
        ids.add(row.id)
        files[file] = row.id


def check_classes(name: str, classes: Sequence[str], rows: Sequence[ImageRow]) -> None:
    """Refuse classes that prompts can't tell apart, and fewer than two; ``name`` is for messages.

    Raises:
        UserError: such classes, with an image of each.
    """
    if len(classes) < 2:
        raise UserError(f"{name} has the class {', '.join(classes)} alone; a classifier needs at least two.")
    for group in same_text(classes):
        first = {row.label: row.id for row in reversed(rows)}
        places = [label for label, one in enumerate(classes) if text_key(one) == text_key(group[0])]
        named = ", ".join(f"{classes[place]!r} ({first.get(place, 'no image')})" for place in places)
        raise UserError(
            f"{name} has several classes that CLIP reads as one text: {named}; make them one, or give them class names"
            " that differ in more than capitals, accents' encoding and spaces."
        )


def split_rows(
    name: str, rows: Sequence[ImageRow], share: float | None, seed: int | None
) -> tuple[list[ImageRow], list[ImageRow], str]:
    """Train and test rows and the split's label: ``share`` of each class for the test, by ``seed`` and ids alone.

    Raises:
        UserError: the entry has no ``test_share`` or no ``seed``, or the share is out of range.
    """
    if share is None or seed is None:
        key = "test_share" if share is None else "seed"
        raise UserError(f"{name} has no split of its own; give its entry the key {key}.")
    if not 0 < share <= 1:
        raise UserError(f"{name}: test_share is a share above 0, at most 1, not {share}.")
    tested = draw_share([row.id for row in rows], [row.label for row in rows], share, seed, "test")
    train = [row for place, row in enumerate(rows) if place not in tested]
    return train, [row for place, row in enumerate(rows) if place in tested], f"seeded {seed}"


def cut_test(data: DataSet, count: int | None, seed: int) -> DataSet:
    """The data set with at most ``count`` test images, drawn at random, in their old order."""
    if count is None or count >= len(data.test):
        return data
    kept = sorted(shuffled([row.id for row in data.test], seed, "cut")[:count])
    split = f"{data.split}, {count} of {len(data.test)} test images"
    return replace(data, test=[data.test[place] for place in kept], split=split)


def match_classes(data: DataSet, classes: Sequence[str]) -> DataSet:
    """The same images under another data set's labels, for a test out of distribution.

    Names that are one text to CLIP are one class.

    Raises:
        UserError: one has a class that the other lacks.
    """
    place, own = label_by_text(classes), label_by_text(data.classes)
    odd = sorted(one for one in {*data.classes, *classes} if text_key(one) in place.keys() ^ own.keys())
    if odd:
        raise UserError(f"The two data sets don't have the same classes: only one has {odd[0]!r} ({len(odd)} such).")

    def moved(rows: Iterable[ImageRow]) -> list[ImageRow]:
        return [replace(row, label=place[text_key(data.classes[row.label])]) for row in rows]

    return replace(data, classes=list(classes), train=moved(data.train), test=moved(data.test))


def save_data(data: DataSet, path: str | Path) -> None:
    """Write the table as one parquet file: ``id, path, index, label, part``, the rest in its metadata, sealed."""
    parts = [("train", row) for row in data.train] + [("test", row) for row in data.test]
    columns = {
        "id": [row.id for _, row in parts],
        "path": [row.path for _, row in parts],
        "index": [row.index for _, row in parts],
        "label": [row.label for _, row in parts],
        "part": [part for part, _ in parts],
    }
    facts = json.dumps({key: getattr(data, key) for key in FACTS}, ensure_ascii=False)
    table = pa.table(columns, schema=_SCHEMA.with_metadata({"logitfusion": facts, DIGEST: UNSEALED}))
    with whole(path) as temporary:
        pq.write_table(table, temporary)
        seal(temporary)


def load_data(path: str | Path) -> DataSet:
    """Read what ``save_data`` wrote.

    Raises:
        UserError: the file is not there, is damaged, or is none of ours.
    """
    check_seal(path)
    try:
        table = pq.read_table(path)
        facts = parse_json(table.schema.metadata[b"logitfusion"].decode(), str(path))
        rows = table.cast(_SCHEMA).to_pylist()
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable data set ({first_line(error)}); delete it and run again.") from None
    told = parse_artefact(path, DataFacts, facts)
    parts: dict[str, list[ImageRow]] = {"train": [], "test": []}
    for row in rows:
        if row["part"] not in parts or not 0 <= row["label"] < len(told.classes):
            raise UserError(f"{path} has the image {row['id']!r} in no part or of no class; delete it and run again.")
        parts[row["part"]].append(ImageRow(row["id"], row["path"], row["label"], row["index"]))
    return DataSet(list(told.classes), list(told.prompts), **parts, split=told.split, left_out=told.left_out)
