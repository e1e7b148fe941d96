"""How scores are compared and what the report draws of them: the sections ``evaluate`` and ``report``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from logitfusion.config.section import Distinct, Section, Seed


class Evaluate(Section):
    """Intervals of the scores (a percentile bootstrap), and the two methods that fusion is measured between."""

    base: str | None = None
    """The method where the gap begins; left out, the one named large, or that is the large model alone."""
    ceiling: str | None = None
    """The method where the gap ends; left out, the one named ceiling. Without one there is no gap closure."""
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    """Bootstrap resamples."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the intervals."""
    seed: Seed = 0
    """Of the bootstrap."""


class Report(Section):
    """How much the report shows."""

    trace_examples: Annotated[int, Field(ge=1, le=12)] = 4
    """Test examples of each task whose weights are drawn along the text."""
    published: Distinct[Literal["dlf-single", "dlf-multi", "amu-imagenet", "amu-11", "amu-ood"]] = ()
    """Tables of the papers that this run repeats, under the names of config/paper: its numbers are shown beside."""
