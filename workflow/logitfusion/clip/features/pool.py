"""A folder with all that a few-shot method may learn from: features of the support images, manifests, the classifier.

No test feature is ever written here, and what is read here is refused if it is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from logitfusion.clip.data.duplicates import groups
from logitfusion.clip.data.support import read_draw
from logitfusion.clip.features.encode import CLIP, Encoded
from logitfusion.clip.features.files import need_tensors, read_tensors, write_tensors
from logitfusion.clip.features.splits import read_features
from logitfusion.clip.heads import Support
from logitfusion.config.section import Positive, Section, Sha256, Some
from logitfusion.errors import UserError
from logitfusion.files import name_output, sha256

CLASSIFIER = "classifier.safetensors"


class PoolFacts(Section):
    """What belongs to a zero-shot classifier, and to the support images beside it."""

    classes: Some[str]
    """The names, in the order of the labels."""
    prompts: Some[str]
    """Templates that the classifier was made with."""
    encoders: dict[str, str]
    """Name -> hash of each, CLIP's too."""
    scale: Positive
    """``exp(logit_scale)`` of this CLIP."""
    manifests: dict[str, Sha256]
    """The SHA-256 of each manifest beside it."""


@dataclass(frozen=True)
class Pool:
    """The support images of all shots and seeds.

    Attributes:
        images: all of them, as one support set.
        ids: of the images, in the same order.
        digests: the SHA-256 of their bytes, in hex.
        facts: what ``write_classifier`` kept.
    """

    images: Support
    ids: list[str]
    digests: list[str]
    facts: PoolFacts
    folder: Path

    def draw(self, shots: int, seed: int) -> Support:
        """The support set of a seed with at most ``shots`` images of each class; unreadable images are not in it."""
        place = {name: number for number, name in enumerate(self.ids)}
        path = manifest(self.folder, seed)
        if not path.is_file() or sha256(path) != self.facts.manifests.get(path.name):
            found = "has changed since it was written" if path.exists() else "is gone"
            raise UserError(f"{path} {found}; delete {name_output(path)} and run again.")
        chosen = [place[name] for name, rank in read_draw(path) if rank < shots and name in place]
        if not chosen:
            raise UserError(f"The support set of seed {seed} in {self.folder} is empty; make the features again.")
        return self.images.at(torch.tensor(chosen))


def manifest(folder: str | Path, seed: int) -> Path:
    """Where a pool keeps the support set of a seed."""
    return Path(folder) / f"seed-{seed}.csv"


def read_pool(folder: str | Path) -> Pool:
    """Read a folder of ``clip.safetensors``, the auxiliaries' features, ``classifier.safetensors`` and manifests.

    Raises:
        UserError: a file is missing or broken, or holds test features.
    """
    classifier, facts = read_classifier(folder)
    seen = join_encoders(folder, facts.encoders, purpose="fit")
    try:
        images = Support(seen.clip, seen.auxiliary, seen.labels, classifier, facts.scale, groups(seen.digests))
    except ValueError as error:
        raise UserError(
            f"The files in {folder} don't belong together ({error}); delete the folder and run again."
        ) from None
    return Pool(images, seen.ids, seen.digests, facts, Path(folder))


def join_encoders(folder: str | Path, names: Iterable[str], *, purpose: Literal["fit", "evaluate"]) -> Encoded:
    """What encoders see in the images of a split, the auxiliaries in the order of their names.

    Raises:
        UserError: a file is missing or broken, or the encoders did not see the same images.
    """
    read = {name: read_features(Path(folder) / f"{name}.safetensors", purpose=purpose) for name in sorted(names)}
    clip = read[CLIP]
    if any((one.ids, one.digests) != (clip.ids, clip.digests) for one in read.values()):
        raise UserError(f"The features in {folder} are not of the same images; delete the folder and run again.")
    values = {name: one.values for name, one in read.items()}
    return Encoded(values, clip.labels, clip.ids, clip.digests, clip.skipped)


def write_classifier(folder: str | Path, classifier: Tensor, **facts: Any) -> None:
    """Write zero-shot weights ``[D, C]`` into a pool's folder, with the facts of ``PoolFacts``.

    Its manifests are there by now, and their digests are kept with it.
    """
    folder = Path(folder)
    manifests = {path.name: sha256(path) for path in sorted(folder.glob("seed-*.csv"))}
    kept = PoolFacts(**facts, manifests=manifests)
    write_tensors(folder / CLASSIFIER, {"classifier": classifier.float().cpu()}, kept.dump())


def read_classifier(folder: str | Path) -> tuple[Tensor, PoolFacts]:
    """What ``write_classifier`` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = Path(folder) / CLASSIFIER
    facts, tensors = read_tensors(path, PoolFacts)
    need_tensors(path, tensors, {"classifier": (torch.float32, 2)})
    if tensors["classifier"].shape[1] != len(facts.classes):
        raise UserError(f"{path} is not of this version of logitfusion: it has other classes than weights for them.")
    return tensors["classifier"], facts
