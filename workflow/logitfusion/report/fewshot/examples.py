"""Test images whose prediction the bias changed."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

from logitfusion.config.tracks import FewShotReport
from logitfusion.files import write_text
from logitfusion.report.fewshot.shared import Predictions, each_set, name_set
from logitfusion.report.page import page

FindImage = Callable[[str, str], bytes | None]
"""Test set and image id -> a small PNG of it, or None."""


def write_examples(
    predictions: dict[str, Predictions], find: FindImage, track: FewShotReport, path: str | Path
) -> None:
    """A page of test images where the shown method is right and CLIP was not, and the other way round."""
    seed = track.seeds[0]
    sections = []
    for origin, task in each_set(track):
        answers, images = predictions[origin].select(task, track)
        both = answers[answers["seed"] == seed].merge(images.drop(columns="label"), on=["set", "id"], validate="1:1")
        before, after = both["clip_answer"] == both["label"], both["correct"]
        for title, chosen in (("wrong to right", ~before & after), ("right to wrong", before & ~after)):
            heading = f"{html.escape(name_set(task, track))}: {title}, {int(chosen.sum())} of {len(both)}"
            classes = predictions[origin].classes
            cards = [_card(row, classes, find, track.shown) for row in both[chosen].head(8).itertuples()]
            sections.append(f'<h3>{heading}</h3><div class="cards">{"".join(cards)}</div>')
    note = (
        f"Test images whose answer {track.shown} ({track.shots[-1]} shots, seed {seed}) changes: the first of each"
        " kind. u is the uncertainty factor of CLIP on the image, with the published reference."
    )
    write_text(path, page("".join(sections), note))


def _card(row: Any, classes: list[str], find: FindImage, shown: str) -> str:
    content = find(row.set, row.id)
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}" if content is not None else ""
    picture = f'<img alt="" src="{source}">' if source else ""
    lines = [
        f"<b>{html.escape(classes[row.label])}</b>",
        f"CLIP: {html.escape(classes[row.clip_answer])}",
        f"{html.escape(shown)}: {html.escape(classes[row.answer])}",
        f"u = {row.factor:.2f}",
    ]
    return f"<figure>{picture}<figcaption>{'<br>'.join(lines)}</figcaption></figure>"
