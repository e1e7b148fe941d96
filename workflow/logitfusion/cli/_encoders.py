"""The encoders of a command line, and what they see in images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from tqdm import tqdm

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.encoders.errors import worded_for
from logitfusion.clip.encoders.load import (
    ClipEncoder,
    ImageEncoder,
    join_features,
    load_auxiliary,
    load_clip,
)
from logitfusion.clip.features.cache import cache_features, read_features
from logitfusion.errors import UserError


@dataclass(frozen=True)
class Encoders:
    """A CLIP and its auxiliaries, perhaps none."""

    clip: ClipEncoder
    auxiliary: list[ImageEncoder]

    def by_role(self) -> dict[str, ImageEncoder]:
        """``clip``, ``auxiliary 1``, ``auxiliary 2``, ...: their names in a head file."""
        return {"clip": self.clip} | {f"auxiliary {number}": one for number, one in enumerate(self.auxiliary, 1)}

    def fingerprints(self) -> dict[str, str]:
        return {role: encoder.fingerprint for role, encoder in self.by_role().items()}


def load_encoders(clip: dict[str, Any], auxiliary: Sequence[dict[str, Any]]) -> Encoders:
    """Encoders of entries as ``parse_clip`` and ``parse_auxiliary`` give them.

    Raises:
        UserError: see ``load_clip`` and ``load_auxiliary``; it names the options ``--clip`` and ``--auxiliary``.
    """
    with worded_for("--clip"):
        seen = load_clip(clip)
    with worded_for("--auxiliary"):
        return Encoders(seen, [load_auxiliary(entry) for entry in auxiliary])


@dataclass(frozen=True)
class Encoded:
    """Features of the images that can be read.

    Attributes:
        clip: ``[n, views, D]`` fp32, unit norm.
        auxiliary: ``[n, views, D_aux]``, all auxiliaries side by side, or None.
        labels: ``[n]`` int64.
        ids: the images' ids.
        skipped: the ids of images that can't be read -> why.
    """

    clip: Tensor
    auxiliary: Tensor | None
    labels: Tensor
    ids: list[str]
    skipped: dict[str, str]


def encode_images(
    rows: Sequence[ImageRow],
    encoders: Encoders,
    folder: Path | None,
    *,
    split: Literal["support", "test"],
    views: int = 1,
    seed: int = 0,
    max_skipped: float,
) -> Encoded:
    """The images' features, out of the cache ``folder`` where they are there; without one nothing is kept.

    Raises:
        UserError: more unreadable images than the share ``max_skipped``.
    """
    parts = []
    with _cache(folder) as cache, _no_warnings(), tqdm(total=len(rows), unit=" images", disable=None) as bar:
        for role, encoder in encoders.by_role().items():
            bar.set_description(role)
            bar.reset()
            path = cache_features(
                rows,
                encoder,
                cache,
                split=split,
                views=views,
                seed=seed,
                max_skipped=max_skipped,
                progress=lambda done, _: bar.update(done - bar.n),
            )
            parts.append(read_features(path, purpose="fit" if split == "support" else "evaluate"))
    clip, *others = parts
    if any(other.ids != clip.ids for other in others):
        raise UserError("Images changed while they were read; run again.")
    auxiliary = join_features([other.values for other in others]) if others else None
    return Encoded(clip.values, auxiliary, clip.labels, clip.ids, clip.skipped)


@contextmanager
def _cache(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """The cache warns of unreadable images once for each encoder; the commands report them once."""
    logger = logging.getLogger(cache_features.__module__)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
