"""The examples of a run as a part of its page: generated texts token by token, answers side by side, test images."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from logitfusion.report.index.image_examples import ImageExamples, cut_images, encode_images
from logitfusion.report.index.page import PageSection, read_asset
from logitfusion.report.index.text_examples import TextExamples, cut_texts, encode_texts

SCRIPTS = ("explorer.js", "examples.js", "photo_sheet.js", "contact_sheets.js")
STYLES = ("examples.css", "photo_sheet.css")


@dataclass(frozen=True, eq=False)
class Part:
    """One table of examples of the page: of a task, or of a set of test images.

    Attributes:
        source: the track that it belongs to.
        name: of the task or test set.
        columns: all its examples, as JSON values.
    """

    source: TextExamples | ImageExamples
    name: str
    columns: dict[str, Any]

    @property
    def total(self) -> int:
        """How many examples there are."""
        return len(self.columns["id"])

    def cut(self, most: int) -> dict[str, Any]:
        """The columns of the first ``most`` examples."""
        return (cut_texts if isinstance(self.source, TextExamples) else cut_images)(self.columns, most)


def examples_sections(
    sources: Sequence[TextExamples | ImageExamples], *, full_page: str, most_bytes: int | None = None
) -> list[PageSection]:
    """The section "Examples": every test example, with filters; none if no track has examples.

    Args:
        sources: a source a track, in the order of the page.
        full_page: where a reader finds the page with all examples, if this one has only some.
        most_bytes: how many bytes the examples may add to the page, compressed and in base64; the first of each
            task that fit are kept, the same number of each (or all it has), and the page says so.
    """
    parts = [_make_part(source, name) for source in sources for name in source.names]
    if not parts:
        return []
    most = max(part.total for part in parts) if most_bytes is None else _find_most(parts, most_bytes)
    names = {part: f"examples_{number}" for number, part in enumerate(parts)}
    tracks = [
        source.describe() | {"parts": [_describe(part, names[part], most) for part in parts if part.source is source]}
        for source in sources
        if source.names
    ]
    section = PageSection(
        anchor="examples",
        title="Examples",
        body="".join(_EXPLORER.format(number=number) for number in range(len(tracks))) + _NO_SCRIPT,
        style="\n".join(map(read_asset, STYLES)),
        script="\n".join(map(read_asset, SCRIPTS)),
        data={"examples": {"tracks": tracks, "full_page": full_page}}
        | {name: part.cut(most) for part, name in names.items()},
    )
    return [section]


def _make_part(source: TextExamples | ImageExamples, name: str) -> Part:
    encode = encode_texts if isinstance(source, TextExamples) else encode_images
    return Part(source, name, encode(source, name))


def _describe(part: Part, data: str, most: int) -> dict[str, Any]:
    return {"name": part.name, "data": data, "shown": min(part.total, most), "total": part.total}


def packed_size(value: Any) -> int:
    """Bytes of a JSON value in a page: compressed, in base64."""
    packed = gzip.compress(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), mtime=0)
    return len(base64.b64encode(packed))


def _find_most(parts: Sequence[Part], most_bytes: int) -> int:
    """The largest number of examples of each part with which all fit."""

    def fits(most: int) -> bool:
        return sum(packed_size(part.cut(most)) for part in parts) <= most_bytes

    largest = max(part.total for part in parts)
    low, high = 0, 8
    while high < largest and fits(high):
        low, high = high, 2 * high
    if high >= largest and fits(largest):
        return largest
    high = min(high, largest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


_EXPLORER = '<div class="examples" data-track="{number}"></div>'
_NO_SCRIPT = (
    "<noscript><p>The examples are filtered by a script; without one they are in the parquet files of"
    " <code>evaluation/</code> in the run's folder of results.</p></noscript>"
)
