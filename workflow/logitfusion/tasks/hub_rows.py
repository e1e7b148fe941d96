"""Rows of a data set of the hub: the files of one commit, and how the library datasets reads them.

Without a network that library takes whatever revision its own cache has; these files are those of the commit.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import cached_assets_path

from logitfusion.artefact import read_artefact, write_artefact
from logitfusion.config.section import Listed, Section
from logitfusion.config.texts import HubRows
from logitfusion.errors import UserError, first_line
from logitfusion.fetch.hub import Download, ask_hub, download, insist
from logitfusion.fetch.revisions import download_recorded
from logitfusion.files import is_used_up
from logitfusion.provenance import hash_json

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, IterableDataset

CARD = ("README.md", ".huggingface.yaml", "dataset_infos.json")  # these say which files are whose subset and split
BATCH = 1000  # rows in memory at a time, where they are read one after the other
_NOT_OPTIONS = {"name", "version", "data_dir", "data_files", "description", "features"}


class Reader(Section):
    """How datasets reads a subset's files."""

    builder: str
    """One of the library's own: parquet, json, csv, ..."""
    options: dict[str, Any]
    """Of the builder, such as a csv's separator; those that are not its defaults."""
    features: str | None
    """The columns' types as JSON, in their order, where the data set's card states them."""
    splits: dict[str, Listed[str]]
    """Split -> its files in order, as the repository names them."""


class FetchedRows(Section):
    """The record of a data set that was fetched."""

    download: dict[str, Any]
    """Repository, revision, commit, licence, and the files with sizes and digests."""
    reader: Reader


class FetchedPart(Section):
    """A data set that is read for a task, and what was fetched of it."""

    source: HubRows
    rows: FetchedRows


class FetchedTexts(Section):
    """The record of the data sets that texts are from."""

    parts: Listed[FetchedPart]
    """In the order of the task's texts."""


def fetch_rows(source: HubRows, revisions: Path | None = None) -> FetchedRows:
    """Download the files of a source's splits, into the hub's cache.

    Args:
        revisions: the folder of recorded commits; without it none is recorded.

    Raises:
        UserError: no such data set, subset or split, no network, or files that datasets can't read.
    """
    card = download_recorded(
        "dataset", source.dataset, source.revision, revisions, choose=lambda names, _: [*{*CARD} & {*names}]
    )
    if ask_hub() is not None:
        return _recall(source, card)
    builder = _open_builder(source, card)
    reader = _describe_reader(builder, _wanted_files(source, card, builder.config.data_files or {}))
    found = _download(source, reader, card.commit)
    fetched = FetchedRows(download=found.describe(), reader=reader)
    with suppress(OSError, UserError):  # a shared cache that can only be read
        write_artefact(_note(source, card.commit), fetched.dump())
    return fetched


def fetch_texts(sources: Sequence[HubRows], revisions: Path | None = None) -> FetchedTexts:
    """``fetch_rows`` of several sources."""
    return FetchedTexts(parts=tuple(FetchedPart(source=one, rows=fetch_rows(one, revisions)) for one in sources))


def _note(source: HubRows, commit: str) -> Path:
    """Where the hub's folder of assets keeps how a split is read: nothing on the disk says whether that is whole."""
    folder = cached_assets_path(
        "logitfusion", namespace=f"datasets--{source.dataset}".replace("/", "--"), subfolder=commit
    )
    return folder / f"{hash_json([source.subset, source.split, source.options])}.json"


def _recall(source: HubRows, card: Download) -> FetchedRows:
    """How a split was read when there was a network."""
    note = _note(source, card.commit)
    if not note.is_file():
        raise UserError(
            f"The split {source.split!r} of the data set {source.dataset!r} (revision {source.revision}, subset"
            f" {source.subset}) was not downloaded earlier, and {ask_hub()}; download it where there is a network"
            " (snakemake --until fetch), with the same HF_HOME."
        )
    return read_artefact(note, FetchedRows)


def _download(source: HubRows, reader: Reader, commit: str) -> Download:
    names = list(dict.fromkeys(name for files in reader.splits.values() for name in files))
    return download("dataset", source.dataset, source.revision, commit=commit, choose=lambda *_: names)


def _open_builder(source: HubRows, card: Download) -> DatasetBuilder:
    """What reads a subset, as its card or the names of its files say."""
    import datasets

    place = {"path": card.moved_to or card.id, "name": source.subset, "revision": card.commit}
    try:
        with tempfile.TemporaryDirectory() as scratch:  # not its own cache, which may hold another reading
            return insist(
                lambda: datasets.load_dataset_builder(**place, **source.options, cache_dir=scratch), source.dataset
            )
    except Exception as error:  # of a dozen unrelated types
        if is_used_up(error):
            raise
        subset = f", subset {source.subset}" if source.subset else ""
        title = f"The data set {source.dataset!r} (revision {source.revision}{subset})"
        if "script" in str(error):
            raise UserError(
                f"{title} is made by Python code that comes with it, which is never run; most such have their rows at"
                " the revision refs/convert/parquet."
            ) from error
        found = re.search(r"available configs: \[(.*)\]", str(error))  # where there are several, and none was named
        if found is not None:
            raise UserError(f"{title} has several subsets; name one of them: {found[1]}.") from error
        raise UserError(f"{title} can't be read ({first_line(error)}); correct its subset.") from error


