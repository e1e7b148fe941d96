"""All jobs of a run that compute with models, and each of them by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import chain

from logitfusion.config.run import RunConfig
from logitfusion.plan.counted import Models
from logitfusion.plan.distill_jobs import DistillJobs
from logitfusion.plan.fusion_jobs import FusionJobs
from logitfusion.plan.jobs import Assumed, Job
from logitfusion.plan.model_jobs import ModelJobs
from logitfusion.plan.numbers import Keeps, Numbers
from logitfusion.plan.tasks import Sizes


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
        self.numbers = Numbers(run, models, assumed, keeps, sizes)

    def find(self, rule: str, name: str) -> Job | None:
        """The jobs of a rule that make what has this name; None where there are none that compute with models."""
        make = self._listed.get((rule, name))
        return None if make is None else make()

    def jobs(self) -> list[Job]:
        """All jobs that compute with models, in the order they run."""
        return [make() for make in self._listed.values()]

    @cached_property
    def _listed(self) -> dict[tuple[str, str], Callable[[], Job]]:
        """What makes each job, by its key. A job is made when it is asked for: models become known while a run goes."""
        subjects = ModelJobs(self.numbers), FusionJobs(self.numbers), DistillJobs(self.numbers)
        return dict(chain.from_iterable(subject.listed() for subject in subjects))
