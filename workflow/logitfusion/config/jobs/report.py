"""Slices of the config for the metrics table, plots and summaries."""

from __future__ import annotations

from typing import Any

from logitfusion.config.encoders import BuiltClip, RandomClip
from logitfusion.config.evaluate import Evaluate
from logitfusion.config.fusion import SteeredMethod
from logitfusion.config.jobs.protocol import standing
from logitfusion.config.methods import (
    expand,
    fixed_rival,
    method_tasks,
    seen_tasks,
    steering_experts,
    trained_models,
    tuned_methods,
)
from logitfusion.config.names import fewshot_method
from logitfusion.config.protocol import Standing
from logitfusion.config.run import RunConfig
from logitfusion.config.section import Section, Seed
from logitfusion.config.tracks import (
    FewShotReport,
    FewShotTrack,
    FusionReport,
    FusionTrack,
    LossesReport,
    StudentsTrack,
    TracesReport,
    TuningReport,
)
from logitfusion.provenance import hash_json


class MetricsJob(Section):
    """Put all numbers of a run into one table."""

    run: str
    seed: Seed
    evaluate: Evaluate
    fusion: FusionTrack | None
    distill: StudentsTrack | None
    clip: FewShotTrack | None
    config: str
    """Digest of the whole config but for the report's section."""
    protocol: Standing | None = None
    """What numbers of test splits are."""


def metrics_job(run: RunConfig) -> MetricsJob:
    """All tracks, and which config their numbers are of."""
    return MetricsJob(
        run=run.run,
        seed=run.seed,
        evaluate=run.evaluate,
        fusion=_fusion(run) if run.fusion else None,
        distill=students_track(run) if run.distill else None,
        clip=FewShotTrack(**_fewshot(run)) if run.clip else None,
        config=hash_json({key: value for key, value in run.dump().items() if key != "report"})[:10],
        protocol=standing(run),
    )


def _fusion(run: RunConfig) -> FusionTrack:
    return FusionTrack(split=run.fusion.split, seen=tuple(sorted(seen_tasks(run))), rival=fixed_rival(run))


def fusion_report(run: RunConfig) -> FusionReport:
    """Methods in the config's order."""
    gap = {"base": run.evaluate.base, "ceiling": run.evaluate.ceiling}
    return FusionReport(methods=tuple(run.fusion.methods), seen=tuple(sorted(seen_tasks(run))), **gap)


def traces_report(run: RunConfig, task: str) -> TracesReport:
    """The steered methods of a task, in the config's order."""
    return TracesReport(
        task=task,
        experts=steered_methods(run, task),
        examples=run.report.trace_examples,
        steering=tuple(steering_experts(run)),
    )


def steered_methods(run: RunConfig, task: str) -> dict[str, tuple[str, ...]]:
    """Steered method of a task -> its experts in the order of its weights."""
    return {
        name: tuple(expand(entry.experts, task))
        for name, entry in run.fusion.methods.items()
        if isinstance(entry, SteeredMethod) and task in method_tasks(run, name)
    }


def tuning_report(run: RunConfig) -> TuningReport:
    """The methods that are tuned."""
    return TuningReport(methods=tuple(tuned_methods(run)))


def losses_report(run: RunConfig) -> LossesReport:
    """The models that were healed."""
    return LossesReport(healed=tuple(name for name in trained_models(run) if name in run.models))


def students_track(run: RunConfig) -> StudentsTrack:
    """The distillation track."""
    return StudentsTrack(
        split=run.distill.split,
        student=run.distill.student,
        teachers={name: teacher.model for name, teacher in run.distill.teachers.items()},
        methods=tuple(run.distill.methods),
        seeds=run.distill.seeds,
        baseline=run.distill.baseline,
    )


def fewshot_report(run: RunConfig) -> FewShotReport:
    """The few-shot track; names of the config, sorted by what is behind them."""
    found = {name: fewshot_method(run.clip, name) for name in run.clip.methods}
    methods = {name: method for name, (method, _) in found.items()}
    return FewShotReport(
        **_fewshot(run),
        methods=tuple(methods),
        parts=tuple(name for name, method in methods.items() if method.family == "parts"),
        ablation=tuple(name for name, method in methods.items() if method.family != "rivals"),
        clip=next((name for name, method in methods.items() if method.name == "zero_shot"), None),
        shown=run.clip.shown,
        assisted=tuple(
            name
            for name, (method, settings) in found.items()
            if method.uses_auxiliary or method.reads_auxiliary(settings)
        ),
        auxiliaries={name: entry.pretraining or "unknown" for name, entry in run.clip.auxiliaries.items()},
        encoder=_describe(run.clip.encoder),
    )


def _fewshot(run: RunConfig) -> dict[str, Any]:
    clip = run.clip
    return {
        "sets": {name: tuple(test_sets(run, name)) for name, entry in clip.datasets.items() if entry.shift_of is None},
        "shots": tuple(sorted(clip.shots)),
        "seeds": clip.seeds,
        "baselines": clip.baselines,
        "oracle": clip.oracle,
    }


def test_sets(run: RunConfig, name: str) -> list[str]:
    """A data set that support sets are drawn from, and its shifted sets: all that its heads are tested on."""
    return [name, *(other for other, entry in run.clip.datasets.items() if entry.shift_of == name)]


def _describe(encoder: Any) -> str:
    match encoder:
        case BuiltClip():
            words = f"built here of {encoder.image_tower.model} and {encoder.text_tower.package}"
        case RandomClip():
            words = "random weights"
        case _:
            words = " ".join(filter(None, (getattr(encoder, key, None) for key in ("model", "pretrained", "path"))))
    return f"{words} ({encoder.pretraining})" if encoder.pretraining else words
