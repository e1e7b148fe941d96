"""The first section: how many photos, how many right, and what a probability means."""

from __future__ import annotations

from collections import Counter

from logitfusion.evaluate.intervals import wilson_interval
from logitfusion.report.index.page import PageSection
from logitfusion.report.index.words import counted, escape
from logitfusion.report.photos.photos import Photos


def summary_section(photos: Photos) -> PageSection:
    """Tiles with the counts, sentences about the head, and a table of classes."""
    pairs = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in _tiles(photos).items())
    facts = "; ".join(f"{name}: {text}" for name, text in photos.head.facts.items())
    body = (
        f'<dl class="tiles">{pairs}</dl><p>{escape(photos.head.calibration)}</p>'
        f'<p class="note">{escape(facts)}</p>{_class_table(photos)}'
    )
    return PageSection("answers", "Answers", body)


def say_share(right: int, count: int) -> str:
    """``82.5% [68.0, 91.3]``, with Wilson's 95% interval."""
    low, high = wilson_interval(right, count)
    return f"{right / count:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _tiles(photos: Photos) -> dict[str, str]:
    """What the tiles say, as HTML."""
    read = photos.readable()
    tiles = {"photos": f"{len(read)}"}
    if photos.truths is not None and read:
        for name, right in zip((photos.head.method, "CLIP alone"), _count_right(photos, read), strict=True):
            words = f"<small>{say_share(right, len(read))}, Wilson, 95%</small>"
            tiles[f"right, {escape(name)}"] = f"{right} of {len(read)}{words}"
    unsure = sum(photos.answers[place].label is None for place in read)
    tiles["none of these"] = f"{unsure}<small>less sure than the head's threshold</small>"
    changed = sum(photos.answers[place].label != photos.answers[place].clip_label for place in read)
    tiles["answered otherwise than CLIP alone"] = str(changed)
    if broken := len(photos.answers) - len(read):
        tiles["can't be read"] = f'{broken}<small>see <a href="#files">Files</a></small>'
    if copies := sum(len(group) - 1 for group in photos.duplicates):
        tiles["copies of others"] = f'{copies}<small>see <a href="#files">Files</a></small>'
    if photos.learnt:
        tiles["learnt from"] = f'{len(photos.learnt)}<small>see <a href="#files">Files</a></small>'
    return tiles


def _count_right(photos: Photos, places: list[int]) -> tuple[int, int]:
    """How many answers of the head, and how many of CLIP alone, are right."""
    truths = photos.truths or []
    own = sum(photos.answers[place].label == truths[place] for place in places)
    return own, sum(photos.answers[place].clip_label == truths[place] for place in places)


def _class_table(photos: Photos) -> str:
    """A row a class: photos that were answered so; with labels, how many of its photos are right."""
    read = photos.readable()
    answered = Counter(photos.answers[place].label for place in read)
    head = ["class", "answered so", "mean probability"]
    head += ["photos of it", f"right, {photos.head.method}", "right, CLIP alone"] if photos.truths is not None else []
    rows = []
    for name in [*photos.classes, *([None] if answered[None] else [])]:
        own = [place for place in read if photos.answers[place].label == name]
        mean = sum(photos.answers[place].probability for place in own) / len(own) if own else None
        cells = [str(answered[name]), "" if mean is None else f"{mean:.0%}"]
        if photos.truths is not None:
            cells += _right_cells(photos, [place for place in read if photos.truths[place] == name])
        rows.append(f'<tr><th scope="row">{escape(name or "none of these")}</th>{_cells(cells)}</tr>')
    columns = "".join(f'<th scope="col">{escape(one)}</th>' for one in head)
    return (
        f"<details{' open' if len(rows) <= 20 else ''}><summary>{counted(len(photos.classes), 'class').replace('classs', 'classes')}"
        '</summary><div class="wide" role="region" aria-label="Classes" tabindex="0"><table class="plain" aria-label="Classes">'
        f"<thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _right_cells(photos: Photos, places: list[int]) -> list[str]:
    if not places:
        return ["0", "", ""]
    shares = [f"{right} ({say_share(right, len(places))})" for right in _count_right(photos, places)]
    return [str(len(places)), *shares]


def _cells(cells: list[str]) -> str:
    return "".join(f"<td>{escape(cell)}</td>" for cell in cells)
