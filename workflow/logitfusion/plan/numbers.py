"""The costs that jobs of several tracks share, from the config and the models' numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from logitfusion.config.loading import LARGEST_BATCH
from logitfusion.config.prompting import Prompting
from logitfusion.config.run import RunConfig
from logitfusion.config.training import LoRA, Training
from logitfusion.plan.cost import Cost
from logitfusion.plan.counted import Counted, Models, adapter_rank, root
from logitfusion.plan.decoding import Member, Texts
from logitfusion.plan.jobs import Assumed, Edit, Job
from logitfusion.plan.size import ITEM
from logitfusion.plan.tasks import Sizes, Split, size_by_config
from logitfusion.plan.training import Activations, Forward, Plan, train_cost

LOSS = 10.0  # bytes of a logit of the loss: in the products' dtype, in fp32, normalised, and its gradients
_EXAMPLE = 0.25  # of the longest prompt: an example in a prompt is a usual one, far shorter

Keeps = Callable[[Counted, Forward, int], Activations]


class Numbers:
    """What the jobs of one config are counted from; for the arguments see ``Planner``."""

    def __init__(self, run: RunConfig, models: Models, assumed: Assumed, keeps: Keeps, sizes: Sizes | None) -> None:
        self.run, self.models, self.assumed, self.keeps = run, models, assumed, keeps
        self.sizes = sizes or (lambda name: size_by_config(run.tasks[name]))

    def train(self, name: str, recipe: Training, lora: LoRA | None, logits: float) -> Cost:
        """A training of the model behind a name."""
        found, processes = self.found(name), recipe.processes
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
            sequences=self.sequences(name, recipe),
            rank=lora.rank if lora else 0,
            frozen=frozen,
            processes=processes,
            sharded=recipe.sharded,
            checkpointed=recipe.gradient_checkpointing,
            logits=logits,
            half=half,
        )
        return train_cost(found.size, kept, plan)

    def sequences(self, name: str, recipe: Training) -> int:
        """Texts that a training reads, each as often as it does."""
        if recipe.steps is not None:
            return recipe.steps * recipe.batch_size
        tasks = getattr(recipe, "tasks", None) or self.run.distill.tasks
        return math.ceil(recipe.epochs * self.texts(tasks))

    def texts(self, tasks: tuple[str, ...]) -> int:
        """Texts of the training splits of some tasks, as many as are used."""
        most = self.run.distill.texts if self.run.distill and tasks == self.run.distill.tasks else None
        return sum(min(most or math.inf, self.run.tasks[task].train) for task in tasks)

    def task_texts(self, task: str, split: Split, shards: int, members: list[Member], prompting: Prompting) -> Texts:
        """What one of the shards decodes of a task."""
        size = self.sizes(task)
        shots = size.shots if prompting.num_fewshot is None else prompting.num_fewshot
        context = min(member.size.context or math.inf for member in members)
        longest = math.ceil(self.assumed.prompt * (1 + _EXAMPLE * shots))
        prompt = max(1, int(min(longest, context - size.new)))
        return Texts(math.ceil(size.documents(split) / shards), prompt, size.new)

    def members(self, names: list[str], dtype: str) -> list[Member]:
        """What is loaded: adapters of the base share it in one pass if all experts are such, else each has its own."""
        large, *small = names
        ranks = [adapter_rank(self.run, name) for name in small[1:]]
        found = [Member(self.found(large).size, dtype, tuple(filter(None, [adapter_rank(self.run, large)])))]
        if not small:
            return found
        base = self.found(small[0]).size
        if all(ranks) and all(root(self.run, name) == small[0] for name in small[1:]):
            return [*found, Member(base, dtype, tuple(ranks), passes=len(small))]
        others = [
            Member(self.found(name).size, dtype, (rank,) if rank else ())
            for name, rank in zip(small[1:], ranks, strict=True)
        ]
        return [*found, Member(base, dtype), *others]

    def batched(self, size: int | str, cost: Callable[..., Cost]) -> Cost:
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

    def found(self, name: str) -> Counted:
        """The model behind a name, which is known."""
        found = self.models.find(self.run, name)
        if found is None:
            raise KeyError(name)
        return found

    def job(
        self,
        rule: str,
        name: str,
        names: list[str],
        cost: Callable[[], Cost],
        *,
        count: int = 1,
        edits: Sequence[Edit] = (),
    ) -> Job:
        """Jobs with these models, the cost of which is not known before all of them are."""
        for model in names:
            if self.models.find(self.run, model) is None:
                reason = self.models.unknown[root(self.run, model)]
                return Job(rule, name, count, None, f"The model {root(self.run, model)!r} is not known yet: {reason}.")
        return Job(rule, name, count, cost, edits=tuple(edits))

    def dtype_edits(self, names: list[str], use: Mapping[str, str] | None = None) -> list[Edit]:
        """Half precision of the models that are in more, or of their use, whose dtype comes before theirs."""
        if use and "auto" not in use.values():
            return [{key: "bfloat16" for key, dtype in use.items() if ITEM[dtype] > 2}]
        roots = dict.fromkeys(root(self.run, name) for name in names)
        wide = [name for name in roots if (found := self.models.find(self.run, name)) and ITEM[found.size.dtype] > 2]
        return [{f"models.{name}.dtype": "bfloat16" for name in wide}] if wide else []
