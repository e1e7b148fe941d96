"""Parts of a page that a command writes, between ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``."""

from __future__ import annotations

from logitfusion.errors import UserError


def replace_part(text: str, name: str, content: str) -> str:
    """The page with one part made anew.

    Raises:
        UserError: the part is not marked in it, or more than once.
    """
    begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
    if (text.count(begin), text.count(end)) != (1, 1):
        raise UserError(f"A page must have one part between {begin.strip()} and {end}.")
    before, after = text.split(begin)[0], text.split(end)[1]
    return f"{before}{begin}{content.strip()}\n{end}{after}"
