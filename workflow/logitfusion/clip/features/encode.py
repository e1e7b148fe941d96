"""What encoders see in images: features of every readable one, each picture read once for all encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn import functional as F

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.images import MAX_MEGAPIXELS, hash_image
from logitfusion.clip.features.cache import Split, cache_features, read_features
from logitfusion.clip.features.views import Encoder
from logitfusion.errors import UserError

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
        """Those of all other encoders side by side, made unit again: ``[n, views, D_aux]``; None without any."""
        others = [values for name, values in self.features.items() if name != CLIP]
        return F.normalize(torch.cat(others, -1), dim=-1) if others else None


def encode_images(
    rows: Sequence[ImageRow],
    encoders: Mapping[str, Encoder],
    folder: Path | None,
    *,
    split: Split,
    views: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    max_megapixels: float = MAX_MEGAPIXELS,
    max_skipped: float = 0.01,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """The images' features, out of the cache ``folder`` where they are there; without one nothing is kept.

    Args:
        rows: the images; no id twice.
        encoders: by name; ``clip`` is CLIP.
        folder: of the cache, which several runs may use at once.
        split: ``support`` for all that something is fitted to, or ``test``.
        views: 1 for the plain image only; more add random ones, which depend on seed, content and number only.
        seed: of the random views.
        batch_size: at most so many views are encoded at a time.
        max_megapixels: larger images are skipped.
        max_skipped: the largest share of unreadable images that is tolerated.
        workers: threads that read and transform.
        progress: called with the images done and their number, of those that have to be encoded.

    Raises:
        UserError: too many unreadable images, none that can be read, or features that are zero or not finite.
        ValueError: no rows, no views, no batch, or an id twice.
    """
    with ThreadPoolExecutor(workers) as pool:
        digest_of = dict(zip((row.id for row in rows), pool.map(hash_image, rows), strict=True))
    read = {}
    with nullcontext(folder) if folder is not None else TemporaryDirectory() as cache:
        for name, encoder in encoders.items():
            path = cache_features(
                rows, encoder, cache, split=split, views=views, seed=seed, batch_size=batch_size, workers=workers,
                max_megapixels=max_megapixels, max_skipped=max_skipped, progress=progress,
            )  # fmt: skip
            read[name] = read_features(path, purpose="fit" if split == "support" else "evaluate")
    first = read[CLIP]
    if any(other.ids != first.ids for other in read.values()):
        raise UserError("Images changed while they were read; run again.")
    features = {name: one.values for name, one in read.items()}
    return Encoded(features, first.labels, first.ids, [digest_of[name] for name in first.ids], first.skipped)
