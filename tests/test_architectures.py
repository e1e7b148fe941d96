"""A sample of ``tests/architectures.py``: a family of each kind of cache, position encoding and output layer."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures import FAMILIES, judge

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "architectures.md"

# Family -> the uses that are refused.
SAMPLE = {
    "llama": (),
    "gpt2": (),
    "opt": (),  # its decoder is inside its base model
    "bloom": (),  # distances by the mask
    "mpt": ("speculative",),  # distances by the slot
    "gemma3": ("speculative",),  # a text config inside, sliding windows
    "gpt_oss": ("speculative",),
    "deepseek_v3": (),
    "llama4_text": ("speculative",),  # chunks, and scales by position
    "roberta": ("speculative",),  # positions from padding ids
    "bart": ("speculative",),  # positions by the slot
    "rwkv": ("speculative",),  # a state of its own
    "mamba": ("speculative",),
    "lfm2": ("speculative",),
    "jamba": ("speculative",),
    "xlnet": ("generate", "fused", "speculative", "score", "teacher"),  # reads both sides
}


@pytest.mark.parametrize("family", SAMPLE)
def test_every_use_is_right_or_refused(family: str) -> None:
    found = {verdict.use: verdict.result for verdict in judge(family)}
    refused = tuple(use for use, result in found.items() if result.startswith("refused: "))
    assert refused == SAMPLE[family], found
    assert {result for use, result in found.items() if use not in refused} <= {"right"}, found


def test_the_page_lists_every_family() -> None:
    text = PAGE.read_text()
    assert [family for family in FAMILIES if f"`{family}`" not in text] == []
    assert "WRONG" not in text
