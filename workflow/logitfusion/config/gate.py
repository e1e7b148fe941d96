"""A learned gate: how much an expert steers at a token, from what the models predict there."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from logitfusion.config.section import NonNegative, Positive, Real, Section

# The only list of these names: a feature is the function of its name in ``fusion.gate.features``.
FeatureName = Literal[
    "large_entropy",
    "expert_entropy",
    "large_top",
    "expert_top",
    "large_margin",
    "expert_margin",
    "same_token",
    "large_of_expert",
    "expert_of_large",
    "expert_from_base",
    "base_from_expert",
    "expert_from_large",
    "large_from_expert",
]


class GateFeature(Section):
    """What a feature adds to the gate's score: ``weight * (feature - mean) / scale``."""

    weight: Real
    """Of the standardised feature."""
    mean: Real = 0.0
    """Of the feature where the gate was fitted."""
    scale: Positive = 1.0
    """Its standard deviation there."""


class Gate(Section):
    """An expert's weight at a token is ``largest * sigmoid(bias + what the features add)``.

    The numbers are the same for all experts, so a gate serves any number of them, on any task, in any order. A gate
    without features is a fixed weight, ``largest / 2`` where its bias is 0.
    """

    largest: NonNegative = Field(default=3.0)
    """The weight that is never reached; 0: no expert steers."""
    bias: Real = 0.0
    """The score where every feature has its mean."""
    features: dict[FeatureName, GateFeature] = {}
    """Of the expert, by name."""
    relative: dict[FeatureName, GateFeature] = {}
    """Of the expert, less their means over all experts: 0 where one steers alone."""

    @classmethod
    def constant(cls, weight: float) -> Gate:
        """The fixed weight."""
        return cls(largest=2 * weight)
