"""What of a run is frozen before its test splits are decoded; and the file of a comparison that holds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from logitfusion import __version__
from logitfusion.artefact import read_artefact, write_artefact
from logitfusion.config.differences import Difference, find_differences
from logitfusion.config.jobs.protocol import frozen_values
from logitfusion.config.methods import method_gate
from logitfusion.config.run import RunConfig
from logitfusion.config.section import Section, Sha256
from logitfusion.config.tasks import HarnessTask
from logitfusion.config.texts import FileTexts, TextTask
from logitfusion.files import sha256
from logitfusion.provenance import find_commit, hash_json


class FrozenRun(Section):
    """A run of a comparison."""

    digest: Sha256
    """Of all that follows."""
    files: dict[str, Sha256]
    """Config key -> the digest of what the files hold that it names: definitions and documents of tasks, texts, gates.

    Folders of models and of images are not read for it; their stages keep digests of their own."""
    values: dict[str, Any]
    """The values of the config that decide the answers."""


class FrozenComparison(Section):
    """The file: all runs of a comparison, as they were before a test split was decoded."""

    comparison: str
    date: str
    """When it was written (UTC)."""
    version: str
    """Of this package."""
    commit: str
    """Of the code."""
    explored: dict[str, str]
    """Run -> when its test split had been decoded before, as exploratory."""
    runs: dict[str, FrozenRun]

    @property
    def digest(self) -> str:
        """Of all runs: one more is another comparison."""
        return hash_json({name: run.digest for name, run in self.runs.items()})


def freeze_run(run: RunConfig) -> FrozenRun:
    """A run as it stands.

    Raises:
        UserError: a file that the config names can't be read.
    """
    values, files = frozen_values(run), _hash_files(run)
    return FrozenRun(digest=hash_json([values, files]), files=files, values=values)


def freeze_comparison(
    comparison: str, runs: Mapping[str, FrozenRun], explored: Mapping[str, str] | None = None
) -> FrozenComparison:
    """Some runs as they stand now."""
    return FrozenComparison(
        comparison=comparison,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        commit=find_commit(),
        explored=dict(explored or {}),
        runs=dict(runs),
    )


def write_frozen(path: str | Path, frozen: FrozenComparison) -> None:
    """Write the file: JSON with a value a line, so that ``git diff`` shows what changed."""
    write_artefact(path, frozen.dump())


def read_frozen(path: str | Path) -> FrozenComparison:
    """Read the file.

    Raises:
        UserError: it is not there, or not as it was written.
    """
    return read_artefact(path, FrozenComparison, mend="write it with `logitfusion freeze`, and commit it")


def first_difference(frozen: FrozenRun, here: FrozenRun) -> Difference | None:
    """The first key, in the order of the alphabet, in which a run is not as it was frozen; None if there is none."""
    files = (one._replace(key=f"files of {one.key}") for one in find_differences(frozen.files, here.files))
    return next(chain(find_differences(frozen.values, here.values), files), None)


def _hash_files(run: RunConfig) -> dict[str, str]:
    digests = {f"tasks.{name}": _task_files(task) for name, task in run.tasks.items()}
    for name in run.fusion.methods if run.fusion else ():
        digests[f"fusion.methods.{name}.gate"] = map(sha256, method_gate(run, name))
    found = {key: list(values) for key, values in digests.items()}
    return {key: hash_json(values) for key, values in found.items() if values}


def _task_files(task: HarnessTask | TextTask) -> Iterable[str]:
    """Digests of what a task is made of, wherever it lies."""
    if isinstance(task, HarnessTask):
        return [*task.library, *map(sha256, task.files)]
    return [sha256(part.path) for part in task.texts if isinstance(part, FileTexts)]
