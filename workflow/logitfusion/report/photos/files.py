"""The section on files: those that can't be read or were left out, copies, and photos that the head was fitted on."""

from __future__ import annotations

from collections.abc import Iterable

from logitfusion.report.index.page import PageSection
from logitfusion.report.index.words import counted, escape
from logitfusion.report.photos.photos import Photos

OPEN = 20  # as long a list is not folded


def files_section(photos: Photos) -> PageSection:
    """Every file that is not simply a photo with an answer."""
    broken = [f"{answer.path}: {answer.error}" for answer in photos.answers if answer.error is not None]
    learnt = photos.learnt()
    body = "".join(
        (
            _fold(counted(len(broken), "photo") + " can't be read", broken),
            _fold(counted(len(photos.left_out), "file") + " left out", map(": ".join, photos.left_out.items())),
            _fold(
                counted(len(photos.duplicates), "group") + " of photos with equal contents",
                (" = ".join(group) for group in photos.duplicates),
                "Each is answered by itself, and counts by itself in the numbers above.",
            ),
            _fold(
                counted(len(learnt), "photo") + " that the head was fitted on",
                learnt,
                "The head has seen them, so what it has right of them says nothing about other photos.",
            ),
        )
    )
    return PageSection("files", "Files", body or "<p>Every file was read, and each only once.</p>")


def _fold(title: str, items: Iterable[str], note: str = "") -> str:
    listed = "".join(f"<li>{escape(item)}</li>" for item in items)
    if not listed:
        return ""
    count = listed.count("<li>")
    words = f"<p>{escape(note)}</p>" if note else ""
    return (
        f"<details{' open' if count <= OPEN else ''}><summary>{escape(title)}</summary>{words}"
        f'<ul class="files">{listed}</ul></details>'
    )
