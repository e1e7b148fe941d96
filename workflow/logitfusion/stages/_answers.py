"""Answers of the parts of a decoding job, kept beside its output, which Snakemake deletes before the job runs again.

A job that was stopped goes on after its last part, and of one whose config has changed only those parts are decoded
that it changes. An answer is found again by all that decides it: options, prompts, models, documents, code, versions.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitfusion.artefact import read_rows, write_rows
from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.jobs.fusion import DecodedMethod, DecodeJob
from logitfusion.errors import UserError
from logitfusion.evaluate.responses import Response
from logitfusion.files import remove, sha256
from logitfusion.integrity import check_files
from logitfusion.models.checkpoint import find_base
from logitfusion.provenance import find_versions, hash_json
from logitfusion.stages._stage import logger


@dataclass(frozen=True, eq=False)
class Part:
    """A method on a task, with the options that tuning chose."""

    method: str
    task: str
    entry: DecodedMethod
    options: FusionOptions

    @property
    def models(self) -> tuple[str, ...]:
        """The one that leads first."""
        return self.entry.tasks[self.task].models


class KeptAnswers:
    """The answers of finished parts of one job.

    Args:
        output: of the job.
        job: its config.
        shard: which one it decodes.
        models: folders of all models, named by model.
        documents: folders ``.../<task>/documents``.
    """

    def __init__(
        self, output: Path, job: DecodeJob, shard: int, *, models: Sequence[Path], documents: Sequence[Path]
    ) -> None:
        self.folder = output.with_name(f"{output.name}.parts")
        self.models = {path.name: path for path in models}
        self.documents = {path.parent.name: path for path in documents}
        self.shared = [_digest_code(), find_versions("lm-eval"), job.loading.dump(), job.comparison]
        self.shared += [job.split, job.shards, shard]
        self._used: set[Path] = set()

    def find(self, part: Part) -> list[Response] | None:
        """What the part said when it was decoded; None if it was not, or otherwise."""
        path = self._place(part)
        if path is None or not path.is_file():
            return None
        try:
            found = read_rows(path, Response)
        except UserError as error:
            logger.warning("%s on %s is decoded again: %s", part.method, part.task, error)
            return None
        logger.info("%s on %s: decoded before, and nothing has changed", part.method, part.task)
        return found

    def keep(self, part: Part, answers: Sequence[Response]) -> None:
        """Note what a part said."""
        path = self._place(part)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_rows(path, map(vars, answers))

    def drop_others(self) -> None:
        """Remove the answers of parts that the job has no more."""
        for path in self.folder.glob("*") if self.folder.is_dir() else ():
            if path not in self._used:
                remove(path)

    def _place(self, part: Part) -> Path | None:
        """A name of all that decides the answers; None where a model or the documents have no record of their files."""
        if not {*part.models} <= self.models.keys():
            return None
        inputs = [_digest_model(self.models[name]) for name in part.models]
        inputs.append(_digest_record(self.documents[part.task]))
        if None in inputs:
            return None
        entry, gate = part.entry, part.options.gate
        decided: list[Any] = [
            part.options.dump(),
            sha256(Path(gate)) if isinstance(gate, str) else None,
            entry.prompting.dump(),
            entry.decoding.dump(),
            entry.tasks[part.task].dump(),
            inputs,
        ]
        path = self.folder / f"{part.method}.{part.task}.{hash_json([*self.shared, *decided])[:20]}.jsonl"
        self._used.add(path)
        return path


def _digest_model(folder: Path) -> list[Any] | None:
    """Of a model's files, and of those of the base that an adapter is read with."""
    base = find_base(folder)
    found = [_digest_record(folder), None if base is None else _digest_model(base)]
    return None if found[0] is None or (base and found[1] is None) else found


def _digest_record(folder: Path) -> list[list[str]] | None:
    """Of the files that a folder's record names, which are as it says; None where there is none."""
    recorded = check_files(folder)
    return [[file.name, file.sha256] for file in sorted(recorded.values())] or None


@functools.cache
def _digest_code() -> str:
    """Of this package."""
    package = Path(__file__).parents[1]
    value = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        value.update(path.read_bytes())
    return value.hexdigest()
