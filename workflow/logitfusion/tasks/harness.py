"""Tasks of lm-evaluation-harness whose documents we give: nothing is downloaded while a task is made."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import lm_eval.utils
from datasets import Dataset
from lm_eval.api.registry import get_aggregation, get_metric, get_metric_aggregation
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.config.task import TaskConfig
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry
from lm_eval.tasks.manager import TaskDict

from logitfusion.errors import UserError
from logitfusion.tasks.faults import explaining
from logitfusion.tasks.find import index_folders

FEWSHOT_SEED = 1234  # the harness's own
# It compiles a template anew for every document, which was nearly all of the time that texts took: once does.
lm_eval.utils.env.from_string = functools.lru_cache(maxsize=256)(lm_eval.utils.env.from_string)


class Leaf(ConfigurableTask):
    """A task that is read in two steps: its definition, then ``fill`` with its documents.

    Until it is filled it has a name and a ``config``, and nothing else.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._given = config
        self._config = TaskConfig(**config)
        self._raw: Mapping[str, Dataset] = {}
        self._processed: dict[str, Dataset] = {}
        self._evaluated: Dataset | None = None
        self._shots: Sequence[dict[str, Any]] | None = None

    def fill(
        self,
        raw: Mapping[str, Dataset] | None = None,
        *,
        evaluated: Dataset | None = None,
        shots: Sequence[dict[str, Any]] | None = None,
    ) -> Leaf:
        """Make the task.

        Args:
            raw: its data set's splits, as they are before the definition processes them.
            evaluated: documents in the place of those of its evaluation split, processed already.
            shots: likewise for the examples of prompts.
        """
        _check_metrics(self._config)
        self._raw, self._evaluated, self._shots = raw or {}, evaluated, shots
        super().__init__(config=self._given)
        return self

    def download(self, *_: Any, **__: Any) -> None:
        self.dataset = dict(self._raw)

    @property
    def evaluated_split(self) -> str | None:
        """The split that the harness evaluates; None where the definition names neither."""
        return self.config.test_split or self.config.validation_split

    @property
    def eval_docs(self) -> Dataset:
        found = self.documents(self.evaluated_split) if self._evaluated is None else self._evaluated
        if not len(found):
            raise UserError(
                f"The task {self.task_name!r} has nothing to evaluate: its split {self.evaluated_split!r} is empty, or"
                " its process_docs leaves none of it."
            )
        return found

    def documents(self, split: str) -> Dataset:
        """The processed documents of a split.

        Raises:
            UserError: its data set has no such split.
        """
        if split not in self._processed:
            if split not in self._raw:
                raise UserError(
                    f"The data set of the task {self.task_name!r} has no split {split!r} (it has"
                    f" {', '.join(self._raw)}); correct the task's training_split, or its definition."
                )
            rows = self._raw[split]
            process = self._config.process_docs
            self._processed[split] = rows if process is None else process(rows)
        return self._processed[split]

    def fewshot_docs(self) -> Any:
        return super().fewshot_docs() if self._shots is None else self._shots

    def shot_documents(self) -> Dataset:
        """What examples of prompts are drawn from, of its data set."""
        source = self.fewshot_source
        if source is not None and source not in self._raw:
            raise UserError(
                f"The examples of prompts of the task {self.task_name!r} come from the split {source!r}, and its data"
                f" set has {', '.join(self._raw)}; say num_fewshot: 0 in the config, or correct its definition."
            )
        with explaining(self.task_name):
            found = super().fewshot_docs()
        return found if isinstance(found, Dataset) else Dataset.from_list(list(found))

    @property
    def fewshot_source(self) -> str | None:
        """The split that examples of prompts come from; None where the definition holds them itself."""
        if self.fewshot_config.split is not None:
            return self.fewshot_config.split
        if self.fewshot_config.samples is not None:
            return None
        return self.config.training_split or self.config.validation_split or self.config.test_split

    @property
    def fewshot_config(self) -> Any:
        return self.config.fewshot_config


def _check_metrics(config: TaskConfig) -> None:
    """Refuse metrics that would fail when everything is decoded."""
    for entry in config.metric_list or ():
        metric, aggregation = entry.get("metric"), entry.get("aggregation")
        loaded = config.process_results is not None or not isinstance(metric, str)
        if not loaded and get_metric(metric, entry.get("hf_evaluate") is True) is None:
            raise UserError(
                f"The metric {metric!r} of the task {config.task!r} is unknown, or can't be loaded without a package or"
                " a network; correct its definition."
            )
        if aggregation is None and isinstance(metric, str) and get_metric_aggregation(metric) is None:
            raise UserError(f"The metric {metric!r} of the task {config.task!r} needs an aggregation, such as mean.")
        if isinstance(aggregation, str) and get_aggregation(aggregation) is None:
            raise UserError(
                f"The metric {metric!r} of the task {config.task!r} has an unknown aggregation {aggregation!r}; use"
                " mean, or correct its definition."
            )


class _Factory(TaskFactory):
    """Makes leaves of definitions."""

    def _build_task(self, entry: Entry, overrides: dict[str, Any] | None) -> Task:
        _refuse(entry.cfg or {})  # before its code is imported, which may need what is not installed
        config = self._load_full_config(entry, overrides)
        for key in ("tag", "group", "task_list"):
            config.pop(key, None)
        return Leaf(config)


def _refuse(config: dict[str, Any]) -> None:
    """Refuse definitions that can't be used in a workflow."""
    name = config.get("task")
    if "recipe" in config:
        raise UserError(f"The task {name!r} is one of unitxt, which can't be used in a workflow; use another.")
    if "class" in config:
        raise UserError(
            f"The task {name!r} is a class of Python, not a definition of documents, prompts and metrics, and can't be"
            " used in a workflow; logitfusion evaluate runs such tasks."
        )
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        raise UserError(f"The task {name!r} asks about images or sounds, and these models read text; use another.")
    if config.get("unsafe_code"):
        raise UserError(
            f"The task {name!r} runs the code that a model writes, which no job of a workflow does; logitfusion"
            " evaluate --confirm-run-unsafe-code does."
        )


def load_leaves(name: str, folders: Sequence[str], metadata: dict[str, Any] | None = None) -> TaskDict:
    """A task or group with all it consists of, whose leaves have no documents yet.

    Args:
        folders: see ``find_folders``.
        metadata: what definitions that make their own documents may read.

    Raises:
        UserError: there is no such task, or it can't be used in a workflow.
    """
    manager: TaskManager = index_folders(folders, metadata)
    manager._factory = _Factory(meta=metadata)
    with explaining(name):
        loaded = manager.load(name)
    if not loaded["tasks"]:
        raise UserError(f"The group {name!r} consists of nothing; its key task must list names of tasks.")
    strangers = [task for task, leaf in loaded["tasks"].items() if not isinstance(leaf, Leaf)]
    if strangers:
        raise UserError(f"The group {name!r} names the task {strangers[0]!r}, which is defined nowhere; correct it.")
    return loaded
