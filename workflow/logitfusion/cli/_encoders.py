"""The encoders of a command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from logitfusion.clip.encoders.errors import worded_for
from logitfusion.clip.encoders.load import ClipEncoder, ImageEncoder, load_auxiliary, load_clip


@dataclass(frozen=True)
class Encoders:
    """A CLIP and its auxiliaries, perhaps none."""

    clip: ClipEncoder
    auxiliary: list[ImageEncoder]

    def by_role(self) -> dict[str, ImageEncoder]:
        """``clip``, ``auxiliary 1``, ``auxiliary 2``, ...: their names in a head file."""
        return {"clip": self.clip} | {f"auxiliary {number}": one for number, one in enumerate(self.auxiliary, 1)}

    def fingerprints(self) -> dict[str, str]:
        return {role: encoder.fingerprint for role, encoder in self.by_role().items()}


def load_encoders(clip: dict[str, Any], auxiliary: Sequence[dict[str, Any]]) -> Encoders:
    """Encoders of entries as ``parse_clip`` and ``parse_auxiliary`` give them.

    Raises:
        UserError: see ``load_clip`` and ``load_auxiliary``; it names the options ``--clip`` and ``--auxiliary``.
    """
    with worded_for("--clip"):
        seen = load_clip(clip)
    with worded_for("--auxiliary"):
        return Encoders(seen, [load_auxiliary(entry) for entry in auxiliary])
