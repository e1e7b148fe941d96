"""The methods that others are compared with, where a config does not name them: found among its methods, or none."""

from __future__ import annotations

from typing import Any

from logitfusion.config.errors import Place


def fill_comparisons(config: dict[str, Any]) -> set[Place]:
    """Write the ends of the gap, the students' baseline and the shown few-shot method into a config that lacks them.

    What a config names itself, be it ``null`` for none, stays as it is. Without a ceiling there is no gap closure, and
    without a baseline there are no gains: nobody has to train a model for a column of a table.

    Args:
        config: as a file holds it, not yet checked; is changed.

    Returns:
        The places that were filled.
    """
    fusion, distill, clip = (_methods(config, track) for track in ("fusion", "distill", "clip"))
    ends = {}
    if fusion:
        ends = {"base": _find_large(config["fusion"], fusion), "ceiling": "ceiling" if "ceiling" in fusion else None}
    filled = _fill(config, "evaluate", ends)
    if distill:
        plain = [name for name, entry in distill.items() if not _entry(entry).get("teachers")]
        filled |= _fill(config, "distill", {"baseline": "sft" if "sft" in distill else next(iter(plain), None)})
    if clip:
        learnt = [name for name, entry in clip.items() if (_entry(entry).get("method") or name) != "zero_shot"]
        filled |= _fill(config, "clip", {"shown": "amu" if "amu" in clip else (learnt or list(clip))[-1]})
    return filled


def _find_large(fusion: dict[str, Any], methods: dict[str, Any]) -> str | None:
    """The method that is the large model alone."""
    alone = [name for name, entry in methods.items() if _entry(entry).get("model") == fusion.get("large")]
    return "large" if "large" in methods else next(iter(alone), None)


def _methods(config: dict[str, Any], track: str) -> dict[str, Any]:
    return _entry(_entry(config.get(track)).get("methods"))


def _entry(value: Any) -> dict[str, Any]:
    """A mapping; anything else is refused later, by the classes of the config."""
    return value if isinstance(value, dict) else {}


def _fill(config: dict[str, Any], section: str, found: dict[str, str | None]) -> set[Place]:
    there = config.get(section, {})
    if not isinstance(there, dict):
        return set()
    missing = {key: name for key, name in found.items() if name is not None and key not in there}
    if missing:
        config[section] = there | missing
    return {(section, key) for key in missing}
