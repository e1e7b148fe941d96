"""Troubleshooting quotes sentences: each is one that this project, Snakemake or the system says."""

from __future__ import annotations

import ast
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import snakemake
import snakemake_executor_plugin_slurm
from checkout import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
QUOTES = [quote for heading in re.findall(r"^### (.+)$", PAGE, re.M) for quote in re.findall(r"`([^`]+)`", heading)]
# Said by programs whose source is not here: the kernel's words, subprocess', and srun's.
ELSEWHERE = [
    *(f"{os.strerror(number)}: '" for number in (errno.ENOENT, errno.EACCES)),
    "died with <Signals.SIGKILL: 9>",
    "srun: Could not establish a configuration source",
]


def read_texts(folder: Path) -> Iterator[str]:
    """The texts of a package's sources as they are said, with nothing where a value goes in; rules as they stand."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Constant(value=str(text)):
                    yield text
                case ast.JoinedStr(values=parts):
                    yield "".join(part.value for part in parts if isinstance(part, ast.Constant))
    for path in folder.rglob("*.smk"):
        yield path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def said() -> str:
    packages = (snakemake, snakemake_executor_plugin_slurm)
    folders = (ROOT / "workflow", *(Path(package.__file__).parent for package in packages))
    return "\n".join((*ELSEWHERE, *(text for folder in folders for text in read_texts(folder))))


@pytest.mark.parametrize("quote", QUOTES)
def test_each_quoted_sentence_is_said(quote: str, said: str) -> None:
    missing = [part for part in quote.split("...") if part.strip(" '()/") not in said]
    assert missing == []


def test_a_sentence_that_nobody_says_is_seen(said: str) -> None:
    assert len(QUOTES) > 25
    assert "There is no SLURM hear" not in said
