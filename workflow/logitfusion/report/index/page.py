"""A page made of sections: one HTML file that asks for nothing, from a disk or inside another page's frame."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from logitfusion.files import write_text


@dataclass(frozen=True)
class PageSection:
    """A part of the page, with an entry of its own in the navigation.

    Attributes:
        anchor: its id.
        title: its heading and the name of its entry.
        body: HTML.
        style: the CSS that it brings.
        script: the JavaScript that it brings: the body of an asynchronous function, run once after the page is there.
        data: name -> a JSON value, kept compressed in the page; a script reads it with ``await loadData(name)``.
    """

    anchor: str
    title: str
    body: str
    style: str = ""
    script: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def write_page(sections: Sequence[PageSection], title: str, path: str | Path) -> None:
    """Write a page, all of it or none."""
    write_text(path, render_page(sections, title))


def render_page(sections: Sequence[PageSection], title: str) -> str:
    """The HTML of a page.

    Raises:
        ValueError: a script would end its own element, or two sections bring data of one name.
    """
    data: dict[str, Any] = {}
    for section in sections:
        if data.keys() & section.data.keys() or "</script" in section.script.lower():
            raise ValueError(f"section {section.anchor}: a name of its data is taken, or its script ends an element")
        data |= section.data
    scripts = [read_asset("page.js"), *(f"section({_run(one)});" for one in sections if one.script)]
    return Template(read_asset("page.html")).substitute(
        title=html.escape(title),
        style="\n".join([read_asset("page.css"), *dict.fromkeys(one.style for one in sections if one.style)]),
        navigation="".join(f'<li><a href="#{one.anchor}">{html.escape(one.title)}</a></li>' for one in sections),
        sections="\n".join(map(_section, sections)),
        data="\n".join(_pack(name, value) for name, value in data.items()),
        script="\n".join(scripts),
    )


def read_asset(name: str) -> str:
    """A file of ``assets``."""
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _section(section: PageSection) -> str:
    heading = f"{section.anchor}-heading"
    return (
        f'<section id="{section.anchor}" aria-labelledby="{heading}">\n'
        f'<h2 id="{heading}">{html.escape(section.title)}</h2>\n{section.body}\n</section>'
    )


def _run(section: PageSection) -> str:
    return f"{json.dumps(section.anchor)}, async () => {{\n{section.script}\n}}"


def _pack(name: str, value: Any) -> str:
    """A JSON value, compressed, in an element that no browser runs or shows."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    return f'<script type="text/plain" id="data-{html.escape(name)}">{packed}</script>'
