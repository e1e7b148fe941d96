"""Texts of tasks of lm-evaluation-harness: to learn from, and to be measured on."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from logitfusion.cli._learned import read_learned
from logitfusion.cli._options import given_values, spell
from logitfusion.config.keywords import read_options
from logitfusion.config.tasks import HarnessTask
from logitfusion.errors import UserError

if TYPE_CHECKING:
    from logitfusion.models.examples import Text
    from logitfusion.tasks.documents import OpenedTask


# What a command line says of each task that it names.
OF_TASKS = tuple(name for name in HarnessTask.model_fields if name not in ("harness", "generation_kwargs"))


@dataclass
class Found:
    """What files and tasks hold.

    Attributes:
        learned: texts to learn from.
        held_out: texts that are read meanwhile.
        tasks: those that are answered meanwhile.
    """

    learned: list[Text] = field(default_factory=list)
    held_out: list[Text] = field(default_factory=list)
    tasks: dict[str, OpenedTask] = field(default_factory=dict)


def is_file(name: str) -> bool:
    """Whether a name is one of a file of texts, or ``-``, and not of a task."""
    return name == "-" or name.endswith((".jsonl", ".json")) or Path(name).is_file()


def read_tasks(arguments: argparse.Namespace) -> dict[str, HarnessTask]:
    """The tasks that are learned or evaluated, by name.

    Raises:
        UserError: options that can't be used, or nobody said how many documents are read.
    """
    found = {}
    for name in dict.fromkeys(name for name in arguments.texts + arguments.evaluate if not is_file(name)):
        given = {"harness": name} | given_values(HarnessTask, arguments)
        for option, names, size in (
            ("--texts", arguments.texts, "train"),
            ("--evaluate", arguments.evaluate, "validation"),
        ):
            if name not in names:
                given[size] = 0
            elif not given.get(size):
                raise UserError(
                    f"{option} {name} is a task, no file (those end in .jsonl): say by {spell(size)} how many of its"
                    " documents are read."
                )
        found[name] = read_options(HarnessTask, given, spell)
    return found


def find_texts(arguments: argparse.Namespace, tasks: Mapping[str, HarnessTask], *, chats: bool, scratch: Path) -> Found:
    """Read the files and tasks that are learned or evaluated.

    Args:
        tasks: those of ``read_tasks``.
        chats: whether texts are written in a chat template.
        scratch: a folder for what is read on the way, as long as tasks are used.

    Raises:
        UserError: a file or a task that can't be read.
    """
    found = Found()
    for number, name in enumerate(dict.fromkeys(arguments.texts + arguments.evaluate)):
        if name in tasks:
            _read_task(found, name, tasks[name], scratch / str(number))
            continue
        read = read_learned(name, chats=chats)
        found.learned += read if name in arguments.texts else []
        found.held_out += read if name in arguments.evaluate else []
    return found


def _read_task(found: Found, name: str, task: HarnessTask, scratch: Path) -> None:
    import datasets

    from logitfusion.models.examples import read_example
    from logitfusion.tasks.data import fetch_task
    from logitfusion.tasks.documents import open_documents, write_documents
    from logitfusion.tasks.prepare import cut_task, make_texts, read_task

    datasets.disable_progress_bars()
    shots = task.validation > 0  # prompts of documents that are answered may hold examples
    scratch.mkdir()
    fetched = None
    if task.fetched:
        fetched = fetch_task(task, train=task.train > 0, validation=task.validation > 0, shots=shots)
    folders, loaded = read_task(task, shots=shots, scratch=scratch, fetched=fetched)
    cut = cut_task(task, loaded, name)
    found.learned += map(read_example, make_texts(cut.train))
    if cut.validation:
        found.held_out += map(read_example, make_texts(cut.validation))
        write_documents(scratch / "documents", name, folders, loaded, cut, shots=shots)
        found.tasks[name] = open_documents(
            scratch / "documents", split="validation", num_fewshot=task.num_fewshot, metric=task.metric
        )