def _wanted_files(source: HubRows, card: Download, files: dict[str, list[str]]) -> dict[str, list[str]]:
    """The files of the splits that a source names: ``train``, ``train+test``, ``train[:100]``."""
    wanted = [term.partition("[")[0].strip() for term in re.split(r"\+", source.split)]
    start = re.compile(rf"hf://datasets/[^@]+@{card.commit}/")
    found = {}
    for split in dict.fromkeys(wanted):
        if split not in files:
            raise UserError(
                f"The data set {source.dataset!r} has no split {split!r} (it has {', '.join(map(str, files))}); name"
                " one of these."
            )
        paths = [str(path) for path in files[split]]
        if strange := [path for path in paths if not start.match(path)]:
            raise UserError(
                f"The data set {source.dataset!r} names files outside of its repository ({strange[0]}), which are not"
                " downloaded; use another."
            )
        found[split] = [start.sub("", path, count=1) for path in paths]
    return found


def _describe_reader(builder: DatasetBuilder, splits: dict[str, list[str]]) -> Reader:
    usual, types = type(builder.config)(), builder.info.features
    chosen = {name: value for name, value in vars(builder.config).items() if name not in _NOT_OPTIONS}
    return Reader(
        builder=builder.name,
        options={name: value for name, value in chosen.items() if value != getattr(usual, name, None)},
        features=None if types is None else json.dumps(types.to_dict()),
        splits=splits,
    )


def read_splits(source: HubRows, fetched: FetchedRows, folder: str | Path) -> dict[str, Dataset]:
    """The splits of a source, out of the hub's cache: Arrow files in a folder, mapped into memory.

    Raises:
        UserError: the downloaded files are not there any more, or can't be read.
    """
    with explaining(source):
        builder = _open_reader(source, fetched, folder)
        builder.download_and_prepare(verification_mode="no_checks")
        return dict(builder.as_dataset())


def open_rows(source: HubRows, fetched: FetchedRows, columns: Sequence[str] | None = None) -> IterableDataset:
    """The rows of a split, out of the hub's cache: read when they are asked for, a thousand at a time.

    Args:
        columns: those that are read, of a format that keeps columns apart; None for all.

    Raises:
        UserError: the files are not there any more, can't be read, or have no such column.
    """
    parquet = {"batch_size": BATCH} if fetched.reader.builder == "parquet" else {}

    def open_with(**options: Any) -> IterableDataset:
        with tempfile.TemporaryDirectory() as scratch:  # not its own cache, which may hold another reading
            dataset = _open_reader(source, fetched, scratch, **options).as_streaming_dataset(split=source.split)
        return dataset.reshard() if parquet else dataset  # Arrow reads ahead, but not beyond a group of rows

    with explaining(source):
        dataset = open_with(**parquet)
        known = dataset.column_names or list(next(iter(dataset), {}))
    if columns is None:
        return dataset
    if absent := [name for name in columns if name not in known]:
        raise UserError(
            f"The data set {source.dataset!r} has no column {absent[0]!r} (it has {', '.join(known)}); name another."
        )
    with explaining(source):
        return open_with(**parquet, columns=list(columns)) if parquet else dataset.select_columns(list(columns))


def _open_reader(source: HubRows, fetched: FetchedRows, cache: str | Path, **options: Any) -> DatasetBuilder:
    """What reads the files of a source's splits, which are in the hub's cache."""
    import datasets

    datasets.disable_progress_bars()
    reader = fetched.reader
    found = _download(source, reader, fetched.download["commit"]).files
    recorded = {file["name"]: file["sha256"] for file in fetched.download["files"]}
    if other := [file.name for file in found if file.sha256 != recorded.get(file.name)]:
        raise UserError(
            f"The file {other[0]} of the data set {source.dataset!r} is not the one that was fetched; fetch it again"
            " (snakemake --until fetch --forcerun fetch_data)."
        )
    paths = {file.name: str(file.path) for file in found}
    files = {split: [paths[name] for name in names] for split, names in reader.splits.items()}
    builder = datasets.load_dataset_builder(
        reader.builder, data_files=files, cache_dir=str(cache), **reader.options, **options
    )
    if reader.features is not None:
        builder.info.features = datasets.Features.from_dict(json.loads(reader.features))
    return builder


@contextmanager
def explaining(source: HubRows) -> Iterator[None]:
    """What datasets says of rows that it can't read, as a sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of a dozen unrelated types
        if is_used_up(error):
            raise
        raise UserError(
            f"The rows of the data set {source.dataset!r} can't be read ({first_line(error)}); another revision of it"
            " may be readable."
        ) from error
