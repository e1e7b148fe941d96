"""Distillation: one student, several teachers whatever their vocabularies, and the losses that are compared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from logitfusion.config.loading import Loading
from logitfusion.config.monitoring import Monitoring
from logitfusion.config.objective import Objective
from logitfusion.config.prompting import Prompting, TextFormat
from logitfusion.config.section import (
    BatchSize,
    Count,
    Distinct,
    Gpus,
    Name,
    Section,
    Seed,
    Shards,
    Some,
    Tokens,
)
from logitfusion.config.tasks import Split
from logitfusion.config.training import Adaptation, Training

Entries = Annotated[int, Field(ge=1, le=4096)]
Rounding = Literal["fine", "coarse"]


class Teacher(TextFormat):
    """A model that reads all texts."""

    model: str
    """A model or an expert."""
    online: bool = False
    """It reads in each training anew, beside the student, instead of once into a cache; kl then has all its tokens."""


class TeacherReading(Section):
    """How teachers read."""

    max_tokens: Tokens = 512
    """Longer sequences are cut (tokens), of online teachers as well."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the teachers' weights while they read, online as well; auto is each model's own."""


class CacheContents(TeacherReading):
    """What decides a cache of a teacher's logits."""

    k: Entries = 32
    """Entries of each position."""
    rounding: Rounding = "fine"
    """Of log-probabilities: fine keeps 11 bits of each; coarse keeps 6, and a cache is a quarter smaller."""
    shards: Shards = 1
    """Jobs for each teacher."""
    batch_size: BatchSize = 16
    """Texts that are read together; auto halves it where the memory is used up."""


class Cache(CacheContents):
    """What is kept of the teachers' logits."""

    gpus: Gpus = 1
    """GPUs of a job, among which its teacher is parted."""


class StudentTraining(Training, Adaptation, Monitoring):
    """How students are trained, the same for all methods; seeds are distill.seeds."""


class DistillMethod(Objective):
    """Teachers and the loss."""

    teachers: Distinct[str] = ()
    """Names of teachers; none for SFT."""

    @model_validator(mode="after")
    def _check(self) -> DistillMethod:
        if (self.taught > 0) != bool(self.teachers):
            raise PydanticCustomError(
                "cross", "needs both teachers and a factor uld, gld, kl or hybrid above 0, or neither (plain SFT)"
            )
        if self.weights is not None and len(self.weights) != len(self.teachers):
            counts = {"teachers": len(self.teachers), "weights": len(self.weights)}
            raise PydanticCustomError("cross", "has {teachers} teachers and {weights} weights", counts)
        return self


class Distill(Prompting, Loading):
    """The distillation track."""

    student: str
    """The model (or expert) that every method trains."""
    tasks: Some[str]
    """Tasks whose training splits (those with train above 0) are the text; students answer those of the harness."""
    texts: Count | None = None
    """At most this many of each task, the first ones."""
    teachers: dict[Name, Teacher] = {}
    """Name -> a model that reads all texts, whatever its vocabulary."""
    cache: Cache = Cache()
    """What is kept of the teachers' logits."""
    training: StudentTraining = StudentTraining()
    """The same for all methods."""
    seeds: Annotated[Distinct[Seed], Field(min_length=1)] = (0,)
    """Every method is trained once with each."""
    methods: Annotated[dict[Name, DistillMethod], Field(min_length=1)]
    """Name -> teachers and the loss."""
    baseline: str | None = None
    """The method that gains are counted from; left out, the one named sft, or the first without teachers, if any."""
    split: Split = "test"
    """The split that is decoded."""
    batch_size: BatchSize = 32
    """Of decoding; auto halves it where the memory is used up."""
    gpus: Gpus = 1
    """GPUs of a job that decodes, among which its model is parted."""

    @model_validator(mode="after")
    def _check_cache(self) -> Distill:
        for name, method in self.methods.items():
            cached = [teacher for teacher in method.teachers if not self._is_online(teacher)]
            if cached and method.on_policy:
                facts = {"key": f"methods.{name}.on_policy", "teacher": cached[0]}
                words = "needs teachers that read online; set distill.teachers.{teacher}.online: true"
                raise PydanticCustomError("cross", words, facts)
            if method.on_policy and (self.training.sharded or self.training.packing is not None):
                facts = {"key": f"methods.{name}.on_policy"}
                words = "needs whole students and texts apart; leave sharded and packing out of distill.training"
                raise PydanticCustomError("cross", words, facts)
            if cached and method.entries > self.cache.k:
                facts = {"key": f"methods.{name}.k", "k": method.k, "kept": self.cache.k}
                raise PydanticCustomError("cross", "is {k}, and the cache keeps {kept}; raise distill.cache.k", facts)
        return self

    def _is_online(self, teacher: str) -> bool:
        return teacher in self.teachers and self.teachers[teacher].online
