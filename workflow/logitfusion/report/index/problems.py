"""What did not come out: files that are missing, trainings that went wrong, methods that never answered in form."""

from __future__ import annotations

import numpy as np
import pandas as pd

from logitfusion.config.jobs.report import metrics_job
from logitfusion.report.index.facts import Facts
from logitfusion.report.index.words import counted, listed


def find_problems(facts: Facts) -> list[str]:
    """A sentence for each (plain text)."""
    found = [_tell_missing(facts), *facts.unreadable, _tell_stale(facts)]
    for name, curve in facts.curves.items():
        found.append(_tell_training(name, curve))
    return [sentence for sentence in [*found, *_tell_failures(facts)] if sentence]


def _tell_missing(facts: Facts) -> str:
    missing = facts.files.missing
    if not missing:
        return ""
    names = listed([str(path) for path in missing], most=8)
    are = "part is" if len(missing) == 1 else "parts are"
    return f"{len(missing)} {are} missing, because a job failed or was never run: {names}."


def _tell_stale(facts: Facts) -> str:
    """Numbers that an earlier config made, which a run that failed leaves in place."""
    now = metrics_job(facts.run).config
    made = sorted(set(facts.metrics["config"]) - {now}) if len(facts.metrics) else []
    if not made:
        return ""
    return f"The numbers are of an earlier config ({listed(made)}), not of this one ({now}): run it to its end."


def _tell_training(name: str, curve: pd.DataFrame) -> str:
    """A training whose loss is not finite, or was higher over its last tenth than over its first."""
    losses = curve["loss"].to_numpy(dtype=float)
    if not np.isfinite(losses).all():
        return f"The training of {name} has losses that are not finite, from step {_first_step(curve)} on."
    tenth = max(1, len(losses) // 10)
    start, end = losses[:tenth].mean(), losses[-tenth:].mean()
    if len(losses) > 1 and end > start:
        return f"The training of {name} diverged: its loss began at {start:.3g} and ended at {end:.3g}."
    return ""


def _first_step(curve: pd.DataFrame) -> int:
    return int(curve["step"][~np.isfinite(curve["loss"].astype(float))].iloc[0])


def _tell_failures(facts: Facts) -> list[str]:
    """Methods none of whose answers had the asked form: their scores say nothing of what they know."""
    if facts.metrics.empty:
        return []
    rows = facts.metrics[(facts.metrics["metric"] == "format_failures") & (facts.metrics["value"] >= 1)]
    return [
        f"On {task}, no answer had the asked form: {listed(list(group['method']))}"
        f" ({track}, {counted(int(group['n'].iloc[0]), 'example')} each)."
        for (track, task), group in rows.groupby(["track", "task"], sort=False)
    ]
