"""Jobs of the distillation track: what teachers say is cached, students are trained, all of them answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from logitfusion.config.jobs.distill import online_teachers
from logitfusion.config.jobs.page import cached_teachers
from logitfusion.config.loading import PRECISIONS
from logitfusion.config.methods import answered_tasks
from logitfusion.config.prompting import Prompting
from logitfusion.config.training import LoRA
from logitfusion.plan.cost import Cost, largest
from logitfusion.plan.counted import adapter_rank
from logitfusion.plan.decoding import Member, cached_token, decode_cost, read_cost
from logitfusion.plan.edits import halves, more_cards, training_edits
from logitfusion.plan.jobs import Edit, Job, Listed
from logitfusion.plan.numbers import LOSS, Numbers

_DISTILLATION = 18.0  # bytes of a logit of a loss with a teacher; see ``numbers.LOSS``
_DIVERGENCE = 4.0  # more: a gradient of its own; hybrid has two, its groups' factors the other


class DistillJobs:
    """Those of the track, if the run has it."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers, self.run, self.assumed = numbers, numbers.run, numbers.assumed

    def listed(self) -> Iterator[Listed]:
        """Teachers, then students, then the answers of both."""
        distill = self.run.distill
        if distill is None:
            return
        for name in cached_teachers(self.run):
            yield ("teacher_cache", name), partial(self._cached, name)
        for name in distill.methods:
            yield ("student", name), partial(self._trained, name)
        for name in dict.fromkeys([distill.student, *(teacher.model for teacher in distill.teachers.values())]):
            yield ("answer", name), partial(self._answered, name)

    def _cached(self, name: str) -> Job:
        distill = self.run.distill
        model, cache = distill.teachers[name].model, distill.cache
        edits = [{"distill.cache.precision": "bf16"}, *self._batch_edits("distill.cache", cache.batch_size, cache.gpus)]
        cost = partial(self._teacher, model)
        return self.numbers.job("teacher_cache", name, [model], cost, count=cache.shards, edits=edits)

    def _trained(self, name: str) -> Job:
        distill = self.run.distill
        training, method = distill.training, distill.methods[name]
        online = {teacher: entry.model for teacher, entry in online_teachers(self.run, name).items()}
        edits = training_edits("distill.training", training, self.assumed.cards)
        edits += self.numbers.dtype_edits([distill.student])
        edits += [{f"distill.teachers.{teacher}.online": False} for teacher in online]
        lora = training.lora if training.method == "lora" else None
        logits = _DISTILLATION if method.teachers else LOSS
        logits += _DIVERGENCE * ((method.kl > 0) + 2 * (method.hybrid > 0))
        cost = partial(self._student, lora, logits, list(online.values()), whole=method.kl + method.hybrid > 0)
        names = [distill.student, *online.values()]
        return self.numbers.job("student", name, names, cost, count=len(distill.seeds), edits=edits)

    def _answered(self, name: str) -> Job:
        distill = self.run.distill
        edits = self._batch_edits("distill", distill.batch_size, distill.gpus)
        edits += self.numbers.dtype_edits([name], {"distill.dtype": distill.dtype})
        students = len(distill.methods) * len(distill.seeds) if name == distill.student else 0
        return self.numbers.job("answer", name, [name], partial(self._answer, name), count=1 + students, edits=edits)

    def _batch_edits(self, place: str, size: int | str, cards: int) -> list[Edit]:
        """Smaller batches, then more cards."""
        edits: list[Edit] = [{f"{place}.batch_size": smaller} for smaller in halves(size)]
        return edits + [{f"{place}.gpus": more} for more in more_cards(cards, self.assumed.cards)]

    def _student(self, lora: LoRA | None, logits: float, online: list[str], *, whole: bool) -> Cost:
        """A student, and all of each online teacher in each of its processes."""
        training, cache = self.run.distill.training, self.run.distill.cache
        cost = self.numbers.train(self.run.distill.student, training, lora, logits)
        rows = min(training.micro_batch, training.batch_size // training.processes)
        for number, model in enumerate(online, 1):
            member = self._reader(model)
            read = read_cost(member, self.numbers.sequences(self.run.distill.student, training), cache.max_tokens, rows)
            kept = rows * cache.max_tokens * member.size.vocabulary * member.item if whole else 0.0
            work = replace(read.work, parallel=training.processes)
            gpu = {**cost.gpu, f"teacher {number}": sum(read.gpu.values()) + kept}
            cost = replace(cost, gpu=gpu, work=cost.work + work)
        return cost

    def _reader(self, model: str) -> Member:
        """A teacher as it is loaded."""
        adapters = tuple(filter(None, [adapter_rank(self.run, model)]))
        return Member(self.numbers.found(model).size, PRECISIONS[self.run.distill.cache.precision], adapters)

    def _teacher(self, model: str) -> Cost:
        cache, member = self.run.distill.cache, self._reader(model)
        size = member.size
        texts = math.ceil(self.numbers.texts(self.run.distill.tasks) / cache.shards)
        kept = cached_token(cache.k, size.vocabulary, cache.rounding)
        placed = {"cards": cache.gpus, "memory": self.assumed.memory}
        cost = partial(read_cost, member, texts, cache.max_tokens, row_bytes=kept, **placed)
        return self.numbers.batched(cache.batch_size, cost)

    def _answer(self, name: str) -> Cost:
        distill = self.run.distill
        members = self.numbers.members([name], distill.dtype)
        prompting, tasks = distill.part(Prompting), answered_tasks(self.run)
        texts = [self.numbers.task_texts(task, distill.split, 1, members, prompting) for task in tasks]
        placed = {"cards": distill.gpus, "memory": self.assumed.memory}
        costs = [partial(decode_cost, members, some, **placed) for some in texts]
        return largest([self.numbers.batched(distill.batch_size, cost) for cost in costs])
