"""The study's tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

from pictures.scores import METHODS, PARTS

WORDS = {True: "chosen on", False: "held back"}


def as_markdown(found: dict[str, Any]) -> str:
    rows, settings, machine = found["rows"], found["settings"], found["machine"]
    below = (
        f"Test accuracy in per cent, mean of {settings['seeds']} draws of the support set; differences in points, with"
        f" paired 95% intervals over images and draws. The best part is the one of {', '.join(PARTS)} with the highest"
        " accuracy on the very test images of the row, which no user knows: it flatters the part. *chosen on*: the"
        " default was chosen by test accuracy on this set, which flatters it; *held back*: it was not."
        f" The recommendation of `fewshot fit` is compared with the best of all columns, on {settings['compared']} of"
        f" the draws. {settings['views']} views; CLIP {settings['clip']}; {machine['device']}, torch"
        f" {machine['torch']}, commit {machine['commit']}."
    )
    return "\n".join([*_summary(rows), "", *_all_rows(rows), "", below]) + "\n"


def _summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The difference over sets, for each number of shots."""
    lines = [
        "| shots | sets | default - best part, mean | least | clearly below its best part | clearly above |",
        "|" + " --- |" * 6,
    ]
    for kind, words in WORDS.items():
        for shots in sorted({row["shots"] for row in rows}):
            some = [row["default"] for row in rows if row["shots"] == shots and row["chosen_on"] == kind]
            if some:
                differences = [one["difference"] for one in some]
                lost, won = sum(one["high"] < 0 for one in some), sum(one["low"] > 0 for one in some)
                cells = (shots, f"{len(some)}, {words}", _points(mean(differences)), _points(min(differences)))
                lines.append(_line((*cells, f"{lost} of {len(some)}", f"{won} of {len(some)}")))
    return lines


def _all_rows(rows: Sequence[dict[str, Any]]) -> list[str]:
    head = ("set", "shots", "n", *METHODS, "default - best part", "recommended", "recommended - best")
    lines = [_line(head), "|" + " --- |" * len(head)]
    for row in rows:
        accuracy = [f"{100 * row['accuracy'][name]:.1f}" for name in METHODS]
        name = f"{row['set']} ({row['classes']} classes, {WORDS[row['chosen_on']]})"
        compared = _difference(row["recommendation"]) if row["recommended"] else ""
        recommended = ", ".join(dict.fromkeys(row["recommended"]))
        lines.append(
            _line((name, row["shots"], row["n"], *accuracy, _difference(row["default"]), recommended, compared))
        )
    return lines


def _difference(found: dict[str, Any]) -> str:
    low, high = _points(found["low"]), _points(found["high"])
    return f"{_points(found['difference'])} [{low}, {high}] {found['best']}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _line(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
