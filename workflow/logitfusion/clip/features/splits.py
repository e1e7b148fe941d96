"""A split's features as a file, which says whether they are the support's or the test's: who fits can't open those."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from logitfusion.clip.features.encode import Encoded, Split
from logitfusion.clip.features.files import (
    need_tensors,
    pack_digests,
    pack_text,
    read_tensors,
    unpack_digests,
    unpack_text,
    write_tensors,
)
from logitfusion.config.section import Section
from logitfusion.errors import UserError

_TENSORS = {
    "values": (torch.float16, 3),
    "labels": (torch.int64, 1),
    "ids": (torch.uint8, 1),
    "digests": (torch.uint8, 2),
}


class SplitFacts(Section):
    """What a file of features says of itself."""

    split: Split
    """Whose features they are."""
    skipped: dict[str, str]
    """The ids of the images that could not be read -> why."""


@dataclass(frozen=True)
class Features:
    """What one encoder sees in a split's readable images.

    Attributes:
        values: ``[n, views, D]`` fp32 of unit norm; view 0 is the plain image, the others are random augmentations.
        labels: ``[n]`` int64.
        ids: the images' ids.
        digests: the SHA-256 of each image's bytes, in hex.
        skipped: the ids of the images that could not be read -> why.
    """

    values: Tensor
    labels: Tensor
    ids: list[str]
    digests: list[str]
    skipped: dict[str, str]


def write_features(path: str | Path, encoded: Encoded, encoder: str, split: Split) -> None:
    """Write what one of the encoders sees, in fp16; equal features give equal bytes."""
    tensors = {
        "values": encoded.features[encoder].half(),
        "labels": encoded.labels,
        "ids": pack_text(encoded.ids),
        "digests": pack_digests(encoded.digests),
    }
    write_tensors(path, tensors, {"split": split, "skipped": encoded.skipped})


def read_features(path: str | Path, *, purpose: Literal["fit", "evaluate"]) -> Features:
    """What ``write_features`` wrote, in fp32 and of unit norm.

    Args:
        purpose: ``fit`` for whatever trains or chooses anything: it can't open test features.

    Raises:
        UserError: the file is missing or broken, or the test's where something is fitted.
        ValueError: no such purpose.
    """
    if purpose not in ("fit", "evaluate"):
        raise ValueError(f"features are read to fit or to evaluate, not to {purpose!r}")
    facts, read = read_tensors(path, SplitFacts)
    if purpose == "fit" and facts.split != "support":
        raise UserError(f"{path} holds test features; nothing may be fitted to them, only the evaluation reads them.")
    need_tensors(path, read, _TENSORS)
    ids, n = unpack_text(read["ids"]), len(read["values"])
    if (len(read["labels"]), len(ids), read["digests"].shape) != (n, n, (n, 32)):
        raise UserError(f"{path} is not of this version of logitfusion: its tensors are of unlike lengths.")
    values = F.normalize(read["values"].float(), dim=-1)
    return Features(values, read["labels"], ids, unpack_digests(read["digests"]), facts.skipped)
