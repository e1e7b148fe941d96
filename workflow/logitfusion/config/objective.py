"""The distillation objective."""

from __future__ import annotations

from typing import Literal

from logitfusion.config.section import Count, Listed, NonNegative, Section, Share


class Objective(Section):
    """Labels, and what teachers predict."""

    uld: Share = 0.0
    """lambda of the token term."""
    gld: Share = 0.0
    """lambda of the graph term; the rest is SFT."""
    k: Count = 10
    """Entries of each position in both terms, at most cache.k."""
    nodes: Literal["vocab", "rank"] = "vocab"
    """Nodes are vocabulary channels, or ranks (as drawn in the paper)."""
    signal: Literal["logprob", "prob"] = "prob"
    """Of the graph."""
    combine: Literal["sum", "weighted", "min_ce"] = "sum"
    """How several teachers count."""
    weights: Listed[NonNegative] | None = None
    """Of the teachers, for weighted."""
    alignment: Literal["bytes", "positions"] = "bytes"
    """By the bytes that tokens cover, or position by position (published)."""
