"""Jobs that make models and train experts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from logitfusion.config.experts import MergedExpert, TrainedExpert
from logitfusion.config.methods import used_models
from logitfusion.config.models import HubModel, PathModel, PrunedModel
from logitfusion.plan.cost import PROCESS, Cost
from logitfusion.plan.edits import training_edits
from logitfusion.plan.jobs import Job, Listed
from logitfusion.plan.numbers import LOSS, Numbers


class ModelJobs:
    """Those that a track needs."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers, self.run = numbers, numbers.run

    def listed(self) -> Iterator[Listed]:
        """Models first, since experts are trained from them."""
        used = used_models(self.run)
        for name in used:
            entry = self.run.models.get(name)
            if isinstance(entry, PrunedModel) and entry.heal:
                yield ("model", name), partial(self._healed, name, entry)
            elif entry is not None and not isinstance(entry, (HubModel, PathModel)):
                yield ("model", name), partial(self._made, name)
        for name in used:
            entry = self.run.experts.get(name)
            if isinstance(entry, TrainedExpert):
                yield ("expert", name), partial(self._trained, name, entry)
            elif isinstance(entry, MergedExpert):
                yield ("expert", name), partial(self._merged, name)

    def _made(self, name: str) -> Job:
        return self.numbers.job("model", name, [name], partial(self._make, name))

    def _healed(self, name: str, entry: PrunedModel) -> Job:
        return self.numbers.job("model", name, [name, entry.from_], partial(self._heal, name, entry))

    def _trained(self, name: str, entry: TrainedExpert) -> Job:
        edits = training_edits(f"experts.{name}", entry, self.numbers.assumed.cards) + self.numbers.dtype_edits([name])
        lora = entry.lora if entry.method == "lora" else None
        cost = partial(self.numbers.train, name, entry, lora, LOSS)
        return self.numbers.job("expert", name, [name], cost, edits=edits)

    def _merged(self, name: str) -> Job:
        return self.numbers.job("expert", name, [name], partial(self._merge, name))

    def _make(self, name: str) -> Cost:
        weights = self.numbers.found(name).size.weights()
        return Cost(cards=0, host={"process": PROCESS, "weights": 2 * weights}, disk=weights)

    def _heal(self, name: str, entry: PrunedModel) -> Cost:
        cost = self.numbers.train(name, entry.heal, None, LOSS)
        whole = self.numbers.found(entry.from_).size.weights("float32")
        return Cost({**cost.gpu, "whole model": whole}, cost.cards, cost.host, cost.disk, cost.scratch, cost.work)

    def _merge(self, name: str) -> Cost:
        size = self.numbers.found(name).size
        host = {"process": PROCESS, "base, sum and one expert": 3 * size.weights("float32")}
        return Cost(cards=0, host=host, disk=size.weights())
