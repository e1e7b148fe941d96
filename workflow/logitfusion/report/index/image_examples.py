"""Answers on test images in columns, with each picture once for all methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from logitfusion.config.tracks import FewShotReport
from logitfusion.report.fewshot.shared import Predictions, name_set
from logitfusion.report.photos.columns import thousandths, to_uri

FindImage = Callable[[str, str], bytes | None]
"""Test set and image id -> a small WebP of it, or None."""


@dataclass(frozen=True, eq=False)
class ImageExamples:
    """The test images of the few-shot track with the answers of CLIP alone and of every method.

    Attributes:
        title: of the track.
        note: what a reader sees here, in a sentence.
        predictions: data set -> answers on all its test sets.
        find: test set and image id -> its thumbnail.
        track: methods, shots, seeds, and which method is shown first.
    """

    title: str
    note: str
    predictions: dict[str, Predictions]
    find: FindImage
    track: FewShotReport

    @property
    def names(self) -> list[str]:
        """The test sets."""
        return [task for origin, tasks in self.track.sets.items() if origin in self.predictions for task in tasks]

    def count(self, task: str) -> int:
        """How many images a test set has."""
        return len(self.images(task))

    def describe(self) -> dict[str, Any]:
        """What the page needs besides the images."""
        return {
            "kind": "images",
            "title": self.title,
            "note": self.note,
            "shown": self.track.shown,
            "names": {task: name_set(task, self.track) for task in self.names},
        }

    def origin(self, task: str) -> Predictions:
        """The predictions that hold a test set."""
        return self.predictions[next(origin for origin, tasks in self.track.sets.items() if task in tasks)]

    def images(self, task: str) -> pd.DataFrame:
        """The images of a test set."""
        images = self.origin(task).images
        return images[images["set"] == task]


def encode_images(source: ImageExamples, task: str) -> dict[str, Any]:
    """Columns of a test set's images: ``id picture label clip clip_chance factor``; answers by method, shots, seed."""
    origin, images = source.origin(task), source.images(task)
    ids = images["id"].tolist()
    answers = origin.answers[origin.answers["set"] == task]
    groups = {key: group.set_index("id") for key, group in answers.groupby(["method", "shots", "seed"])}
    return {
        "id": ids,
        "picture": [to_uri(source.find(task, name)) for name in ids],
        "label": images["label"].tolist(),
        "clip": images["clip_answer"].tolist(),
        "clip_chance": list(map(thousandths, images["clip_probability"])),
        "factor": [round(float(factor), 3) for factor in images["factor"]],
        "classes": list(origin.classes),
        "answers": {
            method: {
                str(shots): {
                    str(seed): _encode_answers(groups[method, shots, seed].loc[ids])
                    for seed in source.track.seeds
                    if (method, shots, seed) in groups
                }
                for shots in source.track.shots
            }
            for method in source.track.methods
        },
    }


def cut_images(columns: dict[str, Any], most: int) -> dict[str, Any]:
    """The first images of what `encode_images` made."""
    answers = {
        method: {
            shots: {seed: {name: given[name][:most] for name in given} for seed, given in by_seed.items()}
            for shots, by_seed in by_shots.items()
        }
        for method, by_shots in columns["answers"].items()
    }
    first = {key: columns[key][:most] for key in ("id", "picture", "label", "clip", "clip_chance", "factor")}
    return first | {"classes": columns["classes"], "answers": answers}


def _encode_answers(answers: pd.DataFrame) -> dict[str, list[int]]:
    return {"answer": answers["answer"].tolist(), "chance": list(map(thousandths, answers["probability"]))}
