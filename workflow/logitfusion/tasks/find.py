"""Where tasks are defined: in our library, in a folder of the user's, or among the harness's thousands."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind

from logitfusion.errors import UserError
from logitfusion.tasks.definition import LIBRARY, check_readable, find_definitions, known_definitions

HARNESS = Path(lm_eval.tasks.__file__).parent
# How a record names folders of definitions on whatever machine reads it.
_ROOTS = {"<library>": LIBRARY, "<harness>": HARNESS}


def find_folders(name: str, include_path: str | None) -> list[str]:
    """The folders that define a task or group and all it consists of, as a record names them.

    The index of all that the harness defines takes ten seconds, so that it is only made where no one folder is enough.

    Raises:
        UserError: there is no such task; the sentence suggests others.
    """
    own = ["<library>"] if include_path is None else ["<library>", include_path]
    _check_folders(own)
    _, elsewhere = find_definitions(name, include_path)
    if elsewhere and include_path is not None:
        check_readable(Path(include_path))  # else a mistake in the file would make it another task, or none
    # A group or tag of ours may consist of the harness's.
    within = "" if name in elsewhere else f" (what {name!r} consists of needs files of its own)"
    folders = [folder for other in elsewhere for folder in _find_elsewhere(other, include_path, own, within)]
    return [*own, *(["<harness>"] if "<harness>" in folders else dict.fromkeys(folders))]


def _find_elsewhere(name: str, include_path: str | None, own: list[str], within: str) -> list[str]:
    """The folders that define what is the harness's."""
    scan = _scan_harness(name)
    for folder in scan.folders:
        place = f"<harness>/{folder.relative_to(HARNESS)}"
        if _is_whole(name, index_folders([*own, place]).task_index):
            return [place]
    everything = [*own, "<harness>"]
    if not (scan.folders or scan.is_tag) or name not in index_folders(everything).task_index:
        where = "" if include_path is None else f" in {include_path} or among lm-eval's own"
        known = scan.names | set(known_definitions(include_path))
        raise UserError(f"There is no task {name!r}{where}{within}: {_suggest(name, known)}")
    return ["<harness>"]


def index_folders(folders: Sequence[str], metadata: dict[str, object] | None = None) -> TaskManager:
    """The harness's index of folders, as ``find_folders`` names them; a later one's definitions replace an earlier's.

    Raises:
        UserError: a folder does not exist.
    """
    _check_folders(folders)
    paths = [resolve_folder(folder) for folder in folders]
    # The harness's own come first, as they do where it indexes all.
    paths.sort(key=lambda path: not path.is_relative_to(HARNESS))
    return TaskManager(include_path=list(paths), include_defaults=False, metadata=metadata)


def _check_folders(folders: Sequence[str]) -> None:
    for path in map(resolve_folder, folders):
        if not path.is_dir():
            raise UserError(f"The folder of task definitions {path} does not exist.")


def resolve_folder(folder: str) -> Path:
    """Where a folder of a record is on this machine."""
    root, _, rest = folder.partition("/")
    return _ROOTS[root] / rest if root in _ROOTS else Path(folder)


@dataclass
class _Scan:
    """What the lines of the harness's files say, without reading them as YAML.

    Attributes:
        names: of its tasks and groups.
        folders: those that define what was looked for.
        is_tag: it may be a tag.
    """

    names: set[str] = field(default_factory=set)
    folders: list[Path] = field(default_factory=list)
    is_tag: bool = False


def _scan_harness(name: str) -> _Scan:
    """Look for a name in all files of the harness."""
    defined = re.compile(rb"^[\"']?(?:task|group)[\"']?\s*:[ \t]*[\"']?([\w.:/-]+)", re.MULTILINE)
    tag = re.compile(
        rb"^\s*(?:-|[\"']?tag[\"']?\s*:)\s*[\"']?" + re.escape(name.encode()) + rb"[\"']?\s*$", re.MULTILINE
    )
    scan = _Scan()
    for path in sorted(HARNESS.rglob("*.yaml")):
        text = path.read_bytes()
        names = {found.decode() for found in defined.findall(text)}
        scan.names |= names
        if name in names and path.parent not in (HARNESS, *scan.folders):
            scan.folders.append(path.parent)
        scan.is_tag = scan.is_tag or tag.search(text) is not None
    return scan


def _is_whole(name: str, index: dict[str, Entry]) -> bool:
    """Whether an index has a task or group and everything it consists of."""
    entry = index.get(name)
    if entry is None or entry.kind is Kind.TAG:  # one folder may hold a few of a tag's tasks, and not know of the rest
        return False
    return entry.kind is not Kind.GROUP or _has_members(entry.cfg or {}, index)


def _has_members(group: dict[str, Any], index: dict[str, Entry]) -> bool:
    for member in group.get("task") or ():
        entry = {"task": member} if isinstance(member, str) else member
        name = entry.get("group") or entry["task"]
        inside = isinstance(entry["task"], list) and name not in index  # a group in the group's own file
        tag = name in index and index[name].kind is Kind.TAG
        if not (_has_members(entry, index) if inside else tag or _is_whole(name, index)):
            return False
    return True


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=3)
    return f"did you mean {' or '.join(close)}?" if close else "lm-eval ls tasks lists them."
