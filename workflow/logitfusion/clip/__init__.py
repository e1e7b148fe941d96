"""AMU-Tuning of CLIP and its rivals: few-shot classification on frozen features (arXiv 2404.08958)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logitfusion.clip.amu_module import AMUHead
    from logitfusion.clip.confidence import uncertainty
    from logitfusion.clip.fitting.fit import fit_method
    from logitfusion.clip.head_file import load_head, save_head
    from logitfusion.clip.heads import Support

__all__ = ["AMUHead", "Support", "fit_method", "load_head", "save_head", "uncertainty"]

_PLACES = {
    "AMUHead": "amu_module",
    "Support": "heads",
    "fit_method": "fitting.fit",
    "load_head": "head_file",
    "save_head": "head_file",
    "uncertainty": "confidence",
}


def __getattr__(name: str) -> Any:
    """Public names on first use: data sets and settings need no torch, and a config's check should not wait for it."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
