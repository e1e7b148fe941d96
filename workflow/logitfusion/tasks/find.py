"""Where tasks are defined: in our library, in a folder of the user's, or among the harness's thousands."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind

from logitfusion.errors import UserError
from logitfusion.tasks.definition import LIBRARY, find_definitions

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
    if find_definitions(name, include_path) is not None:
        return own
    for folder in _defining(name):
        place = f"<harness>/{folder.relative_to(HARNESS)}"
        found = index_folders([*own, place])
        if _is_whole(name, found.task_index):
            return [*own, place]
    everything = [*own, "<harness>"]
    index = index_folders(everything)
    if name not in index.task_index:
        raise UserError(f"There is no task {name!r}: {_suggest(name, index.all_tasks)}")
    return everything


def index_folders(folders: Sequence[str], metadata: dict[str, object] | None = None) -> TaskManager:
    """The harness's index of folders, as ``find_folders`` names them; a later one's definitions replace an earlier's.

    Raises:
        UserError: a folder does not exist.
    """
    paths = [resolve_folder(folder) for folder in folders]
    for path in paths:
        if not path.is_dir():
            raise UserError(f"The folder of task definitions {path} does not exist.")
    # The harness's own come first, as they do where it indexes all.
    paths.sort(key=lambda path: not path.is_relative_to(HARNESS))
    return TaskManager(include_path=list(paths), include_defaults=False, metadata=metadata)


def resolve_folder(folder: str) -> Path:
    """Where a folder of a record is on this machine."""
    root, _, rest = folder.partition("/")
    return _ROOTS[root] / rest if root in _ROOTS else Path(folder)


def _defining(name: str) -> list[Path]:
    """Folders of the harness with a file that defines a task or group of this name."""
    start, end = rb"^[\"']?(?:task|group)[\"']?\s*:\s*[\"']?", rb"[\"']?\s*(?:#.*)?$"
    line = re.compile(start + re.escape(name.encode()) + end, re.MULTILINE)
    return sorted({path.parent for path in HARNESS.rglob("*.yaml") if line.search(path.read_bytes())} - {HARNESS})


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


def _suggest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else "lm-eval ls tasks lists them."
