"""Experts and ceilings: trained on tasks, or merged from trained ones."""

from __future__ import annotations

from logitfusion.config.section import Real, Section, Some, either
from logitfusion.config.training import Adaptation, Recipe


class MergedExpert(Section):
    """Task arithmetic: the changes of several experts of one base, added (Ilharco et al. 2023, arXiv 2212.04089)."""

    base: str
    """The model that the merged experts were trained from."""
    merge: Some[str]
    """The experts whose changes are added."""
    scale: Real = 0.4
    """Factor of the summed changes."""


class TrainedExpert(Recipe, Adaptation):
    """A model fine-tuned on tasks. A ceiling is an expert of the large model."""

    base: str
    """The model that is trained."""
    tasks: Some[str]
    """Tasks whose training splits are mixed."""


Expert = either("merge", having=MergedExpert, lacking=TrainedExpert)
