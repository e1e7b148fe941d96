"""The feature cache: what a frozen encoder makes of a split's images, computed once, never mistaken for another's.

A file's name is the hash of all that decides its content: encoder, transform, views, seed, split, and the id, label and
bytes of every image in order. Support and test features are separate files, and who fits can't open the test's.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.images import MAX_MEGAPIXELS, check_skipped, hash_image
from logitfusion.clip.features.files import Stored, read_description, read_stored, write_stored
from logitfusion.clip.features.views import Encoder, Views, encode_rows, join
from logitfusion.errors import UserError
from logitfusion.files import remove
from logitfusion.provenance import hash_json

logger = logging.getLogger(__name__)

Split = Literal["support", "test"]
SPLITS = ("support", "test")
PIECE = 256  # images between two checkpoints
LAYOUT = 1  # of the files; a change of it invalidates all earlier ones


@dataclass(frozen=True)
class Features:
    """Features of a split's readable images.

    Attributes:
        values: ``[n, views, D]`` fp32 of unit norm; view 0 is the plain image, the others are random augmentations.
        labels: ``[n]`` int64.
        ids: the images' ids.
        skipped: the ids of the images that could not be read -> why.
        key: the name of all this in the cache.
    """

    values: Tensor
    labels: Tensor
    ids: list[str]
    skipped: dict[str, str]
    key: str


def describe_features(
    rows: Sequence[ImageRow], encoder: Encoder, *, split: Split, views: Views, workers: int = 2
) -> dict[str, Any]:
    """All that decides the features, as plain JSON values. Every image's bytes are read for it.

    The seed is left out where there are no random views, so that several seeds share one test set's features.
    """
    digest = hashlib.sha256()
    with ThreadPoolExecutor(workers) as pool:
        for row, content in zip(rows, pool.map(hash_image, rows), strict=True):
            digest.update(json.dumps([row.id, row.label, content]).encode())
    return {
        "layout": LAYOUT,
        "encoder": encoder.fingerprint,
        "transform": encoder.transform,
        "libraries": {name: version(name) for name in ("pillow", "torch", "torchvision")},  # they decode and resize
        "split": split,
        "views": views.count,
        "seed": views.seed if views.count > 1 else None,
        "max_megapixels": views.max_megapixels,
        "images": digest.hexdigest(),
    }


def feature_key(description: dict[str, Any]) -> str:
    """The hash of a description: 64 hex digits."""
    return hash_json(description)


def cache_features(
    rows: Sequence[ImageRow],
    encoder: Encoder,
    folder: str | Path,
    *,
    split: Split,
    views: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 2,
    max_megapixels: float = MAX_MEGAPIXELS,
    max_skipped: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The file of a split's features in the cache ``folder``; computed if it is not there.

    A computation that was stopped goes on after its last whole piece, with the same result to the byte.

    Args:
        rows: the images, in the order of the features; no id twice.
        encoder: see ``views.Encoder``.
        split: ``support`` for all that something is fitted to, or ``test``.
        views: 1 for the plain image only; more add random ones, which depend on seed, image id and number only.
        seed: of the random views.
        batch_size: at most so many views are encoded at a time.
        workers: threads that decode and transform.
        max_megapixels: larger images are skipped.
        max_skipped: the largest share of unreadable images that is tolerated.
        progress: called with the images done and their number.

    Raises:
        UserError: too many unreadable images, or features that are zero or not finite.
        ValueError: no rows, no views, no batch, an id twice, or no such split.
    """
    if not rows or min(views, batch_size, workers) < 1 or split not in SPLITS:
        raise ValueError(f"nothing to do: {len(rows)} rows, {views} views, batches of {batch_size}, split {split!r}")
    if len({row.id for row in rows}) != len(rows):
        raise ValueError("an image is there twice")
    chosen = Views(views, seed, max_megapixels)
    description = describe_features(rows, encoder, split=split, views=chosen, workers=workers)
    target = Path(folder) / f"{feature_key(description)}.safetensors"
    stored = _read_if_true(target, description)
    if stored is None:
        pieces = target.with_suffix(".pieces")
        with ThreadPoolExecutor(workers) as pool:
            stored = _compute(rows, encoder, chosen, pieces, description, batch_size, pool, max_skipped, progress)
        write_stored(target, stored, description)
        remove(pieces)
    check_skipped(stored.skipped, len(rows), max_skipped)
    if stored.skipped:
        names = ", ".join(stored.skipped)
        logger.warning("%d of %d images can't be read and are left out: %s", len(stored.skipped), len(rows), names)
    return target


def read_features(path: str | Path, *, purpose: Literal["fit", "evaluate"], key: str | None = None) -> Features:
    """Features of the cache, in fp32 and of unit norm.

    Args:
        path: what ``cache_features`` gave.
        purpose: ``fit`` for whatever trains or chooses anything: it can't open test features.
        key: if given, the file must hold just these features.

    Raises:
        UserError: the file is missing, broken, of another key, or the test's where something is fitted.
        ValueError: no such purpose.
    """
    if purpose not in ("fit", "evaluate"):
        raise ValueError(f"features are read to fit or to evaluate, not to {purpose!r}")
    description = read_description(path)
    if purpose == "fit" and description.get("split") != "support":
        raise UserError(f"{path} holds test features; nothing may be fitted to them, only the evaluation reads them.")
    found = feature_key(description)
    if key not in (None, found):
        raise UserError(
            f"{path} holds other features than asked for ({found[:12]}, not {key[:12]}); compute them again."
        )
    stored = read_stored(path)
    values = torch.nn.functional.normalize(stored.values.float(), dim=-1)
    return Features(values, stored.labels, stored.ids, stored.skipped, found)


def _read_if_true(path: Path, description: dict[str, Any]) -> Stored | None:
    """A file's content if it is whole and of this very description."""
    if not path.exists():
        return None
    try:
        return read_stored(path) if read_description(path) == description else None
    except UserError as error:
        logger.warning("computing again: %s", error)
        return None


def _compute(
    rows: Sequence[ImageRow],
    encoder: Encoder,
    views: Views,
    pieces: Path,
    description: dict[str, Any],
    batch_size: int,
    pool: ThreadPoolExecutor,
    max_skipped: float,
    progress: Callable[[int, int], None] | None,
) -> Stored:
    """The features of all rows, piece by piece; pieces that are there are not computed again."""
    parts: list[Stored] = []
    skipped: dict[str, str] = {}
    for start in range(0, len(rows), PIECE):

        def report(done: int, start: int = start) -> None:
            if progress is not None:
                progress(start + done, len(rows))

        piece, labelled = pieces / f"{start:08d}.safetensors", {**description, "start": start}
        part = _read_if_true(piece, labelled)
        if part is None:
            part = encode_rows(
                rows[start : start + PIECE], encoder, views, batch_size=batch_size, pool=pool, progress=report
            )
            write_stored(piece, part, labelled)
        else:
            report(min(PIECE, len(rows) - start))
        parts.append(part)
        skipped |= part.skipped
        check_skipped(skipped, len(rows), max_skipped)
    if not any(part.ids for part in parts):
        raise UserError("None of the images can be read; there are no features to keep.")
    ids = [name for part in parts for name in part.ids]
    return Stored(join([part.values for part in parts]), torch.cat([part.labels for part in parts]), ids, skipped)
