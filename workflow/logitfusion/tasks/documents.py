"""A task's documents on disk: processed, cut to size, and ready to be evaluated where there is no network."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from lm_eval.tasks.manager import TaskDict

from logitfusion.artefact import write_artefact
from logitfusion.config.section import Listed, Section, canonical, parse
from logitfusion.config.tasks import Split
from logitfusion.errors import UserError
from logitfusion.files import sha256, whole, write_text
from logitfusion.formats.text import read_text
from logitfusion.integrity import RECORD, as_rows, check_files, record_files
from logitfusion.provenance import hash_json
from logitfusion.tasks.data import holds_examples
from logitfusion.tasks.definition import definition_files
from logitfusion.tasks.faults import explaining
from logitfusion.tasks.harness import FEWSHOT_SEED, Leaf, load_leaves
from logitfusion.tasks.metrics import find_metric
from logitfusion.tasks.prompts import ChatTemplate, make_completion, make_context
from logitfusion.tasks.split import Cut

INDEX = "index.json"
logger = logging.getLogger(__name__)


class StoredLeaf(Section):
    """The documents of one leaf."""

    name: str
    folder: str
    """That holds a data set for each split."""
    test: Listed[int]
    """Numbers of the documents in their data set, in the order in which they are stored."""
    validation: Listed[int]
    shots: bool
    """Whether examples of prompts are stored too."""
    hidden: Listed[int]
    """Places of validation documents among these: none is an example for itself."""


class StoredTask(Section):
    """What a folder of documents holds."""

    harness: str
    """The task or group."""
    folders: Listed[str]
    """Where its definitions are; see ``find_folders``."""
    version: str
    """Of lm-evaluation-harness."""
    definition: str
    """Digest of the files of this machine that define it."""
    leaves: Listed[StoredLeaf]


@dataclass(frozen=True)
class Document:
    """A document of a task.

    Attributes:
        task: name of the leaf task.
        index: its place among the leaf's documents of the split, as ``samples`` of ``lm_eval.evaluate`` counts.
        id: its number in the leaf's data set.
    """

    task: str
    index: int
    id: int


@dataclass(frozen=True)
class OpenedTask:
    """A task or group with its documents.

    Attributes:
        name: of the task or group.
        loaded: what ``lm_eval.evaluate`` takes: "tasks", "groups" and "group_map".
        documents: all of the split, in one order that never changes; shards are parts of it.
        metric: name and filter of the metric that tables compare.
    """

    name: str
    loaded: TaskDict
    documents: tuple[Document, ...]
    metric: tuple[str, str]

    def make_examples(
        self,
        chat_template: ChatTemplate | None = None,
        system: str | None = None,
        fewshot_as_multiturn: bool = False,
        opening: str = "",
    ) -> list[tuple[str, str]]:
        """Context and right answer of each document, with as many examples in front as the task was opened with.

        Args:
            opening: of chats; see ``make_completion``.
        """
        found = []
        for document in self.documents:
            leaf = self.loaded["tasks"][document.task]
            row = leaf.eval_docs[document.index]
            context = make_context(
                leaf,
                row,
                num_fewshot=leaf.config.num_fewshot,
                chat_template=chat_template,
                system=system,
                fewshot_as_multiturn=fewshot_as_multiturn,
            )
            found.append((context, make_completion(leaf, row, opening=opening if chat_template else None)))
        return found


def write_documents(
    folder: str | Path, task: str, folders: Sequence[str], loaded: TaskDict, cut: Cut, *, shots: bool
) -> None:
    """Write the documents of a task that are evaluated, and the examples of its prompts.

    Args:
        folder: ``.../<task>/documents``.
        task: its name in the harness.
        folders: of its definitions.
        loaded: its leaves, filled.
        cut: which documents are whose.
        shots: whether prompts may hold examples.
    """
    with whole(folder) as temporary:
        temporary.mkdir()
        leaves = []
        for number, leaf in enumerate(loaded["tasks"].values()):
            place, ids = temporary / f"{number:04}", {}
            for split in ("test", "validation"):
                picked = [one for one in getattr(cut, split) if one.leaf is leaf]
                ids[split] = tuple(one.index for one in picked)
                if picked:
                    _save(leaf.documents(picked[0].split).select(ids[split]), place / split)
            examples, hidden = _examples(leaf, cut) if holds_examples(leaf.config, shots) else (None, [])
            if examples is not None:
                _save(examples, place / "shots")
            kept = {"shots": examples is not None, "hidden": tuple(hidden)}
            leaves.append(StoredLeaf(name=leaf.task_name, folder=place.name, **kept, **ids))
        stored = StoredTask(
            harness=task,
            folders=tuple(folders),
            version=importlib.metadata.version("lm_eval"),
            definition=digest_definition(task, folders),
            leaves=tuple(leaves),
        )
        write_text(temporary / INDEX, canonical(stored))
        names = [str(path.relative_to(temporary)) for path in temporary.rglob("*") if path.is_file()]
        write_artefact(temporary / RECORD, {"files": as_rows(record_files(temporary, names))})


def _save(documents: Dataset, folder: Path) -> None:
    """Rows and their types alone: what datasets keeps besides names files of this machine, and random numbers."""
    datasets.disable_progress_bars()
    rows = documents.flatten_indices()
    plain = Dataset(rows.data, info=datasets.DatasetInfo(features=rows.features), fingerprint="documents")
    plain.save_to_disk(str(folder))


def _examples(leaf: Leaf, cut: Cut) -> tuple[Dataset | None, list[int]]:
    """What examples of prompts are drawn from, and which of it are validation documents.

    None where the definition holds its examples itself, or none is left. Where the evaluated split was cut, no document
    that is tested or validated is an example; elsewhere they are drawn from what the harness draws them from.
    """
    source = leaf.fewshot_source
    if source is None:
        return None, []
    examples = leaf.shot_documents()
    validated = {one.index for one in cut.validation if one.leaf is leaf and one.split == source}
    if source == leaf.evaluated_split and leaf in cut.leaves_cut:
        kept = validated | {one.index for one in cut.test if one.leaf is leaf}
        left = [number for number in range(len(examples)) if number not in kept]
        return (examples.select(left) if left else None), []
    return examples, sorted(validated)


def digest_definition(task: str, folders: Sequence[str]) -> str:
    """A digest of the definitions and code of a task that are files of this machine, and not the harness's own."""
    include_path = next((folder for folder in folders if not folder.startswith("<")), None)
    return hash_json([sha256(file) for file in definition_files(task, include_path)])


