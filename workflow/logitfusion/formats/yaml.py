"""YAML: no key twice in a mapping, aliases that stay small, and no value that is read as something else than it looks.

A text becomes nodes first, which are checked, and only then values: an alias is one node in many places, so that what
a text stands for is counted without being made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from logitfusion.errors import UserError
from logitfusion.formats.text import check_unicode, read_text

LARGEST = 2**21  # bytes of a file
DEEPEST = 100  # values inside of each other
MOST = 200_000  # values of a text, those of an alias counted wherever it stands
Constructor = Callable[[yaml.SafeLoader, Node], Any]
_CORE = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_MERGE, _TIME = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:timestamp"
_OCTAL = re.compile(r"[-+]?0[0-9_]+")


def read_yaml(path: str | Path, *, title: str | None = None, tags: Mapping[str, Constructor] | None = None) -> Any:
    """The value that a file holds.

    Args:
        title: what a message calls it, by default its path.
        tags: constructors of the file's own tags.

    Raises:
        UserError: as ``read_text`` and ``parse_yaml``.
    """
    title = title or str(path)
    return parse_yaml(read_text(path, largest=LARGEST, title=title), title, tags=tags)


def parse_yaml(text: str, where: str, *, tags: Mapping[str, Constructor] | None = None) -> Any:
    """The value of a text.

    Raises:
        UserError: it is no YAML, has a key twice in a mapping, a date or a number that looks like another one, or
            values that are nested too deeply or too many with all aliases written out; by the line.
    """
    loader_class = type("Loader", (yaml.SafeLoader,), {})
    for tag, constructor in (tags or {}).items():
        loader_class.add_constructor(tag, constructor)
    try:
        loader = loader_class(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(loader, node, where, _CORE | set(tags or ()))
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{where} can't be read as YAML ({line}{_words(error)}); correct it.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{where}, line {line}, has a character that YAML has not; remove it.") from None
    except RecursionError:
        raise UserError(_too_deep(where)) from None


def _words(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return " ".join(", ".join(parts).split())[:200]


def _too_deep(where: str) -> str:
    return f"{where} has values that are nested more than {DEEPEST} levels deep; does an alias contain itself?"


def _check(loader: yaml.SafeLoader, root: Node, where: str, tags: set[str]) -> None:
    """Refuse nodes that are read as something else than they look, or stand for too many values."""
    counts: dict[int, int] = {}
    for node, depth in _inside_out(root):
        if depth + isinstance(node, CollectionNode) > DEEPEST:
            raise UserError(_too_deep(where))
        place = f"{where}, line {node.start_mark.line + 1},"
        if isinstance(node, ScalarNode):
            _check_scalar(loader, node, place, tags)
        elif node.tag not in tags:
            raise UserError(f"{place} has the tag {node.tag!r}, which is not known here; remove it.")
        if isinstance(node, MappingNode):
            _check_keys(loader, node, where)
        counts[id(node)] = 1 + sum(counts[id(inner)] for inner in _inner(node))
        if counts[id(node)] > MOST:
            raise UserError(f"{place} has more than {MOST:,} values, for its aliases multiply; write it without them.")


def _inner(node: Node) -> list[Node]:
    """The nodes directly in a node, keys included."""
    if isinstance(node, MappingNode):
        return [inner for pair in node.value for inner in pair]
    return node.value if isinstance(node, CollectionNode) else []


def _inside_out(root: Node) -> Iterator[tuple[Node, int]]:
    """Every node once, after those in it, with the depth at which it was met first.

    One that contains itself is met again and again, ever deeper.
    """
    done: set[int] = set()
    pending = [(root, 0, False)]
    while pending:
        node, depth, entered = pending.pop()
        if entered:
            done.add(id(node))
            yield node, depth
        elif depth > DEEPEST:
            yield node, depth
        elif id(node) not in done:
            pending.append((node, depth, True))
            pending += [(inner, depth + 1, False) for inner in reversed(_inner(node))]


def _check_scalar(loader: yaml.SafeLoader, node: ScalarNode, place: str, tags: set[str]) -> None:
    """YAML 1.1 reads 010 as 8, 1:30 as 90 and 2024-01-01 as a date."""
    value = node.value
    if node.tag == _TIME:
        raise UserError(f"{place} has {value}, which YAML reads as a date; write it in quotes.")
    if node.tag not in tags:
        raise UserError(f"{place} has the tag {node.tag!r}, which is not known here; remove it.")
    if node.tag.endswith((":int", ":float")) and (":" in value or _OCTAL.fullmatch(value)):
        raise UserError(
            f"{place} has {value[:80]}, which YAML reads as another number (of base 60 or 8); write it in decimals, or"
            " a text in quotes."
        )
    if node.tag in _CORE - {_MERGE}:
        try:
            check_unicode(str(loader.construct_object(node)), place)
        except (ValueError, KeyError):  # !!int x, and thousands of digits
            raise UserError(
                f"{place} has {value[:80]!r}, which can't be read as {node.tag[18:]}; correct it."
            ) from None


def _check_keys(loader: yaml.SafeLoader, node: MappingNode, where: str) -> None:
    """Refuse a key that is there twice; what ``<<`` brings in may be written over."""
    keys: dict[Any, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            raise UserError(f"{where}, line {line}, has a key that is no text or number; correct it.")
        key = "<<" if key_node.tag == _MERGE else loader.construct_object(key_node)
        if key in keys:
            raise UserError(
                f"{where}, line {line}, has the key {key!r} a second time, after line {keys[key]}; leave one out."
            )
        keys[key] = line
