"""Where a definition's documents come from: its own code, files of this machine, or the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from lm_eval.config.task import TaskConfig

from logitfusion.config.section import Listed, Section
from logitfusion.config.tasks import Definition
from logitfusion.config.texts import HubRows
from logitfusion.errors import UserError
from logitfusion.tasks.definition import BUILDERS, find_texts
from logitfusion.tasks.faults import explain
from logitfusion.tasks.find import find_folders
from logitfusion.tasks.harness import Leaf, load_leaves
from logitfusion.tasks.hub_rows import FetchedPart, fetch_rows, read_splits
from logitfusion.tasks.streaming import stream_lines

_PROTOCOL = "hf://datasets/"


class FetchedTask(Section):
    """The record of what was fetched for a task."""

    folders: Listed[str]
    """Where its definitions are."""
    parts: Listed[FetchedPart]
    """Its data sets."""


def fetch_task(
    task: Definition, *, train: bool, validation: bool, shots: bool, revisions: Path | None = None
) -> FetchedTask:
    """Download what a task's leaves read, into the hub's cache.

    Args:
        train: whether it has documents to learn from.
        validation: whether it has documents for choosing anything.
        shots: whether prompts may hold examples.
        revisions: the folder of recorded commits; without it none is recorded.

    Raises:
        UserError: no such task, or its data can't be downloaded.
    """
    folders = find_folders(task.harness, task.include_path)
    parts: dict[str, FetchedPart] = {}
    for leaf in load_leaves(task.harness, folders)["tasks"].values():
        splits = wanted_splits(leaf, task, train=train, validation=validation, shots=shots)
        source = find_source(leaf.config, task, splits)
        if source is not None and (key := source.model_dump_json()) not in parts:
            parts[key] = FetchedPart(source=source, rows=fetch_rows(source, revisions))
    return FetchedTask(folders=folders, parts=tuple(parts.values()))


def wanted_splits(leaf: Leaf, task: Definition, *, train: bool, validation: bool, shots: bool) -> list[str]:
    """The splits of a leaf's data set that are read.

    Raises:
        UserError: the definition names none that is evaluated, or none to learn from where there are to be such.
    """
    config, evaluated = leaf.config, leaf.evaluated_split
    if evaluated is None:
        raise UserError(
            f"The definition of the task {config.task!r} names neither a test_split nor a validation_split; add one."
        )
    training = task.training_split or config.training_split
    apart = config.validation_split not in (None, evaluated, training) and training != evaluated
    wanted = [evaluated]
    if train or (validation and not apart):
        if training is None:
            raise UserError(
                f"The definition of the task {config.task!r} has no training split: name one of its data set's splits"
                f" as the task's training_split ({evaluated}: it is cut into disjoint parts), or ask for no train and"
                " validation documents."
            )
        wanted.append(training)
    if validation and apart:
        wanted.append(config.validation_split)
    if holds_examples(config, shots) and leaf.fewshot_source is not None:
        wanted.append(leaf.fewshot_source)
    return list(dict.fromkeys(wanted))


def holds_examples(config: TaskConfig, shots: bool) -> bool:
    """Whether prompts may hold examples; a definition that says 0 is never overruled, as in the harness."""
    return shots and config.num_fewshot != 0


def find_source(config: TaskConfig, task: Definition, splits: Sequence[str]) -> HubRows | None:
    """The data set of the hub that a leaf's documents are of; None where they are not of the hub.

    Raises:
        UserError: the documents are somewhere else in the web, or nowhere.
    """
    options = _read_options(config)
    path, files = config.dataset_path, options.get("data_files")
    if config.custom_dataset is not None:
        return None
    if path is None:
        raise UserError(f"The definition of the task {config.task!r} names no dataset_path and no custom_dataset.")
    addresses = [file for file in find_texts(files) if "://" in file]
    if path in BUILDERS and addresses:
        path, options["data_files"] = _of_repository(config.task, files)
    elif path in BUILDERS or Path(path).exists():
        return None
    revision = task.revision or options.pop("revision", None) or "main"
    options.pop("revision", None)
    return HubRows(dataset=path, subset=config.dataset_name, split="+".join(splits), revision=revision, options=options)


def _of_repository(task: str, files: Any) -> tuple[str, Any]:
    """``hf://datasets/owner/name/file`` as a repository and its files."""
    owners = {"/".join(file.removeprefix(_PROTOCOL).split("/")[:2]) for file in find_texts(files)}
    if len(owners) > 1 or not all(file.startswith(_PROTOCOL) for file in find_texts(files)):
        raise UserError(
            f"The documents of the task {task!r} are files of the web ({next(find_texts(files))}), which are not"
            " downloaded; use data_files of this machine, or a data set of the hub."
        )
    owner = owners.pop()
    return owner, _replace(files, lambda file: file.removeprefix(f"{_PROTOCOL}{owner}/"))


def read_documents(
    leaf: Leaf, task: Definition, splits: Sequence[str], fetched: FetchedTask | None, scratch: Path
) -> Mapping[str, Dataset]:
    """The splits of a leaf's data set, as they are before its definition processes them.

    Args:
        scratch: a folder for what is read on the way, as long as the documents are used.

    Raises:
        UserError: they can't be read, or were not fetched.
    """
    config = leaf.config
    source = find_source(config, task, splits)
    if source is not None:
        for part in fetched.parts if fetched else ():
            if part.source == source:
                return read_splits(source, part.rows, scratch)
        raise UserError(f"The data set {source.dataset!r} of the task {config.task!r} was not fetched; fetch it again.")
    options = _read_options(config)
    try:
        if config.custom_dataset is not None:
            return config.custom_dataset(**(config.metadata or {}), **options)
        return load_dataset(config.dataset_path, config.dataset_name, **options | {"cache_dir": str(scratch)})
    except Exception as error:  # of the definition's own code, or of a dozen unrelated types
        for file in find_texts(options.get("data_files") if config.dataset_path == "json" else None):
            if file.endswith(".jsonl") and not sum(1 for _ in stream_lines(file)):  # which says what line is wrong
                raise UserError(f"{file} is empty; the task {config.task!r} needs its documents.") from None
        raise explain(config.task, error) from error


def _read_options(config: TaskConfig) -> dict[str, Any]:
    """What a definition passes to datasets; code that comes with a data set is never run, whatever it says of that."""
    return {key: value for key, value in (config.dataset_kwargs or {}).items() if key != "trust_remote_code"}


def _replace(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _replace(inner, change) for key, inner in value.items()}
    return change(value) if isinstance(value, str) else [_replace(inner, change) for inner in value]