def open_documents(
    folder: str | Path,
    *,
    split: Split = "test",
    num_fewshot: int | None = None,
    generation_kwargs: Mapping[str, Any] | None = None,
    metric: str | None = None,
) -> OpenedTask:
    """Open what the stage ``task`` wrote.

    Args:
        folder: ``.../<task>/documents``.
        split: validation documents stand in the place of test documents.
        num_fewshot: examples in each prompt; None: the definition's own number.
        generation_kwargs: merged into the definition's.
        metric: the metric that tables compare, as the config names it; None: the definition's first.

    Raises:
        UserError: the folder or a definition is not as it was, or the task has no such metric.
    """
    folder = Path(folder)
    stored = _read_index(folder)
    loaded = load_leaves(stored.harness, stored.folders)
    documents: list[Document] = []
    for entry in stored.leaves:
        leaf, ids = loaded["tasks"][entry.name], getattr(entry, split)
        if ids:
            _fill(leaf, entry, folder / entry.folder, split, num_fewshot, generation_kwargs or {})
            documents += [Document(entry.name, index, number) for index, number in enumerate(ids)]
        else:
            _drop(loaded, entry.name)
    if not documents:
        raise UserError(f"{folder} holds no {split} documents; raise the task's {split} size.")
    return OpenedTask(stored.harness, loaded, tuple(documents), find_metric(stored.harness, loaded, metric))


def _read_index(folder: Path) -> StoredTask:
    """What a folder holds, if it is whole and was made of the definitions that are there now."""
    if INDEX not in check_files(folder):
        raise UserError(f"{folder} holds no documents of a task; delete the folder and run again.")
    stored: StoredTask = parse(StoredTask, read_text(folder / INDEX))
    version = importlib.metadata.version("lm_eval")
    if stored.version != version:
        raise UserError(
            f"The documents in {folder} were made with lm-eval {stored.version}, and this is {version}; delete the"
            " folder and run again."
        )
    if stored.definition != digest_definition(stored.harness, stored.folders):
        raise UserError(
            f"The definition of {stored.harness!r} has changed since the documents in {folder} were made; run again."
        )
    return stored


def _fill(
    leaf: Leaf,
    entry: StoredLeaf,
    folder: Path,
    split: Split,
    num_fewshot: int | None,
    generation_kwargs: Mapping[str, Any],
) -> None:
    """Give a leaf its documents, and settings as ``lm_eval.simple_evaluate`` does."""
    own = leaf.config.num_fewshot
    shots = own if num_fewshot is None or own == 0 else num_fewshot
    if num_fewshot and own == 0:
        logger.warning(
            "%s: its definition says num_fewshot: 0, which the harness never overrules, so its prompts hold no examples"
            " and not %d.",
            entry.name, num_fewshot,
        )  # fmt: skip
    examples: Any = []
    if shots and leaf.fewshot_source is None:
        examples = None  # the definition's own
    elif shots:
        if not entry.shots:
            raise UserError(
                f"The documents of {entry.name!r} in {folder.parent} have no examples for prompts: none was asked for,"
                " or all are tested or validated; lower num_fewshot, or those sizes, or run the stage task again."
            )
        examples = datasets.load_from_disk(str(folder / "shots"))
        if split == "validation" and entry.hidden:
            hidden = set(entry.hidden)
            examples = examples.select([number for number in range(len(examples)) if number not in hidden])
    with explaining(entry.name):
        leaf.fill(evaluated=datasets.load_from_disk(str(folder / split)), shots=examples)
    if leaf.OUTPUT_TYPE == "generate_until" and generation_kwargs:
        leaf.set_config("generation_kwargs", dict(generation_kwargs), update=True)
    leaf.set_config("num_fewshot", shots or 0)
    leaf.set_fewshot_seed(FEWSHOT_SEED)


def _drop(loaded: TaskDict, name: str) -> None:
    """Take a leaf without documents out of a task, and groups that are empty then."""
    loaded["tasks"].pop(name, None)
    for group in loaded.get("groups", {}).values():
        group.pop(name)
    empty = [group for group in loaded.get("groups", {}) if not loaded["groups"][group].get_all_tasks()]
    for group in empty:
        del loaded["groups"][group]
        _drop(loaded, group)
    loaded["group_map"] = {group.name: group.child_names for group in loaded.get("groups", {}).values()}
