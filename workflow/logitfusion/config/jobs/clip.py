"""Slices of the config for few-shot CLIP."""

from __future__ import annotations

from typing import Any

from logitfusion.config.clip import Clip
from logitfusion.config.datasets import DataSet, EmojiSet
from logitfusion.config.encoders import Auxiliary, BuiltClip, ClipEncoder
from logitfusion.config.jobs.protocol import confirmed_comparison
from logitfusion.config.names import fewshot_method
from logitfusion.config.run import RunConfig
from logitfusion.config.section import Count, Listed, Positive, Section, Seed, Share, Some


class EncoderJob(Section):
    """Make the folder of the CLIP."""

    encoder: ClipEncoder
    pairs: EmojiSet | None
    """The emojis that a CLIP is built from."""


class TestFeaturesJob(Section):
    """Encode the images of a test."""

    batch_size: Count
    max_megapixels: Positive
    max_skipped: Share
    seed: Seed
    auxiliaries: dict[str, Auxiliary]


class SupportFeaturesJob(TestFeaturesJob):
    """Draw the support sets, and encode their images."""

    shots: Some[Count]
    seeds: Some[Seed]
    views: Count


class FitJob(Section):
    """Fit a method with every number of shots and every seed."""

    shots: Some[Count]
    seeds: Some[Seed]
    method: str
    settings: dict[str, Any]
    oracle: bool


class PredictJob(Section):
    """Let all heads of a data set answer."""

    methods: Listed[str]
    sets: Listed[str]
    comparison: str | None = None
    """The frozen comparison that the answers confirm, if they do."""


def data_job(run: RunConfig, name: str) -> DataSet:
    """A data set; which one it is a shift of does not matter to it."""
    return run.clip.datasets[name].model_copy(update={"shift_of": None})


def encoder_job(run: RunConfig) -> EncoderJob:
    """The CLIP, and what it is built from."""
    encoder = run.clip.encoder
    pairs = run.clip.datasets[encoder.pairs] if isinstance(encoder, BuiltClip) else None
    return EncoderJob(encoder=_without_words(encoder), pairs=pairs)


def test_job(run: RunConfig) -> TestFeaturesJob:
    """How images are encoded."""
    return TestFeaturesJob(**_encoding(run.clip))


def support_job(run: RunConfig) -> SupportFeaturesJob:
    """How images are encoded, and which."""
    drawn = {"shots": _sorted(run.clip.shots), "seeds": _sorted(run.clip.seeds), "views": run.clip.views}
    return SupportFeaturesJob(**_encoding(run.clip), **drawn)


def fit_job(run: RunConfig, name: str) -> FitJob:
    """A method with all of its settings."""
    method, settings = fewshot_method(run.clip, name)
    return FitJob(
        shots=_sorted(run.clip.shots),
        seeds=_sorted(run.clip.seeds),
        method=method.name,
        settings=settings.dump(),
        oracle=name in run.clip.oracle,
    )


def predict_job(run: RunConfig, sets: list[str]) -> PredictJob:
    """The methods and the test sets of a data set."""
    return PredictJob(methods=_sorted(run.clip.methods), sets=_sorted(sets), comparison=confirmed_comparison(run))


def _encoding(clip: Clip) -> dict[str, Any]:
    auxiliaries = {name: _without_words(entry) for name, entry in clip.auxiliaries.items()}
    return {name: getattr(clip, name) for name in TestFeaturesJob.model_fields} | {"auxiliaries": auxiliaries}


def _without_words(entry: Any) -> Any:
    """An encoder's entry without what only tables state."""
    return entry.model_copy(update={"pretraining": None})


def _sorted(values: Any) -> tuple[Any, ...]:
    return tuple(sorted(values))
