"""The answers of all heads on test images: the one place where test features are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from logitfusion.clip.confidence import uncertainty
from logitfusion.clip.features.pool import join_encoders, read_classifier
from logitfusion.clip.head_file import load_head, load_snapshots


class EvaluationSet:
    """Features of a test set, and the zero-shot logits of its images.

    Args:
        name: of the set.
        folder: of its features.
        support: the folder with the classifier of the data set that heads were fitted on.
    """

    def __init__(self, name: str, folder: str | Path, support: str | Path) -> None:
        classifier, self.facts = read_classifier(support)
        self.name = name
        seen = join_encoders(folder, self.facts.encoders, purpose="evaluate")
        self.labels, self.ids, self.digests = seen.labels, seen.ids, seen.digests
        self.clip, self.auxiliary = seen.clip[:, 0], None if seen.auxiliary is None else seen.auxiliary[:, 0]
        self.zero_shot = self.clip @ (self.facts.scale * classifier)

    def images(self) -> pd.DataFrame:
        """One row an image: ``set id label clip_answer clip_probability factor factor_classes``.

        The factors are AMU's uncertainty, with the published reference and with the one relative to C.
        """
        probabilities, answers = self.zero_shot.softmax(-1).max(-1)
        return pd.DataFrame(
            {
                "set": self.name,
                "id": self.ids,
                "label": self.labels.numpy(),
                "clip_answer": answers.numpy(),
                "clip_probability": probabilities.numpy(),
                "factor": uncertainty(self.zero_shot)[:, 0].numpy(),
                "factor_classes": uncertainty(self.zero_shot, reference="classes")[:, 0].numpy(),
            }
        )


def predict(
    method: str, files: Sequence[Path], sets: Sequence[EvaluationSet]
) -> Iterator[tuple[pd.DataFrame, list[dict[str, Any]], dict[str, Any]]]:
    """For each head file: its answers on all sets, the accuracies after each epoch that was kept, and what it cost.

    Answers are rows of ``method shots seed set id label answer probability correct``.
    """
    for file in files:
        head, header = load_head(file, encoders=sets[0].facts.encoders)
        fit = {"method": method, "shots": header["metadata"]["shots"], "seed": header["metadata"]["seed"]}
        answers = pd.concat(
            [pd.DataFrame(fit | _answer(head.logits(one.clip, one.auxiliary), one)) for one in sets], ignore_index=True
        )
        epochs = [
            fit | {"set": one.name, "epoch": epoch, "accuracy": _accuracy(kept.logits(one.clip, one.auxiliary), one)}
            for epoch, kept in enumerate(load_snapshots(file), 1)
            for one in sets
        ]
        costs = {name: header["metadata"][name] for name in ("seconds", "images")}
        yield answers, epochs, fit | costs | {"settings": header["values"]["settings"]}


def _answer(logits: Tensor, test: EvaluationSet) -> dict[str, Any]:
    probabilities, answers = logits.softmax(-1).max(-1)
    return {
        "set": test.name,
        "id": test.ids,
        "label": test.labels.numpy(),
        "answer": answers.numpy(),
        "probability": probabilities.numpy(),
        "correct": (answers == test.labels).numpy(),
    }


def _accuracy(logits: Tensor, test: EvaluationSet) -> float:
    return float((logits.argmax(-1) == test.labels).double().mean())
