"""Tasks of lm-evaluation-harness opened without the stage that writes their documents, for tests of what follows it."""

from __future__ import annotations

from pathlib import Path

import yaml
from harness_tasks import TASKS
from lm_eval.tasks import TaskManager

from logitfusion.config.tasks import Splits
from logitfusion.tasks.documents import Document, OpenedTask, write_documents
from logitfusion.tasks.prepare import cut_task, read_task

GROUP = "toys"


def add_group(folder: Path, *, weighted: bool = True, tasks: tuple[str, ...] = ("toy_choice", "toy_other")) -> Path:
    """A group beside the toy tasks; its second task has fewer documents than the first."""
    choice = yaml.safe_load((folder / "toy_choice.yaml").read_text(encoding="utf-8"))
    rows = (folder / "data.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "fewer.jsonl").write_text("".join(rows[:4]), encoding="utf-8")
    choice["dataset_kwargs"]["data_files"] = {"test": str(folder / "fewer.jsonl")}
    (folder / "toy_other.yaml").write_text(yaml.safe_dump({**choice, "task": "toy_other"}, allow_unicode=True))
    metrics = [{"metric": "acc", "aggregation": "mean", "weight_by_size": weighted}]
    group = {"group": GROUP, "task": list(tasks), "aggregate_metric_list": metrics}
    (folder / "toys.yaml").write_text(yaml.safe_dump(group))
    return folder


def open_toys(folder: Path, name: str, *, metric: str = "acc", num_fewshot: int | None = None) -> OpenedTask:
    """A task or group of a folder with all its documents."""
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load(name)
    documents = []
    for leaf, task in loaded["tasks"].items():
        task.set_config("num_fewshot", num_fewshot or 0)
        documents += [Document(leaf, index, 10 * index) for index in range(len(task.eval_docs))]
    return OpenedTask(name, loaded, tuple(documents), (metric, "none"))


METRICS = dict(zip(TASKS, ("acc", "exact_match", "word_perplexity"), strict=True))


def store(folder: Path, task: str, definitions: Path, **sizes: int) -> Path:
    """A task's documents as the stage ``task`` writes them, in ``folder/documents``."""
    splits = Splits(harness=task, include_path=str(definitions), **sizes)
    folder.mkdir(parents=True)
    folders, loaded = read_task(splits, shots=None, scratch=folder)
    write_documents(folder / "documents", task, folders, loaded, cut_task(splits, loaded, task), shots=None)
    return folder / "documents"
