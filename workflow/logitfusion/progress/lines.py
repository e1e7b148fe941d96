"""What a terminal is told before, while and after a call: lines of at most 100 columns, in ASCII."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from logitfusion.progress.duration import format_duration, format_memory, format_range
from logitfusion.progress.monitor import Attempt, Progress, Running
from logitfusion.progress.plan import Plan, simulate

WIDTH = 100
GLUE = "\0"  # a space that no line breaks at
LAST_WORDS = 15  # lines of a log that ends without a sentence


@dataclass(frozen=True)
class Failure:
    """A job that failed.

    Attributes:
        name: rule and wildcards' values.
        sentence: the last line of its log, if that is a sentence.
        reason: what the workflow system says of its end.
        log: where all of it stands.
        tail: the last lines of the log, if it ends without a sentence.
    """

    name: str
    sentence: str | None
    reason: str | None
    log: Path | None
    tail: tuple[str, ...] = ()


def before(plan: Plan, *, where: str) -> list[str]:
    """How many jobs, about how long, how much memory, and the jobs of each stage.

    Args:
        where: what they run on, as ``2 cores``.
    """
    count = len(plan.jobs)
    done = plan.total - count
    jobs = f"{count} job{'s' * (count != 1)}" if not done else f"{count} of {plan.total} jobs, {done} are up to date"
    time = f"about {format_range(*plan.duration())} here on {where}"
    head = f"{jobs}: {time}, {_memory(plan)}{_downloads(plan)}; {_basis(plan)}."
    stages = ", ".join(f"{number}{GLUE}{rule}" for rule, number in plan.stages().items())
    return [*wrap(head), *wrap(stages, indent="  ")]


DOWNLOADS = {"package": "package", "fetch_model": "model", "fetch_data": "data set", "fetch_encoder": "encoder"}


def _downloads(plan: Plan) -> str:
    counts = {what: plan.stages().get(rule, 0) for rule, what in DOWNLOADS.items()}
    parts = [f"{count} {what}{'s' * (count > 1)}" for what, count in counts.items() if count]
    return f", {' and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]]))} to download" if parts else ""


def _memory(plan: Plan) -> str:
    schedule = simulate(plan.jobs, plan.slots, gpus=plan.gpus)
    if not schedule.memory_mb:
        return f"memory not measured yet (at most {format_memory(schedule.reserved_mb)} asked for at a time)"
    return f"about {format_memory(schedule.memory_mb)} of memory"


def _basis(plan: Plan) -> str:
    """Where the expected seconds come from, by their share."""
    work = sum(job.seconds for job in plan.jobs) or 1.0
    known = sum(job.seconds for job in plan.jobs if job.basis == "measured") / work
    if known > 0.8:
        return "as measured in earlier runs"
    if any(job.basis == "rough" for job in plan.jobs):
        return "a rough guess, nothing like it ran here yet" if known < 0.2 else "in part a rough guess"
    return "guessed from other jobs that ran here"


def finished(attempt: Attempt, now: Progress) -> str:
    """``12 of 95  decode (dynamic, 0)   42 s   31 %, about 9 min left``."""
    seconds = format_duration((attempt.end or attempt.start) - attempt.start)
    head, tail = f"{_counter(now)}  ", f" {seconds:>10}  {_outlook(now)}"
    room = min(48, WIDTH - len(head) - len(tail))
    return f"{head}{_cut(attempt.job.name, room):<{room}}{tail}"


def heartbeat(now: Progress) -> str:
    """What runs, with the stages' own words, as many as fit."""
    head, tail = f"{_counter(now)}  ", f"  {_outlook(now)}"
    room = WIDTH - len(head) - len(tail)
    texts = [_describe(job) for job in now.running]
    text = texts[0] if texts else "nothing runs; waiting for Snakemake"
    for number, more in enumerate(texts[1:], 1):
        rest = f" and {len(texts) - number} more"
        if len(text) + len(more) + 2 + (len(rest) if number + 1 < len(texts) else 0) > room:
            text = _cut(text, room - len(rest)) + rest
            break
        text += f"; {more}"
    return f"{head}{_cut(text, room):<{room}}{tail}"


def _describe(job: Running) -> str:
    if job.queued:
        return f"{job.name} waits in the queue, {format_duration(job.seconds)}"
    if job.pace is None:
        return f"{job.name} for {format_duration(job.seconds)}"
    left = "" if job.pace.left is None else f", {format_duration(job.pace.left)} left"
    return f"{job.name} {job.pace.done} of {job.pace.total}{left}"


def _counter(now: Progress) -> str:
    width = len(str(now.planned))
    return f"{now.done:>{width}} of {now.planned}"


def _outlook(now: Progress) -> str:
    if now.done == now.planned:
        return "100 %"
    failed = f", {now.failed} failed" if now.failed else ""
    return f"{min(99, int(100 * now.share)):>3} %, about {format_duration(_round(now.left))} left{failed}"


def _round(seconds: float) -> float:
    """To tens where a guess is no better."""
    return 10 * round(seconds / 10) if seconds > 30 else seconds


def failed(failure: Failure, *, again: bool = False) -> list[str]:
    """The job, its sentence, its log; what the log ends with where that is no sentence.

    Sentences are not wrapped, so that they can be searched for.
    """
    said = failure.sentence or failure.reason or "it ended without a word"
    lines = [f"FAILED  {failure.name}{' (it is tried again)' if again else ''}: {said}"]
    lines += [f"  | {line[: WIDTH - 4]}" for line in failure.tail]
    if failure.log is not None:
        lines.append(f"  log: {failure.log}")
    return lines


def read_failure(name: str, log: Path | None, text: str | None, reason: str | None) -> Failure:
    """A failure, from what its log ends with: a line ``... ERROR sentence``, or else its last lines."""
    rows = [line for line in (text or "").splitlines() if line.strip()]
    _, mark, sentence = rows[-1].partition(" ERROR ") if rows else ("", "", "")
    if mark:
        return Failure(name, sentence, reason, log)
    return Failure(name, None, reason, log, tuple(rows[-LAST_WORDS:]))


def after_failure(now: Progress, failures: Sequence[Failure], seconds: float, command: str) -> list[str]:
    """What is left, and how to go on."""
    left = now.planned - now.done - now.failed
    lost = f"{now.failed} failed" if now.failed else "none failed"
    head = f"Stopped after {format_duration(seconds)}: {now.done} of {now.planned} jobs finished, {lost}, {left} left."
    lines = ["", *wrap(head)]
    for failure in failures:
        lines += failed(replace(failure, tail=()))
    return [*lines, f"What is finished stays; to go on: {command}"]


def wrap(text: str, indent: str = "") -> list[str]:
    """Lines of at most 100 columns; words that are longer (paths) are not cut."""
    lines = textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent or "  ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return [line.replace(GLUE, " ") for line in lines]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 3)]}..."
