"""What names of metrics mean to people."""

from __future__ import annotations

# Their means are shares of right answers; the harness has more than fifty other metrics.
_RIGHT = {"acc", "accuracy", "acc_norm", "acc_bytes", "acc_mutual_info", "em", "exact_match"}


def is_share_of_right(metric: str) -> bool:
    """Whether a metric (``acc``, ``exact_match,strict-match``) is the share of right answers."""
    return metric.partition(",")[0] in _RIGHT


def say_metric(metric: str) -> str:
    """A metric for a label: ``exact match (strict-match)``."""
    name, _, filter_name = metric.partition(",")
    return name.replace("_", " ") + (f" ({filter_name})" if filter_name else "")
