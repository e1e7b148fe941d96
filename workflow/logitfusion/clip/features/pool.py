"""A folder with all that a few-shot method may learn from: features of the support images, manifests, the classifier.

No test feature is ever written here, and what is read here is refused if it is one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from logitfusion.clip.data.duplicates import groups
from logitfusion.clip.data.support import read_draw
from logitfusion.clip.features.encode import CLIP, Encoded
from logitfusion.clip.features.splits import read_features
from logitfusion.clip.heads import Support
from logitfusion.errors import UserError
from logitfusion.files import name_output, whole


@dataclass(frozen=True)
class Pool:
    """The support images of all shots and seeds.

    Attributes:
        images: all of them, as one support set.
        ids: of the images, in the same order.
        facts: what ``write_classifier`` kept: ``classes``, ``prompts``, ``encoders`` (name -> hash), ``scale``.
    """

    images: Support
    ids: list[str]
    facts: dict[str, Any]
    folder: Path

    def draw(self, shots: int, seed: int) -> Support:
        """The support set of a seed with at most ``shots`` images of each class; unreadable images are not in it."""
        place = {name: number for number, name in enumerate(self.ids)}
        drawn = read_draw(manifest(self.folder, seed))
        chosen = [place[name] for name, rank in drawn if rank < shots and name in place]
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
    seen = join_encoders(folder, facts["encoders"], purpose="fit")
    images = Support(seen.clip, seen.auxiliary, seen.labels, classifier, facts["scale"], groups(seen.digests))
    return Pool(images, seen.ids, facts, Path(folder))


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


def write_classifier(path: str | Path, classifier: Tensor, facts: dict[str, Any]) -> None:
    """Write zero-shot weights ``[D, C]`` with what belongs to them."""
    with whole(path) as temporary:
        tensors = {"classifier": classifier.float().cpu().contiguous()}
        save_file(tensors, temporary, {"logitfusion": json.dumps(facts, sort_keys=True)})


def read_classifier(folder: str | Path) -> tuple[Tensor, dict[str, Any]]:
    """What ``write_classifier`` wrote as ``classifier.safetensors``.

    Raises:
        UserError: the file is missing or is none of ours.
    """
    path = Path(folder) / "classifier.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("classifier"), json.loads(file.metadata()["logitfusion"])
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no readable zero-shot classifier ({error}); delete {name_output(path)} and run again."
        ) from None
