"""Slices of the config for tuning, decoding and judging texts."""

from __future__ import annotations

from logitfusion.config.decoding import Decoding
from logitfusion.config.fusion import SteeredMethod, Tune
from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.loading import Loading
from logitfusion.config.methods import method_batch_size, method_models, method_tasks, tuning_groups
from logitfusion.config.run import RunConfig
from logitfusion.config.section import BatchSize, Count, Listed, Section, Some


class DecodedTask(Section):
    """A task, as decoding knows it."""

    max_new_tokens: Count
    stop: Listed[str]
    models: Some[str]
    """The models that decode it, the one that leads first, then the small base and the experts."""


class DecodeJob(Section):
    """Decode one shard of every task's examples with one method."""

    options: FusionOptions
    decoding: Decoding
    loading: Loading
    shards: Count
    tasks: dict[str, DecodedTask]


class TuneJob(Section):
    """Choose on validation examples how far a method trusts its solved weights."""

    options: FusionOptions
    tune: Tune
    loading: Loading
    batch_size: BatchSize
    groups: Listed[Some[str]]
    """The tasks that share one choice."""
    models: dict[str, Some[str]]
    stop: dict[str, Listed[str]]


class JudgeJob(Section):
    """Judge every method's generations of one task."""

    methods: Listed[str]


def decode_job(run: RunConfig, method: str) -> DecodeJob:
    """A fusion method on all of its tasks."""
    entry = run.fusion.methods[method]
    return DecodeJob(
        options=entry.part(FusionOptions) if isinstance(entry, SteeredMethod) else FusionOptions(),
        decoding=run.fusion.part(Decoding).model_copy(update={"batch_size": method_batch_size(run, method)}),
        loading=run.fusion.part(Loading),
        shards=run.fusion.shards,
        tasks={task: decoded_task(run, task, method_models(run, method, task)) for task in method_tasks(run, method)},
    )


def decoded_task(run: RunConfig, task: str, models: list[str]) -> DecodedTask:
    """A task with the models that decode it."""
    definition = run.tasks[task].definition
    return DecodedTask(max_new_tokens=definition.max_new_tokens, stop=definition.stop, models=tuple(models))


def tune_job(run: RunConfig, method: str) -> TuneJob:
    """A tuned method on the tasks that it is tuned on; the order of tasks changes nothing."""
    entry = run.fusion.methods[method]
    groups = sorted(map(sorted, tuning_groups(run, method)))
    models = {task: tuple(method_models(run, method, task)) for group in groups for task in group}
    return TuneJob(
        options=entry.part(FusionOptions),
        tune=entry.tune,
        loading=run.fusion.part(Loading),
        batch_size=method_batch_size(run, method),
        groups=tuple(map(tuple, groups)),
        models=models,
        stop={task: run.tasks[task].definition.stop for task in models},
    )


def judge_job(run: RunConfig, task: str, methods: list[str]) -> JudgeJob:
    """All methods that decode a task; their order changes nothing."""
    return JudgeJob(methods=tuple(sorted(methods)))
