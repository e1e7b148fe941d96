"""Names of classes: as they go into a prompt, and which of them are one text to CLIP."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from logitfusion.errors import UserError
from logitfusion.formats.json import read_json

NONE = "none of these"  # what tables and folders call an answer below the threshold, so no class


def plain_name(name: str) -> str:
    """The name of a folder, or a label, as it goes into a prompt: composed characters, single spaces."""
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())


def text_key(name: str) -> str:
    """A name as CLIP's tokenizer reads it: two names with one key have equal prompts.

    The steps are open_clip's: characters composed and repaired, HTML's written out, single spaces, small letters.
    """
    from ftfy import fix_text

    return plain_name(html.unescape(html.unescape(fix_text(name)))).lower()


def same_text(names: Iterable[str]) -> list[list[str]]:
    """The names that CLIP can't tell apart, group by group; the same name twice is such a group too."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(text_key(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def label_by_text(*spellings: Sequence[str]) -> dict[str, int]:
    """``text_key`` -> label, for finding a class by any of its names; each of ``spellings`` has one for each label.

    A later spelling never takes the place of an earlier one.
    """
    found: dict[str, int] = {}
    for names in spellings:
        for label, name in enumerate(names):
            found.setdefault(text_key(name), label)
    return found


def match_names(names: Iterable[str], known: Sequence[str]) -> dict[str, int | None]:
    """Name -> its place in ``known``: of the one spelt so, else of one that CLIP reads as the same text, else None."""
    tables = [
        (spelling, {spelling(one): place for place, one in reversed(list(enumerate(known)))})
        for spelling in (str, _composed, text_key)
    ]
    return {
        name: next((table[key] for spell, table in tables if (key := spell(name)) in table), None) for name in names
    }


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def read_names(path: str | Path) -> dict[str, str]:
    """A user's JSON object of folders (or labels) and the names that they have in prompts, in the labels' order.

    Raises:
        UserError: no such file, or something else in it.
    """
    names = read_json(path, title=f"The file of class names {path}")
    fits = isinstance(names, dict) and names
    if not fits or not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise UserError(
            f'{path} is not a JSON object of folders (or labels) and names, such as {{"n01440764": "tench"}}.'
        )
    return names
