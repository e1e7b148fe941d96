"""What a terminal is told after a call that succeeded: key numbers, where the time went, where the results are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from logitfusion.errors import UserError
from logitfusion.evaluate.names import is_share_of_right, say_metric
from logitfusion.formats.csv import read_csv
from logitfusion.progress.duration import format_duration, format_memory
from logitfusion.progress.lines import GLUE, wrap
from logitfusion.progress.record import JobRecord, RunRecord

MARGIN = 10
LINES = 2  # for a track
STAGES = 7  # that are named with their time
NAMED = 60  # columns that the names of tasks may take


def after_success(record: RunRecord, *, where: str, metrics: Path | None, pages: Sequence[Path]) -> list[str]:
    """About twelve lines; files that are not there, or were not asked for (None), are left out."""
    if record.planned == record.total:
        jobs = f"{record.finished} of {record.total} jobs"
    else:
        jobs = f"{record.finished} job{'s' * (record.finished != 1)}, and all {record.total} are up to date"
    peak = peak_memory(record.jobs)
    memory = f", at most {format_memory(peak)} of memory at a time" if peak else ""
    head = f"Finished: {jobs}, in {format_duration(record.seconds)} on {where}{memory}."
    lines = ["", *wrap(head), ""]
    numbers = [] if metrics is None else key_numbers(metrics)
    files = [("numbers", metrics), *(("report", page) for page in pages)]
    entries = [*numbers, ("time", stage_times(record.jobs))]
    entries += [(name, str(path)) for name, path in files if path is not None and path.exists()]
    for entry in entries:
        lines += _entry(*entry)
    return lines


def _entry(name: str, text: str) -> list[str]:
    lines = wrap(text, indent=" " * MARGIN)
    return [f"{name:<{MARGIN}}{lines[0][MARGIN:]}", *lines[1:]]


def stage_times(jobs: Iterable[JobRecord]) -> str:
    """Seconds of each stage's jobs together, the longest first."""
    seconds: dict[str, float] = defaultdict(float)
    for job in jobs:
        seconds[job.rule] += job.seconds or 0.0
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    named, others = ordered[:STAGES], ordered[STAGES:]
    if len(others) > 1:
        named.append(("all others", sum(value for _, value in others)))
    else:
        named += others
    return (
        ", ".join(f"{rule} {format_duration(value)}".replace(" ", GLUE) for rule, value in named)
        + " (jobs' times added up)"
    )


def peak_memory(jobs: Iterable[JobRecord]) -> float:
    """The most that jobs at work at the same time had at their peaks (MB): no less than what they had together."""
    events = []
    for job in jobs:
        if job.seconds is not None and job.memory_mb:
            events += [(job.start, job.memory_mb), (job.start + job.seconds, -job.memory_mb)]
    most = now = 0.0
    for _, change in sorted(events):
        now += change
        most = max(most, now)
    return most


def key_numbers(metrics: Path) -> list[tuple[str, str]]:
    """A text for each track: the methods' scores, the best one first, over tasks or on a set at most shots.

    Only what every method was scored on is averaged, so that the numbers of a line can be compared.
    """
    try:
        rows = [row for row in read_csv(metrics, "table of scores")[1] if _is_score(row)]
    except (UserError, KeyError, ValueError):
        return []
    tracks = list(dict.fromkeys(row["track"] for row in rows))
    return [(track, _track_line([row for row in rows if row["track"] == track])) for track in tracks]


def _is_score(row: dict[str, str]) -> bool:
    """What methods are compared by on whole tasks, if it is a share; averages are made here."""
    whole = row["better"] == "higher" and not row["subtask"] and row["metric"] != "score"
    return whole and not (float(row["value"]) < 0 or float(row["value"]) > 1)


def _track_line(rows: list[dict[str, str]]) -> str:
    shots = max((int(row["shots"]) for row in rows if row["shots"]), default=None)
    rows = [row for row in rows if shots is None or row["shots"] == str(shots)]
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        scores[row["method"]][row["task"]] = float(row["value"])
    tasks = [task for task in dict.fromkeys(row["task"] for row in rows) if all(task in own for own in scores.values())]
    if shots is not None:
        tasks = tasks[:1]  # the others may be shifts of the first
    if not tasks:
        return "no task was given to all methods; see the table"
    right = {method: sum(own[task] for task in tasks) / len(tasks) for method, own in scores.items()}
    named = ", ".join(tasks)
    on = named if len(tasks) == 1 else f"mean of {named if len(named) <= NAMED else f'{len(tasks)} tasks'}"
    at = "" if shots is None else f", {shots} shots"
    ordered = sorted(right.items(), key=lambda item: (math.isnan(item[1]), -item[1]))
    texts = [f"{method}{GLUE}{100 * value:.1f}" for method, value in ordered]
    metrics = {row["metric"] for row in rows if row["task"] in tasks}
    what = "right" if all(map(is_share_of_right, metrics)) else " and ".join(map(say_metric, sorted(metrics)))
    return _fit(f"% {what}, {on}{at}: ", texts)


def _fit(head: str, texts: list[str]) -> str:
    """As many texts as two lines hold; the last one always, because it says where the others come from."""
    text = head + ", ".join(texts)
    for kept in range(len(texts) - 2, 0, -1):
        if len(wrap(text, indent=" " * MARGIN)) <= LINES:
            break
        more = f"{len(texts) - 1 - kept}{GLUE}more"
        text = head + ", ".join([*texts[:kept], more, texts[-1]])
    return text
