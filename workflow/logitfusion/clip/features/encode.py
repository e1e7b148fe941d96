"""What encoders see in images: features of every readable one, each picture read once for all encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.images import MAX_MEGAPIXELS, MISSING, check_skipped, hash_image
from logitfusion.clip.features import BATCH_SIZE
from logitfusion.clip.features.cache import Cache, Table
from logitfusion.clip.features.compute import compute_missing
from logitfusion.clip.features.views import Encoder, ViewMaker
from logitfusion.errors import UserError

Split = Literal["support", "test"]
CLIP = "clip"  # the name of CLIP among encoders; all others are auxiliary


@dataclass(frozen=True)
class Encoded:
    """Features of the images that can be read, in the order they were given.

    Attributes:
        features: of each encoder, by its name: ``[n, views, D]`` fp32 of unit norm, view 0 is the plain image.
        labels: ``[n]`` int64.
        ids: the images' ids.
        digests: the SHA-256 of each image's bytes, in hex; images of equal content have equal ones.
        skipped: the ids of images that can't be read -> why.
    """

    features: Mapping[str, Tensor]
    labels: Tensor
    ids: list[str]
    digests: list[str]
    skipped: dict[str, str]

    @property
    def clip(self) -> Tensor:
        """CLIP's features, ``[n, views, D]``."""
        return self.features[CLIP]

    @cached_property
    def auxiliary(self) -> Tensor | None:
        """Those of all other encoders as one's, ``[n, views, D_aux]``; None without any."""
        return join_features([values for name, values in self.features.items() if name != CLIP])


def join_features(features: Sequence[Tensor]) -> Tensor | None:
    """Several encoders as one: unit features ``[..., D_i]`` side by side, made unit again, ``[..., sum of D_i]``."""
    return F.normalize(torch.cat(list(features), dim=-1), dim=-1) if features else None


def encode_images(
    rows: Sequence[ImageRow],
    encoders: Mapping[str, Encoder],
    folder: str | Path | None,
    *,
    split: Split,
    views: int = 1,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    max_megapixels: float = MAX_MEGAPIXELS,
    max_skipped: float = 0.01,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """The images' features, out of the cache ``folder`` where they are there; without one nothing is kept.

    Each image is read once for all encoders, and images of equal content are encoded once. A call that was stopped
    goes on after its last whole piece, with the same result to the byte.

    Args:
        rows: the images; no id twice.
        encoders: by name; ``clip`` is CLIP.
        folder: of the cache, which several runs may use at once.
        split: ``support`` for what something is fitted to, so that an image has to be readable, or ``test``.
        views: 1 for the plain image only; more add random ones, which depend on seed, content and number only.
        seed: of the random views.
        batch_size: at most so many views are encoded at a time.
        max_megapixels: larger images are skipped.
        max_skipped: the largest share of unreadable images that is tolerated.
        workers: threads that read and transform.
        progress: called with the images done and their number, of those that have to be encoded.

    Raises:
        UserError: too many unreadable images, or features that are zero or not finite.
        ValueError: no rows, no views, no batch, no such split, or an id twice.
    """
    if not rows or min(views, batch_size, workers) < 1 or split not in ("support", "test"):
        raise ValueError(f"nothing to do: {len(rows)} rows, {views} views, batches of {batch_size}, split {split!r}")
    if len({row.id for row in rows}) != len(rows):
        raise ValueError("an image is there twice")
    maker, unread = ViewMaker(encoders, seed, max_megapixels), {}
    with ThreadPoolExecutor(workers) as pool:
        digests = pool.map(hash_image, rows)
        # Files that can't be opened are not one image.
        contents = [f"{one} {row.id}" if one == MISSING else one for row, one in zip(rows, digests, strict=True)]
        images: dict[str, ImageRow] = {}
        for content, row in zip(contents, rows, strict=True):
            images.setdefault(content, row)
        tables = {name: Table(list(images), views) for name in encoders}
        caches = {} if folder is None else {name: Cache.of(folder, one, maker) for name, one in encoders.items()}
        for name, cache in caches.items():
            cache.fill(tables[name])
        note = progress or (lambda *_: None)
        for some in compute_missing(images, maker, tables, caches, batch_size=batch_size, pool=pool, progress=note):
            unread |= some
            check_skipped(_skipped(rows, contents, unread), len(rows), max_skipped)
    encoded = _gather(rows, contents, tables, encoders, unread)
    if not encoded.ids and split == "support":
        raise UserError("None of the images can be read; there is nothing to learn from.")
    return encoded


def _skipped(rows: Sequence[ImageRow], contents: Sequence[str], unread: Mapping[str, str]) -> dict[str, str]:
    return {row.id: unread[content] for row, content in zip(rows, contents, strict=True) if content in unread}


def _gather(
    rows: Sequence[ImageRow],
    contents: Sequence[str],
    tables: Mapping[str, Table],
    encoders: Mapping[str, Encoder],
    unread: Mapping[str, str],
) -> Encoded:
    """The features of the images that can be read, out of those of their contents."""
    kept = [(row, content) for row, content in zip(rows, contents, strict=True) if content not in unread]
    features = {}
    for name, table in tables.items():
        places = torch.tensor([table.place[content] for _, content in kept], dtype=torch.int64)
        values = table.values if table.values is not None else _no_features(encoders[name], table.known.shape[1])
        features[name] = F.normalize(values[places].float(), dim=-1)
    return Encoded(
        features=features,
        labels=torch.tensor([row.label for row, _ in kept], dtype=torch.int64),
        ids=[row.id for row, _ in kept],
        digests=[content for _, content in kept],
        skipped=_skipped(rows, contents, unread),
    )


def _no_features(encoder: Encoder, views: int) -> Tensor:
    """``[0, views, D]``; a white picture tells D."""
    white = encoder.preprocess(Image.new("RGB", encoder.size[::-1], "white"))
    with torch.inference_mode():
        return torch.zeros(0, views, encoder.encode_images(white[None]).shape[-1])
