"""The jobs of a run and what each needs: one function for each kind, from the config and the models' numbers alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from logitfusion.config.experts import MergedExpert, TrainedExpert
from logitfusion.config.jobs.distill import online_teachers
from logitfusion.config.jobs.page import cached_teachers
from logitfusion.config.loading import KEPT_PROMPTS, LARGEST_BATCH, PRECISIONS
from logitfusion.config.methods import (
    answered_tasks,
    method_batch_size,
    method_gpus,
    method_models,
    method_prompting,
    task_methods,
    tuned_methods,
    tuning_groups,
    used_models,
)
from logitfusion.config.models import HubModel, PathModel, PrunedModel
from logitfusion.config.prompting import Prompting
from logitfusion.config.run import RunConfig
from logitfusion.config.training import LoRA, Training
from logitfusion.plan.cost import PROCESS, Cost, largest
from logitfusion.plan.counted import Counted, Models, adapter_rank, root
from logitfusion.plan.decoding import Member, Texts, cached_token, decode_cost, read_cost
from logitfusion.plan.size import ITEM
from logitfusion.plan.tasks import DOCUMENTS, Sizes, Split, size_by_config
from logitfusion.plan.training import Activations, Forward, Plan, train_cost

# Bytes of a logit of the loss: in the products' dtype, in fp32, normalised, and its gradients while they are made.
_LOSS, _DISTILLATION = 10.0, 18.0
_DIVERGENCE = 4.0  # more: a gradient of its own; hybrid has two, its groups' factors the other
_EXAMPLE = 0.25  # of the longest prompt: an example in a prompt is a usual one, far shorter

Keeps = Callable[[Counted, Forward, int], Activations]
Edit = Mapping[str, Any]  # keys of the config, with dots -> other values


@dataclass(frozen=True)
class Job:
    """Jobs that are alike.

    Attributes:
        rule: of the workflow.
        name: what it makes.
        count: how many there are (shards, seeds).
        compute: its cost; None where a model is not known.
        unknown: why not.
        edits: what of the config would make it smaller, the mildest first.
    """

    rule: str
    name: str
    count: int
    compute: Callable[[], Cost] | None
    unknown: str = ""
    edits: tuple[Edit, ...] = field(default=())

    @functools.cached_property
    def cost(self) -> Cost | None:
        """Of one; None where a model is not known."""
        return None if self.compute is None else self.compute()

    @property
    def key(self) -> tuple[str, str]:
        """By which it is found again after the config was edited."""
        return self.rule, self.name


@dataclass(frozen=True)
class Assumed:
    """What a config does not say: the data is not there yet.

    Attributes:
        prompt: tokens of the longest prompt, without examples.
        documents: of a task of which nothing says how many it has.
        cards: the most GPUs that a job could be given.
        memory: bytes of a GPU; None: as much as it takes.
        on_cpu: there is no GPU.
    """

    prompt: int = 512
    documents: int = DOCUMENTS
    cards: int = 8
    memory: float | None = None
    on_cpu: bool = False


class Planner:
    """Lists the jobs of one config.

    Args:
        run: the config.
        models: their numbers.
        assumed: what the config does not say.
        keeps: what autograd keeps of a model's forward, at texts of so many tokens.
        sizes: of tasks by name; left out, what the config says of them.
    """

    def __init__(
        self, run: RunConfig, models: Models, assumed: Assumed, keeps: Keeps, sizes: Sizes | None = None
    ) -> None:
        self.run, self.models, self.assumed, self.keeps = run, models, assumed, keeps
        self.sizes = sizes or (lambda name: size_by_config(run.tasks[name]))

    def find(self, rule: str, name: str) -> Job | None:
        """The jobs of a rule that make what has this name; None where there are none that compute with models."""
        return next((job for job in self._jobs() if job.key == (rule, name)), None)

    def jobs(self) -> list[Job]:
        """All jobs that compute with models, in the order they run."""
        return [*self._jobs()]

    def _jobs(self) -> Iterator[Job]:
        yield from self._models()
        yield from self._experts()
        if self.run.fusion:
            yield from self._fusion()
        if self.run.distill:
            yield from self._distill()

    # ---- models and experts ------------------------------------------------------------------------------------------
    def _models(self) -> Iterator[Job]:
        for name in used_models(self.run):
            entry = self.run.models.get(name)
            if isinstance(entry, PrunedModel) and entry.heal:
                yield self._job("model", name, [name, entry.from_], partial(self._heal, name, entry))
            elif entry is not None and not isinstance(entry, (HubModel, PathModel)):
                yield self._job("model", name, [name], partial(self._make, name))

    def _make(self, name: str) -> Cost:
        weights = self._found(name).size.weights()
        return Cost(cards=0, host={"process": PROCESS, "weights": 2 * weights}, disk=weights)

    def _heal(self, name: str, entry: PrunedModel) -> Cost:
        cost = self._train(name, entry.heal, None, _LOSS)
        whole = self._found(entry.from_).size.weights("float32")
        return Cost({**cost.gpu, "whole model": whole}, cost.cards, cost.host, cost.disk, cost.scratch, cost.work)

    def _experts(self) -> Iterator[Job]:
        for name in used_models(self.run):
            entry = self.run.experts.get(name)
            if isinstance(entry, TrainedExpert):
                edits = _training_edits(f"experts.{name}", entry, self.assumed.cards) + self._dtype_edits([name])
                lora = entry.lora if entry.method == "lora" else None
                yield self._job("expert", name, [name], partial(self._train, name, entry, lora, _LOSS), edits=edits)
            elif isinstance(entry, MergedExpert):
                yield self._job("expert", name, [name], partial(self._merge, name))

    def _merge(self, name: str) -> Cost:
        size = self._found(name).size
        host = {"process": PROCESS, "base, sum and one expert": 3 * size.weights("float32")}
        return Cost(cards=0, host=host, disk=size.weights())

    def _train(self, name: str, recipe: Training, lora: LoRA | None, logits: float) -> Cost:
        """A training of the model behind a name."""
        found, processes = self._found(name), recipe.processes
        frozen = "nf4" if getattr(recipe, "quantisation", "none") == "nf4" else found.size.dtype
        half = recipe.precision == "bf16" or (recipe.precision == "auto" and not self.assumed.on_cpu)
        forward = Forward(
            dtype=found.size.dtype if lora else "float32",
            autocast=half,
            lora=lora,
            attention="eager" if recipe.attention == "eager" else "sdpa",
        )
        kept = self.keeps(found, forward, min(recipe.max_tokens, found.size.context or recipe.max_tokens))
        part = recipe.batch_size // processes
        rows = max(size for size in range(1, recipe.micro_batch + 1) if part % size == 0)
        plan = Plan(
            rows=rows if recipe.packing is None else math.ceil(recipe.packing / recipe.max_tokens),
            tokens=recipe.max_tokens,
            sequences=self._sequences(name, recipe),
            rank=lora.rank if lora else 0,
            frozen=frozen,
            processes=processes,
            sharded=recipe.sharded,
            checkpointed=recipe.gradient_checkpointing,
            logits=logits,
            half=half,
        )
        return train_cost(found.size, kept, plan)

    def _sequences(self, name: str, recipe: Training) -> int:
        if recipe.steps is not None:
            return recipe.steps * recipe.batch_size
        tasks = getattr(recipe, "tasks", None) or self.run.distill.tasks
        return math.ceil(recipe.epochs * self._texts(tasks))

    def _texts(self, tasks: tuple[str, ...]) -> int:
        most = self.run.distill.texts if self.run.distill and tasks == self.run.distill.tasks else None
        return sum(min(most or math.inf, self.run.tasks[task].train) for task in tasks)

    # ---- fusion ------------------------------------------------------------------------------------------------------
    def _fusion(self) -> Iterator[Job]:
        fusion = self.run.fusion
        dtype = {"fusion.dtype": fusion.dtype}
        for method in tuned_methods(self.run):
            groups = [task for group in tuning_groups(self.run, method) for task in group]
            names = [model for task in groups for model in method_models(self.run, method, task)]
            cost = partial(self._decode, {method: groups}, "validation")
            yield self._job(
                "tune", method, names, cost, edits=self._method_edits(method) + self._dtype_edits(names, dtype)
            )
        for task, methods in task_methods(self.run).items():
            names = [model for method in methods for model in method_models(self.run, method, task)]
            cost = partial(self._decode, {method: [task] for method in methods}, fusion.split)
            edits = self._task_edits(methods) + self._dtype_edits(names, dtype)
            yield self._job("decode", task, names, cost, count=fusion.shards, edits=edits)

    def _method_edits(self, method: str) -> list[Edit]:
        return _decoding_edits([f"fusion.methods.{method}"], [method_batch_size(self.run, method)], self.assumed.cards)

    def _task_edits(self, methods: list[str]) -> list[Edit]:
        """All methods together, those with a batch size of their own by that."""
        entries = self.run.fusion.methods
        places = ["fusion", *(f"fusion.methods.{name}" for name in methods if entries[name].batch_size)]
        sizes = [method_batch_size(self.run, name) for name in methods]
        return _decoding_edits(places, sizes, self.assumed.cards)

    def _decode(self, decoded: Mapping[str, list[str]], split: Split) -> Cost:
        """Methods on their tasks, one after the other; models that the next one shares stay in memory."""
        pairs = [(method, task) for method, tasks in decoded.items() for task in tasks]
        cost = largest([self._decode_task(method, task, split) for method, task in pairs])
        kept = {"prompts kept": KEPT_PROMPTS} if self.assumed.on_cpu else {}  # a GPU keeps as many as it has room for
        return replace(cost, host={**cost.host, **kept})

    def _decode_task(self, method: str, task: str, split: Split) -> Cost:
        shards = self.run.fusion.shards if split == self.run.fusion.split else 1
        members = self._members(method_models(self.run, method, task), self.run.fusion.dtype)
        texts = self._task_texts(task, split, shards, members, method_prompting(self.run, method))
        placed = {"cards": method_gpus(self.run, method), "memory": self.assumed.memory}
        return self._batched(method_batch_size(self.run, method), partial(decode_cost, members, texts, **placed))

    def _task_texts(self, task: str, split: Split, shards: int, members: list[Member], prompting: Prompting) -> Texts:
        size = self.sizes(task)
        shots = size.shots if prompting.num_fewshot is None else prompting.num_fewshot
        context = min(member.size.context or math.inf for member in members)
        longest = math.ceil(self.assumed.prompt * (1 + _EXAMPLE * shots))
        prompt = max(1, int(min(longest, context - size.new)))
        return Texts(math.ceil(size.documents(split) / shards), prompt, size.new)

    def _members(self, names: list[str], dtype: str) -> list[Member]:
        """What is loaded: adapters of the base share it in one pass if all experts are such, else each has its own."""
        large, *small = names
        ranks = [adapter_rank(self.run, name) for name in small[1:]]
        found = [Member(self._found(large).size, dtype, tuple(filter(None, [adapter_rank(self.run, large)])))]
        if not small:
            return found
        base = self._found(small[0]).size
        if all(ranks) and all(root(self.run, name) == small[0] for name in small[1:]):
            return [*found, Member(base, dtype, tuple(ranks), passes=len(small))]
        others = [
            Member(self._found(name).size, dtype, (rank,) if rank else ())
            for name, rank in zip(small[1:], ranks, strict=True)
        ]
        return [*found, Member(base, dtype), *others]

    # ---- distillation ------------------------------------------------------------------------------------------------
    def _distill(self) -> Iterator[Job]:
        distill = self.run.distill
        for name in cached_teachers(self.run):
            model = distill.teachers[name].model
            edits = [{"distill.cache.precision": "bf16"}]
            edits += [{"distill.cache.batch_size": size} for size in halves(distill.cache.batch_size)]
            edits += [{"distill.cache.gpus": cards} for cards in _more(distill.cache.gpus, self.assumed.cards)]
            cost = partial(self._teacher, model)
            yield self._job("teacher_cache", name, [model], cost, count=distill.cache.shards, edits=edits)
        training = distill.training
        lora = training.lora if training.method == "lora" else None
        edits = _training_edits("distill.training", training, self.assumed.cards) + self._dtype_edits([distill.student])
        for name, method in distill.methods.items():
            logits = (_DISTILLATION if method.teachers else _LOSS) + _DIVERGENCE * (
                (method.kl > 0) + 2 * (method.hybrid > 0)
            )
            online = {teacher: entry.model for teacher, entry in online_teachers(self.run, name).items()}
            cost = partial(self._student, lora, logits, list(online.values()), whole=method.kl + method.hybrid > 0)
            own = [*edits, *({f"distill.teachers.{teacher}.online": False} for teacher in online)]
            names = [distill.student, *online.values()]
            yield self._job("student", name, names, cost, count=len(distill.seeds), edits=own)
        yield from self._answers(len(distill.methods) * len(distill.seeds))

    def _answers(self, trials: int) -> Iterator[Job]:
        distill = self.run.distill
        teachers = [teacher.model for teacher in distill.teachers.values()]
        for name in dict.fromkeys([distill.student, *teachers]):
            edits = [{"distill.batch_size": size} for size in halves(distill.batch_size)]
            edits += [{"distill.gpus": cards} for cards in _more(distill.gpus, self.assumed.cards)]
            edits += self._dtype_edits([name], {"distill.dtype": distill.dtype})
            count = 1 + trials * (name == distill.student)
            yield self._job("answer", name, [name], partial(self._answer, name), count=count, edits=edits)

    def _student(self, lora: LoRA | None, logits: float, online: list[str], *, whole: bool) -> Cost:
        """A student, and all of each online teacher in each of its processes."""
        training, cache = self.run.distill.training, self.run.distill.cache
        cost = self._train(self.run.distill.student, training, lora, logits)
        rows = min(training.micro_batch, training.batch_size // training.processes)
        for number, model in enumerate(online, 1):
            member = self._reader(model)
            read = read_cost(member, self._sequences(self.run.distill.student, training), cache.max_tokens, rows)
            kept = rows * cache.max_tokens * member.size.vocabulary * member.item if whole else 0.0
            work = replace(read.work, parallel=training.processes)
            gpu = {**cost.gpu, f"teacher {number}": sum(read.gpu.values()) + kept}
            cost = replace(cost, gpu=gpu, work=cost.work + work)
        return cost

    def _reader(self, model: str) -> Member:
        """A teacher as it is loaded."""
        adapters = tuple(filter(None, [adapter_rank(self.run, model)]))
        return Member(self._found(model).size, PRECISIONS[self.run.distill.cache.precision], adapters)

    def _teacher(self, model: str) -> Cost:
        cache, member = self.run.distill.cache, self._reader(model)
        size = member.size
        texts = math.ceil(self._texts(self.run.distill.tasks) / cache.shards)
        kept = cached_token(cache.k, size.vocabulary, cache.rounding)
        placed = {"cards": cache.gpus, "memory": self.assumed.memory}
        cost = partial(read_cost, member, texts, cache.max_tokens, row_bytes=kept, **placed)
        return self._batched(cache.batch_size, cost)

    def _answer(self, name: str) -> Cost:
        distill = self.run.distill
        members = self._members([name], distill.dtype)
        prompting, tasks = distill.part(Prompting), answered_tasks(self.run)
        texts = [self._task_texts(task, distill.split, 1, members, prompting) for task in tasks]
        placed = {"cards": distill.gpus, "memory": self.assumed.memory}
        costs = [partial(decode_cost, members, some, **placed) for some in texts]
        return largest([self._batched(distill.batch_size, cost) for cost in costs])

    # ---- what they share ---------------------------------------------------------------------------------------------
    def _batched(self, size: int | str, cost: Callable[..., Cost]) -> Cost:
        """Of a batch of this size; of one that is found, as the job finds it: the first that fits the card.

        Without a GPU that is the first, since the machine's memory ends a job rather than a batch. With a card that is
        not known it is the last.
        """
        if size != "auto":
            return cost(batch=int(size))
        if self.assumed.on_cpu:
            return cost(batch=LARGEST_BATCH)
        memory, rows = self.assumed.memory, LARGEST_BATCH if self.assumed.memory else 1
        while rows > 1 and cost(batch=rows).gpu_bytes > memory:
            rows //= 2
        return cost(batch=rows)

    def _found(self, name: str) -> Counted:
        found = self.models.find(self.run, name)
        if found is None:
            raise KeyError(name)
        return found

    def _job(
        self,
        rule: str,
        name: str,
        names: list[str],
        cost: Callable[[], Cost],
        *,
        count: int = 1,
        edits: Sequence[Edit] = (),
    ) -> Job:
        for model in names:
            if self.models.find(self.run, model) is None:
                reason = self.models.unknown[root(self.run, model)]
                return Job(rule, name, count, None, f"The model {root(self.run, model)!r} is not known yet: {reason}.")
        return Job(rule, name, count, cost, edits=tuple(edits))

    def _dtype_edits(self, names: list[str], use: Mapping[str, str] | None = None) -> list[Edit]:
        """Half precision of the models that are in more, or of their use, whose dtype comes before theirs."""
        if use and "auto" not in use.values():
            return [{key: "bfloat16" for key, dtype in use.items() if ITEM[dtype] > 2}]
        roots = dict.fromkeys(root(self.run, name) for name in names)
        wide = [name for name in roots if (found := self.models.find(self.run, name)) and ITEM[found.size.dtype] > 2]
        return [{f"models.{name}.dtype": "bfloat16" for name in wide}] if wide else []


def halves(size: int | str) -> list[int]:
    """Smaller batches, the largest first."""
    found = []
    while size != "auto" and size > 1:
        size //= 2
        found.append(size)
    return found


def _more(cards: int, most: int) -> list[int]:
    return [count for count in (2, 4, 8, 16) if cards < count <= most]


def _decoding_edits(places: list[str], batches: list[int | str], cards: int) -> list[Edit]:
    """Smaller batches, as they are said at some places, then more cards, at the first of these."""
    largest = "auto" if "auto" in batches else max(batches)
    edits: list[Edit] = [{f"{place}.batch_size": size for place in places} for size in halves(largest)]
    return edits + [{f"{places[0]}.gpus": count} for count in _more(1, cards)]


def _training_edits(place: str, recipe: Any, cards: int) -> list[Edit]:
    """In the order of how little they change: what is computed, then where, then what is trained."""
    edits: list[Edit] = [{f"{place}.micro_batch": size} for size in halves(recipe.micro_batch)]
    if recipe.packing is not None:  # then rows are as long as it says
        edits = [{f"{place}.packing": size} for size in halves(recipe.packing) if size >= recipe.max_tokens]
    if not recipe.gradient_checkpointing:
        edits.append({f"{place}.gradient_checkpointing": True})
    parted = [{f"{place}.processes": count, f"{place}.sharded": True} for count in _more(recipe.processes, cards)]
    edits += [edit for edit in parted if recipe.batch_size % edit[f"{place}.processes"] == 0]
    if recipe.method == "full":
        edits.append({f"{place}.method": "lora"})
        edits.append({f"{place}.method": "lora", f"{place}.quantisation": "nf4"})
    elif recipe.quantisation == "none":
        edits.append({f"{place}.quantisation": "nf4"})
    return edits
