"""What a task asks of the models that decode it, from its definition alone: its documents are not there yet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from logitfusion.config.run import RunConfig
from logitfusion.config.tasks import LENGTHS, HarnessTask, Split
from logitfusion.errors import UserError
from logitfusion.files import read_json
from logitfusion.integrity import read_record

TASKS = "tasks.json"
DOCUMENTS = 1000  # of a task of which nothing says how many it has
TOKENS = 256  # of a generated text where nothing says how many it may have, as in the evaluation


@dataclass(frozen=True)
class TaskSize:
    """A task's documents and what is put to models for each.

    Attributes:
        test: documents that are evaluated.
        validation: documents for choosing anything.
        new: tokens that a generated text may have; 1 where texts are scored, which takes one pass.
        shots: examples in each prompt.
        certain: whether the number of test documents is known.
    """

    test: int
    validation: int
    new: int = TOKENS
    shots: int = 0
    certain: bool = True

    def documents(self, split: Split) -> int:
        """Of a split."""
        return self.test if split == "test" else self.validation


Sizes = Callable[[str], TaskSize]


def size_by_config(task: HarnessTask) -> TaskSize:
    """What the config alone says of a task; nothing is imported for it."""
    return TaskSize(
        test=task.test or DOCUMENTS,
        validation=task.validation,
        new=_read_tokens(task.generation_kwargs),
        shots=task.num_fewshot or 0,
        certain=task.test is not None,
    )


class RecordedTasks:
    """The sizes of tasks that were made, by their records; of the others what the config says.

    Args:
        run: the config.
        results: the run's folder.
    """

    def __init__(self, run: RunConfig, results: Path) -> None:
        self.run, self.results = run, results

    def __call__(self, name: str) -> TaskSize:
        return _recorded(size_by_config(self.run.tasks[name]), self.results / "tasks" / name)


def read_tasks(run: RunConfig, metadata: Path | None, results: Path, documents: int = DOCUMENTS) -> dict[str, TaskSize]:
    """The sizes of all tasks of a run that can be evaluated, by their definitions.

    Args:
        run: the config.
        metadata: a folder whose ``tasks.json`` maps names of the harness to numbers of documents that are evaluated.
        results: where an earlier run has made tasks.
        documents: of tasks of which nothing else says how many they have.

    Raises:
        UserError: there is no such task, or it can't be used in a workflow.
    """
    known = _read_counts(metadata) if metadata is not None else {}
    found = {}
    for name, task in run.tasks.items():
        if isinstance(task, HarnessTask):
            size = _by_definition(task)
            if not size.certain:
                counted = known.get(task.harness)
                size = replace(size, test=counted or documents, certain=counted is not None)
            found[name] = _recorded(size, results / run.run / "tasks" / name)
    return found


def _by_definition(task: HarnessTask) -> TaskSize:
    from logitfusion.tasks.find import find_folders
    from logitfusion.tasks.harness import load_leaves

    leaves = load_leaves(task.harness, find_folders(task.harness, task.include_path))["tasks"].values()
    configs = [leaf.config for leaf in leaves]
    size = size_by_config(task)
    return replace(
        size,
        test=size.test * len(configs) if size.certain else size.test,  # the first so many of each
        new=max(_longest(config, task.generation_kwargs) for config in configs),
        shots=max(config.num_fewshot or 0 for config in configs) if task.num_fewshot is None else task.num_fewshot,
    )


def _longest(config: Any, replaced: dict[str, Any]) -> int:
    """Tokens of a generated text; 1 where texts are scored."""
    if config.output_type != "generate_until":
        return 1
    return _read_tokens(config.generation_kwargs | replaced)


def _read_tokens(asked: dict[str, Any]) -> int:
    given = next((asked[name] for name in LENGTHS if asked.get(name) is not None), TOKENS)
    return max(1, math.ceil(given)) if isinstance(given, (int, float)) else TOKENS


def _recorded(size: TaskSize, folder: Path) -> TaskSize:
    try:
        sizes = (read_record(folder) or {}).get("sizes", {})
    except UserError:  # which whoever reads the task says
        return size
    return replace(size, test=sizes.get("test", size.test), certain=size.certain or "test" in sizes)


def _read_counts(metadata: Path) -> dict[str, int]:
    path = metadata / TASKS
    counts = read_json(path) if path.is_file() else {}
    if not isinstance(counts, dict) or not all(isinstance(count, int) and count > 0 for count in counts.values()):
        raise UserError(f"{path} must map names of tasks to numbers of documents.")
    return counts
