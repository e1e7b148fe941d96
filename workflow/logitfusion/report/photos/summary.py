"""The first section: how many photos, how many right, and what a probability means."""

from __future__ import annotations

from collections import Counter

from logitfusion.evaluate.intervals import wilson_interval
from logitfusion.report.index.page import PageSection
from logitfusion.report.index.words import escape
from logitfusion.report.photos.photos import Photos

OPEN_CLASSES = 12  # a table that is not folded at first


def summary_section(photos: Photos) -> PageSection:
    """Tiles with the counts, sentences about the head, and a table of classes."""
    pairs = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in _tiles(photos).items())
    words = f"<p>{escape(photos.head.calibration)}</p><p>{escape(photos.head.learnt)}</p>"
    body = f'<dl class="tiles">{pairs}</dl>{words}{_class_table(photos)}'
    return PageSection("answers", "Answers", body)


def say_share(right: int, count: int) -> str:
    """``82.5% [68.0, 91.3]``, with Wilson's 95% interval."""
    low, high = wilson_interval(right, count)
    return f"{right / count:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _tiles(photos: Photos) -> dict[str, str]:
    """Name -> text of each tile, as HTML."""
    read = photos.readable()
    tiles = {"photos": f"{len(read)}"}
    if photos.truths is not None and read:
        for name, right in zip((photos.head.method, "CLIP alone"), _count_right(photos, read), strict=True):
            words = f"<small>{say_share(right, len(read))}, Wilson, 95%</small>"
            tiles[f"right, {escape(name)}"] = f"{right} of {len(read)}{words}"
    answers = [photos.answers[place] for place in read]
    tiles["none of these"] = str(sum(answer.label is None for answer in answers))
    tiles["answered otherwise than CLIP alone"] = str(sum(answer.label != answer.clip_label for answer in answers))
    see = '<small>see <a href="#files">Files</a></small>'
    others = {
        "can't be read": len(photos.answers) - len(read),
        "copies of others": sum(len(group) - 1 for group in photos.duplicates),
        "that the head was fitted on": len(photos.learnt()),
        "files left out": len(photos.left_out),
    }
    return tiles | {name: f"{count}{see}" for name, count in others.items() if count}


def _count_right(photos: Photos, places: list[int]) -> tuple[int, int]:
    """How many answers of the head, and how many of CLIP alone, are right."""
    truths = photos.truths or []
    own = sum(photos.answers[place].label == truths[place] for place in places)
    return own, sum(photos.answers[place].clip_label == truths[place] for place in places)


def _class_table(photos: Photos) -> str:
    """A row a class: photos that were answered so; with labels, how many of its photos are right."""
    read = photos.readable()
    answered = Counter(photos.answers[place].label for place in read)
    names = [*photos.classes, *([None] if answered[None] else [])]
    rows = [(name or "none of these", _class_cells(photos, name, read)) for name in names]
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td data-label="{escape(key)}">{escape(cell)}</td>' for key, cell in cells.items())
        + "</tr>"
        for name, cells in rows
    )
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("class", *rows[0][1]))
    return (
        f"<details{' open' if len(rows) <= OPEN_CLASSES else ''}><summary>{len(photos.classes)} classes</summary>"
        f'<table class="plain cards" aria-label="Classes"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</details>"
    )


def _class_cells(photos: Photos, name: str | None, read: list[int]) -> dict[str, str]:
    own = [photos.answers[place].probability for place in read if photos.answers[place].label == name]
    cells = {"answered so": str(len(own)), "mean probability": f"{sum(own) / len(own):.0%}" if own else ""}
    if photos.truths is None:
        return cells
    places = [place for place in read if photos.truths[place] == name]
    cells["photos of it"] = str(len(places)) if name is not None else ""
    shares = [f"{right} ({say_share(right, len(places))})" if places else "" for right in _count_right(photos, places)]
    return cells | dict(zip((f"right, {photos.head.method}", "right, CLIP alone"), shares, strict=True))
