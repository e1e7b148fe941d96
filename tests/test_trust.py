"""docs/trust.md: the limits that it names are those of the code."""

from __future__ import annotations

import pytest
from checkout import ROOT

from logitfusion.clip.data import images
from logitfusion.config import fusion_options, section, training
from logitfusion.fetch.archives import limits
from logitfusion.formats import json, text, yaml
from logitfusion.models import chat

PAGE = (ROOT / "docs/trust.md").read_text(encoding="utf-8")
ROWS = dict(line.strip("| ").split(" | ", 1) for line in PAGE.splitlines() if line.startswith("| "))


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("a text that is read as a whole", f"{text.LARGEST >> 30} GiB"),
        ("a line of a long file", f"{text.LONGEST >> 20} MiB"),
        (
            "a YAML file",
            f"{yaml.LARGEST >> 20} MiB, {yaml.DEEPEST} levels, {yaml.MOST:,} values with its aliases written out",
        ),
        ("JSON", f"{json.DEEPEST} levels"),
        (
            "what an archive unpacks to",
            f"{limits.LARGEST >> 30} GiB, or {limits.TIMES} times its own size if that is more;"
            f" {limits.MOST:,} members",
        ),
        ("a chat template", f"{chat.SECONDS:g} seconds of computing, {chat.LARGEST:,} characters"),
        ("an image", f"{images.MAX_MEGAPIXELS:g} megapixels"),
        ("the order of a training's texts", f"{training.MOST_SEQUENCES:,} sequences"),
        ("whole numbers of a config and of options", f"{section.LARGEST_WHOLE:,}"),
        ("seeds", f"{section.LARGEST_SEED:,}"),
        ("candidates of a grid of weights", f"{fusion_options.MOST_CANDIDATES:,}"),
    ],
)
def test_a_limit_is_that_of_the_code(what: str, limit: str) -> None:
    assert ROWS[what] == limit
