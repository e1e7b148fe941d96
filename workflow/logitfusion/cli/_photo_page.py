"""The page of ``fewshot predict --report``: answers, head and thumbnails put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from logitfusion.clip.answers import Answer, as_text
from logitfusion.clip.calibration import Calibration
from logitfusion.clip.data.duplicates import Duplicates
from logitfusion.clip.data.images import thumbnail
from logitfusion.clip.data.labelled import Labelled
from logitfusion.clip.fitting.compare import Comparison
from logitfusion.clip.fitting.describe import describe_calibration, recommendation
from logitfusion.report.photos.page import write_page
from logitfusion.report.photos.photos import HeadFacts, Photos

SIDE = 160  # pixels of a thumbnail


def write_photo_page(
    path: Path,
    answers: Sequence[Answer],
    listed: Labelled,
    truths: Sequence[str] | None,
    duplicates: Duplicates,
    header: Mapping[str, Any],
    calibration: Calibration,
) -> None:
    """Write the page; thumbnails are made while a bar shows how many."""
    rows = {as_text(row.id): row for row in listed.rows}
    with tqdm(total=len(rows), unit=" thumbnails", disable=None, leave=False) as bar:

        def find(name: str) -> bytes | None:
            bar.update()
            return thumbnail(rows[name], SIDE, "WEBP")

        photos = Photos(
            answers=answers,
            classes=header["class_names"],
            head=_facts(header, calibration),
            thumbnail=find,
            truths=truths,
            duplicates=[list(map(as_text, found)) for found in duplicates.sets],
            left_out={as_text(name): why for name, why in listed.left_out.items()},
            folder=str(path.resolve().parent),
        )
        write_page(path, photos)


def _facts(header: Mapping[str, Any], calibration: Calibration) -> HeadFacts:
    facts, method = header["metadata"], header["values"]["method"]
    comparison = None if facts.get("comparison") is None else Comparison.load(facts["comparison"])
    return HeadFacts(
        method=method,
        learnt=_describe_counts(method, facts["counts"]) if facts.get("counts") else "",
        calibration=" ".join(describe_calibration(calibration)),
        comparison=comparison,
        advice="" if comparison is None else recommendation(comparison, method),
    )


def _describe_counts(method: str, counts: Sequence[int]) -> str:
    each = f"{counts[0]} of each" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)} of each"
    return f"{method} was fitted on {sum(counts)} images of {len(counts)} classes, {each}."
