"""Times, sizes and ranges of them as people say them."""

from __future__ import annotations

import re


def format_duration(seconds: float) -> str:
    """``42 s``, ``9 min``, ``1 h 20 min``: seconds up to three minutes, minutes up to ten hours."""
    seconds = max(0.0, seconds)
    if seconds < 179.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours < 10 and rest else f"{round(minutes / 60)} h"


def read_duration(text: str) -> float | None:
    """Seconds out of what :func:`format_duration` writes; None if it is nothing of that form."""
    found = re.fullmatch(r"(?:(\d+) h ?)?(?:(\d+) min ?)?(?:(\d+) s)?", text.strip())
    if found is None or not text.strip():
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 3600.0 * hours + 60.0 * minutes + seconds


def format_range(low: float, high: float) -> str:
    """``20 to 35 min``: both ends in one unit, rounded so that nobody takes them for exact."""
    unit, name = (1, "s") if high < 99.5 else (60, "min") if high < 6000 else (3600, "h")
    first, last = (_round(value / unit) for value in (low, high))
    if name == "h" and last < 10:
        return f"{low / unit:.1f} to {high / unit:.1f} h"
    return f"{first} to {last} {name}" if first < last else f"{last} {name}"


def _round(value: float) -> int:
    step = 1 if value < 12 else 5 if value < 60 else 10
    return max(1, step * round(value / step))


def format_memory(megabytes: float) -> str:
    """``3.5 GB``, ``12 GB``, ``350 MB``; a thousand MB are a GB."""
    if megabytes < 950:
        return f"{max(10, 10 * round(megabytes / 10))} MB"
    gigabytes = megabytes / 1000
    return f"{gigabytes:.1f} GB" if gigabytes < 9.95 else f"{gigabytes:.0f} GB"
