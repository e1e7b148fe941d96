"""Slices of the config for tuning, decoding and judging texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from logitfusion.config.decoding import TaskDecoding, TaskSampling
from logitfusion.config.fusion import SteeredMethod, Tune
from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.jobs.protocol import confirmed_comparison
from logitfusion.config.loading import Loading
from logitfusion.config.methods import (
    method_batch_size,
    method_models,
    method_prompting,
    tuning_groups,
)
from logitfusion.config.prompting import Prompting
from logitfusion.config.run import RunConfig
from logitfusion.config.section import BatchSize, Count, Listed, Section, Seed, Some, Whole
from logitfusion.config.tasks import Split


class DecodedTask(Section):
    """A task, as decoding knows it."""

    models: Some[str]
    """The models that decode it, the one that leads first, then the small base and the experts."""
    num_fewshot: Whole | None
    """Examples in each prompt; null: as its definition says."""
    generation_kwargs: dict[str, Any]
    """Merged into those of its definition."""


class DecodedMethod(Section):
    """A method, as decoding knows it."""

    options: FusionOptions
    prompting: Prompting
    decoding: TaskDecoding
    tasks: dict[str, DecodedTask]


class DecodeJob(Section):
    """Decode one shard of some tasks' documents with some methods."""

    methods: dict[str, DecodedMethod]
    loading: Loading
    split: Split
    shards: Count
    comparison: str | None = None
    """The frozen comparison that the answers confirm, if they do."""


class TuneJob(Section):
    """Choose on validation documents how far a method trusts its solved weights."""

    options: FusionOptions
    prompting: Prompting
    tune: Tune
    loading: Loading
    batch_size: BatchSize
    seed: Seed
    """Of the texts that are decoded; 0 where none are."""
    groups: Listed[Some[str]]
    """The tasks that share one choice."""
    tasks: dict[str, DecodedTask]


class JudgeJob(Section):
    """Judge what every method said on one task."""

    methods: Listed[str]
    split: Split
    metric: str | None
    """The one that methods are compared by; null: the first of its definition."""


def decode_job(run: RunConfig, task: str, methods: list[str]) -> DecodeJob:
    """All fusion methods on a task; their order changes nothing."""
    return DecodeJob(
        methods={method: decoded_method(run, method, [task]) for method in sorted(methods)},
        loading=run.fusion.part(Loading),
        split=run.fusion.split,
        shards=run.fusion.shards,
        comparison=confirmed_comparison(run, run.fusion.split),
    )


def decoded_method(run: RunConfig, method: str, tasks: Iterable[str]) -> DecodedMethod:
    """A fusion method on some of its tasks."""
    entry, prompting = run.fusion.methods[method], method_prompting(run, method)
    decoding = run.fusion.part(TaskDecoding).model_copy(update={"batch_size": method_batch_size(run, method)})
    return DecodedMethod(
        options=entry.part(FusionOptions) if isinstance(entry, SteeredMethod) else FusionOptions(),
        prompting=prompting,
        decoding=decoding,
        tasks={
            task: decoded_task(run, task, method_models(run, method, task), prompting, run.fusion) for task in tasks
        },
    )


def decoded_task(
    run: RunConfig, task: str, models: list[str], prompting: Prompting, sampling: TaskSampling | None = None
) -> DecodedTask:
    """A task with the models that decode it; how it is sampled is its own matter unless a track says otherwise."""
    entry = run.tasks[task]
    replaced = {} if sampling is None else sampling.generation_kwargs
    return DecodedTask(
        models=tuple(models),
        num_fewshot=entry.num_fewshot if prompting.num_fewshot is None else prompting.num_fewshot,
        generation_kwargs=entry.generation_kwargs | replaced,
    )


def tune_job(run: RunConfig, method: str) -> TuneJob:
    """A tuned method on the tasks that it is tuned on; the order of tasks changes nothing."""
    entry, prompting = run.fusion.methods[method], method_prompting(run, method)
    groups = sorted(map(sorted, tuning_groups(run, method)))
    decodes = entry.tune.criterion == "metric"
    return TuneJob(
        options=entry.part(FusionOptions),
        prompting=prompting,
        tune=entry.tune,
        loading=run.fusion.part(Loading),
        batch_size=method_batch_size(run, method),
        seed=run.fusion.seed if decodes else 0,
        groups=tuple(map(tuple, groups)),
        tasks={
            task: decoded_task(run, task, method_models(run, method, task), prompting, run.fusion if decodes else None)
            for group in groups
            for task in group
        },
    )


def judge_job(run: RunConfig, task: str, methods: list[str], split: Split) -> JudgeJob:
    """All methods that decode a task; their order changes nothing."""
    return JudgeJob(methods=tuple(sorted(methods)), split=split, metric=run.tasks[task].metric)
