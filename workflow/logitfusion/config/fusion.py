"""Dynamic Logits Fusion: the models, how they decode, and the methods that are compared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from logitfusion.config.decoding import TaskDecoding, TaskSampling
from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.loading import Loading
from logitfusion.config.prompting import MethodPrompting, Prompting
from logitfusion.config.section import (
    BatchSize,
    Gpus,
    Name,
    NonNegative,
    PositiveShare,
    Section,
    Shards,
    Share,
    Some,
    either,
)
from logitfusion.config.tasks import Split

Tasks = Some[str] | None


class Tune(Section):
    """What is tried on the validation split, before the test split is decoded."""

    trusts: Annotated[Some[Share], Field(max_length=100)] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Candidates of trust, for weights that are searched; [0.0] chooses among fixed weights alone."""
    anchors: Annotated[Some[NonNegative], Field(max_length=100)] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    """Candidates of anchor; with rule gate, of the fixed weight that it is compared with."""
    ridges: Annotated[Some[NonNegative], Field(max_length=100)] = (1.0, 0.3, 0.1, 0.03, 0.01)
    """Candidates of the ridge with which rule gate is fitted."""
    criterion: Literal["likelihood", "metric"] = "likelihood"
    """By what the choice is judged: how likely right answers are, or also the task's metric of texts that the large
    model alone, the best fixed weight and the best of all decode (longer); noise goes to the simpler one."""
    steered_share: PositiveShare | None = None
    """Set familiar so that this share of the validation prompts is steered."""


class _Method(MethodPrompting):
    """What all methods have."""

    tasks: Tasks = None
    """The tasks that are decoded; all tasks (of which {task} has an expert) when left out."""
    batch_size: BatchSize | None = None
    """The track's when left out."""
    gpus: Gpus | None = None
    """The track's when left out."""


class SingleMethod(_Method):
    """One model alone."""

    model: str
    """A model or expert that decodes alone; {task} is replaced by the task's name."""


class SteeredMethod(FusionOptions, _Method):
    """The large model, steered by experts."""

    experts: Some[str]
    """The experts that steer; {task} is replaced by the task's name."""
    base: str | None = None
    """The small model that its experts were trained from; the track's when left out."""
    tune: Tune | None = None
    """Choose trust and anchor (or fit the gate) on the validation split, before the test split is decoded."""

    @model_validator(mode="after")
    def _check_weights(self) -> SteeredMethod:
        if self.tune is not None and self.weights != "dynamic":
            raise PydanticCustomError("cross", "has fixed weights, so there is nothing to tune; remove tune or weights")
        _check_gate(self)
        if isinstance(self.weights, tuple) and len(self.weights) != len(self.experts):
            counts = {"experts": len(self.experts), "weights": len(self.weights)}
            raise PydanticCustomError("cross", "has {experts} experts and {weights} weights", counts)
        if isinstance(self.bounds[0], tuple) and len(self.bounds) != len(self.experts):
            counts = {"experts": len(self.experts), "bounds": len(self.bounds)}
            raise PydanticCustomError("cross", "has {experts} experts and {bounds} pairs of bounds", counts)
        return self


def _check_gate(method: SteeredMethod) -> None:
    """A gate is fitted here or was fitted before, and then nothing is searched."""
    searched = method.rule != "gate"
    if not searched and method.weights == "dynamic" and (method.gate is None) == (method.tune is None):
        words = "needs the file of a gate or tune to fit one, and not both"
        raise PydanticCustomError("cross", words, {"key": "gate"})
    if method.gate is not None and method.weights != "dynamic":
        words = "solves the weights, and they are fixed; remove gate or weights"
        raise PydanticCustomError("cross", words, {"key": "gate"})
    for name in ("ridges",) if searched else ("trusts",):
        if method.tune is not None and getattr(method.tune, name) != Tune.model_fields[name].default:
            words = "is about {what}; remove it"
            what = "rule gate" if searched else "weights that are searched, and rule gate searches nothing"
            raise PydanticCustomError("cross", words, {"key": f"tune.{name}", "what": what})


Method = either("model", having=SingleMethod, lacking=SteeredMethod)


class Fusion(TaskDecoding, TaskSampling, Prompting, Loading):
    """The fusion track."""

    large: str
    """The model that is steered."""
    base: str
    """The small model that the experts are compared with, where a method names no other."""
    split: Split = "test"
    """The split that is decoded; choose anything on validation, in a run of its own."""
    shards: Shards = 1
    """Decoding jobs for each task."""
    gpus: Gpus = 1
    """GPUs of a job that tunes or decodes; its models are parted among them."""
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    """Name -> one model alone, or the large model steered. "{task}" is replaced by the task's name."""
