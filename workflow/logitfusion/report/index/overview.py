"""Ten seconds: what ran, on which models, and what came out."""

from __future__ import annotations

from logitfusion.report.index.facts import Facts
from logitfusion.report.index.page import PageSection


def overview_section(facts: Facts) -> PageSection:
    """The first section."""
    return PageSection("overview", "Ten seconds", f"<p>{facts.run.run}</p>")
