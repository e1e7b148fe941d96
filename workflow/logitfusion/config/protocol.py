"""How a comparison is protected from its own author: what was frozen before the test splits were decoded."""

from __future__ import annotations

from typing import Literal

from logitfusion.config.section import InputPath, Name, Section

Standing = Literal["confirmatory", "exploratory"]


class Protocol(Section):
    """A comparison whose test splits are decoded once, after everything was chosen on validation data and frozen."""

    comparison: Name
    """Name of the comparison, the same for all of its runs (seeds, say)."""
    frozen: InputPath
    """The file that `logitfusion freeze` writes and you commit; without it no test split is decoded."""
    exploratory: bool = False
    """Decode test splits whatever was frozen; table and report say exploratory."""

    @property
    def standing(self) -> Standing:
        """What numbers of the test split are."""
        return "exploratory" if self.exploratory else "confirmatory"
