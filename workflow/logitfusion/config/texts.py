"""Texts to learn from, with nothing to measure."""

from __future__ import annotations

from typing import Any

from logitfusion.config.section import Section, Some, Whole


class TextTask(Section):
    """Texts that experts, students and healing learn from: chats and documents, of several sources."""

    texts: Some[dict[str, Any]]
    """Where they come from."""
    train: Whole = 0
    """Texts that are learnt from."""
    validation: Whole = 0
    """Texts for choosing anything."""
