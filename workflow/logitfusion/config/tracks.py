"""What the tables and plots of a track need of it: JSON from the rule to the stage, objects in the package."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BeforeValidator, WrapSerializer

from logitfusion.config.section import Count, Listed, Section, Seed, Some

Item = TypeVar("Item")

# A mapping whose order counts is a list of pairs in JSON, because the slices of a config have their keys sorted.
Ordered = Annotated[
    dict[str, Item], BeforeValidator(dict), WrapSerializer(lambda value, write: list(write(value).items()))
]


class FusionTrack(Section):
    """The fusion track in the metrics table."""

    split: str
    """The split that was decoded."""
    seen: Listed[str]
    """Tasks that an expert was trained on."""
    rival: str | None = None
    """The method with a fixed weight that differences are told to, besides ``evaluate.base``."""


class FusionReport(Section):
    """The fusion track in plots and in its summary."""

    methods: Some[str]
    """In the order of the plots."""
    base: str | None
    """``evaluate.base``."""
    ceiling: str | None
    """``evaluate.ceiling``."""
    seen: Listed[str]
    """Tasks that an expert was trained on; the others are marked as unseen."""


class TracesReport(Section):
    """The experts' weights along the texts of one task."""

    task: str
    """The task whose examples are drawn."""
    experts: Ordered[Listed[str]]
    """Steered method -> its experts in the order of its weights; one column a method."""
    examples: Count
    """How many of the task's first examples are drawn."""
    steering: Listed[str]
    """All experts of the run, in the order of their colours."""


class TuningReport(Section):
    """The methods whose trust and anchor were chosen, or whose gate was fitted, on validation data."""

    methods: Listed[str]
    """One row each."""


class LossesReport(Section):
    """The loss curves of models and experts."""

    healed: Listed[str]
    """Pruned models that were healed; all other curves are of fine-tuning."""


class StudentsTrack(Section):
    """The distillation track, in the metrics table, in plots and in its summary."""

    split: str
    """The split that was answered."""
    student: str
    """The model that all students start from."""
    teachers: Ordered[str]
    """Teacher -> its model."""
    methods: Some[str]
    """In the order of table and plots."""
    seeds: Some[Seed]
    """Training seeds."""
    baseline: str | None
    """The method that gains are over."""

    @property
    def trials(self) -> dict[str, list[str]]:
        """Row of the table -> what was scored for it: student and teachers themselves, a method once for each seed."""
        models = {name: [name] for name in dict.fromkeys([self.student, *self.teachers.values()])}
        return models | {name: [f"{name}.{seed}" for seed in self.seeds] for name in self.methods}


class FewShotTrack(Section):
    """The few-shot track in the metrics table."""

    sets: Ordered[Some[str]]
    """Data set -> its test sets: itself, then those that are a shift of it."""
    shots: Some[Count]
    """Support images of each class, ascending."""
    seeds: Some[Seed]
    """Of the support sets and of the fits."""
    baselines: Listed[str] = ()
    """Methods that gains are over."""
    oracle: Listed[str] = ()
    """Methods whose best test epoch is tabulated beside their last."""


class FewShotReport(FewShotTrack):
    """The few-shot track in plots and pages. Methods are named as in the config, in its order."""

    methods: Some[str]
    """All methods."""
    parts: Listed[str] = ()
    """Those drawn as AMU and its parts: CLIP, the auxiliary branch, their sum, AMU."""
    ablation: Listed[str] = ()
    """Those of the ablation: ``parts`` and AMU without one of them. All others are rivals."""
    clip: str | None
    """The method that is CLIP alone."""
    shown: str
    """The method that is emphasised and whose predictions are shown."""
    assisted: Listed[str]
    """Methods that use the auxiliary."""
    auxiliaries: dict[str, str]
    """Auxiliary encoder -> its pre-training."""
    encoder: str
    """CLIP's own encoder in words."""
