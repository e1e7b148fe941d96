"""What a head says of each image: a class or none of them, how probable and how unsure, and what CLIP alone says."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logitfusion.clip.calibration import Calibration
from logitfusion.clip.heads import CacheHead, FusedHead, Head
from logitfusion.errors import UserError

PIECE = 1024  # images whose logits are in memory


@dataclass(frozen=True)
class Answer:
    """The answer to one image.

    Attributes:
        path: the image's, as text.
        label: the class; None is "none of these", or no answer at all where there is an ``error``.
        probability: of the likeliest class, also where that is too low to be the answer; calibrated as the head is.
        uncertainty: entropy of the classes' probabilities, from 0 (one class is certain) to 1 (all are equally likely).
        clip_label: CLIP's own answer.
        clip_probability: calibrated on the support images, which CLIP has not learnt from.
        top: the likeliest classes with their probabilities, the likeliest first.
        calibrated: whether the probability was calibrated on left-out images.
        learnt: whether the head has learnt from an image of the same content.
        error: why there is no answer.
    """

    path: str
    label: str | None = None
    probability: float = 0.0
    uncertainty: float = 1.0
    clip_label: str | None = None
    clip_probability: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    calibrated: bool = False
    learnt: bool = False
    error: str | None = None

    def as_row(self) -> dict[str, Any]:
        """As a line of JSON; of an image that can't be read ``path`` and ``error`` alone."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "uncertainty": self.uncertainty,
            "calibrated": self.calibrated,
            "clip_label": self.clip_label,
            "clip_probability": self.clip_probability,
            "learnt": self.learnt,
            "top": [{"label": label, "probability": probability} for label, probability in self.top],
        }


def answer(
    head: Head,
    header: Mapping[str, Any],
    encoded: Any,
    zero_shot: Tensor,
    *,
    top: int = 3,
    none_below: float | None = None,
) -> list[Answer]:
    """The answers to encoded images, in their order, and then those that can't be read, with the reason.

    Args:
        head: of ``load_head``, and ``header`` too.
        encoded: of ``encode_images``: plain views, ``[n, 1, D]``.
        zero_shot: CLIP's own logits of the same images, ``[n, C]``, see ``zero_shot_logits``.
        top: likeliest classes to list.
        none_below: the probability below which the answer is "none of these"; None: the head's own threshold.

    Raises:
        ValueError: features of another width than the head reads, or probabilities that are not finite.
    """
    facts = header["metadata"]
    names, calibration = header["class_names"], Calibration.load(facts.get("calibration"))
    threshold = calibration.threshold if none_below is None else none_below
    learnt = set(facts.get("digests", ()))
    alone = Calibration.load(facts.get("clip_calibration")).probabilities(zero_shot)
    probabilities = calibration.probabilities(head_logits(head, encoded.clip[:, 0], _plain(encoded.auxiliary)))
    for whose, found in (("its", probabilities), ("CLIP's own", alone)):
        if not found.isfinite().all():
            raise ValueError(f"{whose} probabilities are not finite")
    entropy = torch.special.entr(probabilities).sum(-1) / math.log(len(names))
    values, places = (part.tolist() for part in probabilities.topk(min(top, len(names))))
    digests = getattr(encoded, "digests", None) or [None] * len(encoded.ids)
    found = []
    for row, (image, digest) in enumerate(zip(encoded.ids, digests, strict=True)):
        best = tuple((names[label], value) for label, value in zip(places[row], values[row], strict=True))
        likeliest, probability = best[0]
        found.append(
            Answer(
                path=as_text(image),
                label=likeliest if probability >= threshold else None,
                probability=probability,
                uncertainty=min(1.0, float(entropy[row])),
                clip_label=names[int(alone[row].argmax())],
                clip_probability=float(alone[row].max()),
                top=best,
                calibrated=calibration.calibrated,
                learnt=digest in learnt,
            )
        )
    return found + [Answer(as_text(image), error=why) for image, why in encoded.skipped.items()]


def head_logits(head: Head, clip: Tensor, auxiliary: Tensor | None) -> Tensor:
    """``[n, D]``, ``[n, D_aux]`` -> ``[n, C]``, some images at a time.

    Raises:
        ValueError: features of another width than the head reads.
    """
    pieces = torch.arange(len(clip)).split(PIECE)
    return torch.cat([head.logits(clip[some], None if auxiliary is None else auxiliary[some]) for some in pieces])


def zero_shot_logits(head: Head, header: Mapping[str, Any], clip_encoder: Any, features: Tensor) -> Tensor:
    """CLIP's own logits, ``[n, D] -> [n, C]``, with the classifier of the head or of its prompts.

    Raises:
        UserError: the head has no classifier, and its file no prompts.
    """
    if isinstance(head, FusedHead | CacheHead):
        return features @ (head.scale * head.classifier)
    prompts = header["metadata"].get("prompts")
    if not prompts:
        raise UserError("The head file has no record of its prompts; fit it again.")
    return features @ (clip_encoder.scale * clip_encoder.classifier(header["class_names"], prompts).cpu())


def describe_learnt(answers: Sequence[Answer]) -> str | None:
    """The sentence about images that the head has learnt from; None without one."""
    known = [one for one in answers if one.learnt]
    if not known:
        return None
    are = "is" if len(known) == 1 else "are"
    return (
        f"{len(known)} of {len(answers)} images {are} among those that the head has learnt from ({known[0].path}, say);"
        " how many of them are right says nothing of new images."
    )


def as_text(path: str) -> str:
    """A path that can be written as Unicode, whatever its bytes; two files never get one name."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _plain(auxiliary: Tensor | None) -> Tensor | None:
    return None if auxiliary is None else auxiliary[:, 0]
