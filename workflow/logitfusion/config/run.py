"""A whole config: the sections of all tracks."""

from __future__ import annotations

from typing import Any

from pydantic import model_serializer

from logitfusion.config.clip import Clip
from logitfusion.config.distill import Distill
from logitfusion.config.evaluate import Evaluate, Report
from logitfusion.config.experts import Expert
from logitfusion.config.fusion import Fusion
from logitfusion.config.models import Model
from logitfusion.config.packages import Package
from logitfusion.config.protocol import Protocol
from logitfusion.config.section import Name, Section, Seed
from logitfusion.config.tasks import Task

OPTIONAL = ("fusion", "distill", "clip", "protocol")  # sections that are there or not


class RunConfig(Section):
    """The config of a run."""

    run: Name
    """Name of the run; everything it makes is in results/<run>."""
    seed: Seed = 0
    """Seed of everything that is not given one of its own."""
    models: dict[Name, Model] = {}
    """Name -> where the model comes from. Few-shot CLIP alone needs none."""
    tasks: dict[Name, Task] = {}
    """Name -> a task of lm-evaluation-harness, or texts to learn from. Few-shot CLIP alone needs none."""
    experts: dict[Name, Expert] = {}
    """Name -> a model trained on tasks, or merged from trained ones. Ceilings are experts of the large model."""
    fusion: Fusion | None = None
    """Dynamic Logits Fusion; the track is left out without it."""
    distill: Distill | None = None
    """Distillation; the track is left out without it."""
    clip: Clip | None = None
    """Few-shot CLIP; the track is left out without it."""
    evaluate: Evaluate = Evaluate()
    """Scores, their intervals, and the gap."""
    report: Report = Report()
    """The report."""
    protocol: Protocol | None = None
    """What was frozen before test splits are decoded; without it nothing is, and nothing is refused."""

    @model_serializer(mode="wrap")
    def _leave_out(self, serialize: Any) -> dict[str, Any]:
        """A track or protocol that is not there is left out, because an empty one is an error in a file."""
        return {key: value for key, value in serialize(self).items() if key not in OPTIONAL or value is not None}

    @property
    def packages(self) -> tuple[Package, ...]:
        """Every package: of models, of the rows of tasks, of encoders and image data sets."""
        owners: list[Section] = [*self.models.values(), *self.tasks.values()]
        if self.clip is not None:
            owners += [self.clip.encoder, *self.clip.auxiliaries.values(), *self.clip.datasets.values()]
        return tuple(part for owner in owners for part in getattr(owner, "packages", ()))
