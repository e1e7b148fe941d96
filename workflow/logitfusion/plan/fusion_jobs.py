"""Jobs that tune and decode fusion methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from logitfusion.config.loading import KEPT_PROMPTS
from logitfusion.config.methods import (
    method_batch_size,
    method_gpus,
    method_models,
    method_prompting,
    task_methods,
    tuned_methods,
    tuning_groups,
)
from logitfusion.plan.cost import Cost, largest
from logitfusion.plan.decoding import decode_cost
from logitfusion.plan.edits import decoding_edits
from logitfusion.plan.jobs import Edit, Job, Listed
from logitfusion.plan.numbers import Numbers
from logitfusion.plan.tasks import Split


class FusionJobs:
    """Those of the track, if the run has it."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers, self.run, self.assumed = numbers, numbers.run, numbers.assumed

    def listed(self) -> Iterator[Listed]:
        """A job for each tuned method, then some for each task."""
        if self.run.fusion is None:
            return
        for method in tuned_methods(self.run):
            yield ("tune", method), partial(self._tuned, method)
        for task, methods in task_methods(self.run).items():
            yield ("decode", task), partial(self._decoded, task, methods)

    def _tuned(self, method: str) -> Job:
        tasks = [task for group in tuning_groups(self.run, method) for task in group]
        names = [model for task in tasks for model in method_models(self.run, method, task)]
        edits = self._method_edits(method) + self._dtype_edits(names)
        cost = partial(self._decode, {method: tasks}, "validation")
        return self.numbers.job("tune", method, names, cost, edits=edits)

    def _decoded(self, task: str, methods: list[str]) -> Job:
        fusion = self.run.fusion
        names = [model for method in methods for model in method_models(self.run, method, task)]
        edits = self._task_edits(methods) + self._dtype_edits(names)
        cost = partial(self._decode, {method: [task] for method in methods}, fusion.split)
        return self.numbers.job("decode", task, names, cost, count=fusion.shards, edits=edits)

    def _dtype_edits(self, names: list[str]) -> list[Edit]:
        return self.numbers.dtype_edits(names, {"fusion.dtype": self.run.fusion.dtype})

    def _method_edits(self, method: str) -> list[Edit]:
        return decoding_edits([f"fusion.methods.{method}"], [method_batch_size(self.run, method)], self.assumed.cards)

    def _task_edits(self, methods: list[str]) -> list[Edit]:
        """All methods together, those with a batch size of their own by that."""
        entries = self.run.fusion.methods
        places = ["fusion", *(f"fusion.methods.{name}" for name in methods if entries[name].batch_size)]
        sizes = [method_batch_size(self.run, name) for name in methods]
        return decoding_edits(places, sizes, self.assumed.cards)

    def _decode(self, decoded: Mapping[str, list[str]], split: Split) -> Cost:
        """Methods on their tasks, one after the other; models that the next one shares stay in memory."""
        pairs = [(method, task) for method, tasks in decoded.items() for task in tasks]
        cost = largest([self._decode_task(method, task, split) for method, task in pairs])
        kept = {"prompts kept": KEPT_PROMPTS} if self.assumed.on_cpu else {}  # a GPU keeps as many as it has room for
        return replace(cost, host={**cost.host, **kept})

    def _decode_task(self, method: str, task: str, split: Split) -> Cost:
        shards = self.run.fusion.shards if split == self.run.fusion.split else 1
        members = self.numbers.members(method_models(self.run, method, task), self.run.fusion.dtype)
        texts = self.numbers.task_texts(task, split, shards, members, method_prompting(self.run, method))
        placed = {"cards": method_gpus(self.run, method), "memory": self.assumed.memory}
        return self.numbers.batched(method_batch_size(self.run, method), partial(decode_cost, members, texts, **placed))
