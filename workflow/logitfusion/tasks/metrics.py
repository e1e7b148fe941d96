"""The metrics of a task, and the one that tables compare."""

from __future__ import annotations

import difflib

from lm_eval.tasks.manager import TaskDict

from logitfusion.errors import UserError
from logitfusion.tasks.harness import Leaf


def list_metrics(leaf: Leaf) -> list[tuple[str, str]]:
    """Name and filter of all metrics of a leaf that is filled, in the order of its definition."""
    return [(metric, chain.name) for metric in leaf.aggregation() for chain in leaf._filters]


def find_metric(task: str, loaded: TaskDict, asked: str | None) -> tuple[str, str]:
    """Name and filter of the metric that tables compare.

    Args:
        task: the task or group.
        loaded: its leaves, filled.
        asked: ``name`` or ``name,filter``; None: the group's first, else the first leaf's.

    Raises:
        UserError: the task has no such metric.
    """
    leaves = list(loaded["tasks"].values())
    known = list(dict.fromkeys(pair for leaf in leaves for pair in list_metrics(leaf)))
    if not known:
        raise UserError(f"The task {task!r} has no metrics; give its definition a metric_list.")
    group = loaded.get("groups", {}).get(task)
    if asked is None and group is not None and group.has_aggregation:
        first = group.aggregate_metric_list[0]
        asked = ",".join([first.metric, *(first.filter_list or ())[:1]])
    if asked is None:
        return known[0]
    found = [pair for pair in known if asked in (pair[0], ",".join(pair))]
    if not found:
        names = [name if chain == "none" else f"{name},{chain}" for name, chain in known]
        close = difflib.get_close_matches(asked, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"it has {'; '.join(names)}."
        raise UserError(f"The task {task!r} has no metric {asked!r}: {hint}")
    return found[0]
