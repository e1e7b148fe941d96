"""Snakemake's log events: heard by the reporter, and kept off the terminal where the reporter says the same in a line.

Nothing of Snakemake is imported: a log record says by its attributes what has happened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from logitfusion.progress.reporter import Reporter, read_exit

# Told otherwise by the reporter. All of it stays in Snakemake's own log.
RETOLD = {
    "workflow_started", "run_info", "resources_info", "job_started", "job_info", "job_error", "job_finished",
    "progress", "shellcmd",
}  # fmt: skip
ASIDES = ("Using shell:", "Select jobs to execute", "Conda environments: ignored", "Workflow runtime:")


def event_of(record: logging.LogRecord) -> str:
    """The name of a record's event in small letters; empty for a plain message."""
    event = getattr(record, "event", None)
    return "" if event is None else str(getattr(event, "value", event)).lower()


def is_failed_command(record: logging.LogRecord) -> bool:
    """Whether a record is about the shell command of a job that failed: all of it, with the config in it."""
    return event_of(record) == "error" and "CalledProcessError" in str(record.msg)


class Retold(logging.Filter):
    """Lets through what the reporter does not tell."""

    def __init__(self, active: Callable[[], bool]) -> None:
        """``active``: asked at every record whether the reporter is, or will be, at work."""
        super().__init__()
        self.active = active

    def filter(self, record: logging.LogRecord) -> bool:
        told = event_of(record) in RETOLD or is_failed_command(record)
        aside = not event_of(record) and str(record.msg).startswith(ASIDES)
        return not (told or aside) or not self.active()


class Listener(logging.Handler):
    """Passes on starts of jobs, and how their commands ended."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self.reporter = reporter
        self._exits: dict[int | None, str | None] = {}  # by thread: a command's end is told just before its job's

    def createLock(self) -> None:  # noqa: N802, logging's name
        """None: the reporter has its own, and logs itself."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._pass_on(record)
        except Exception:  # a mistake here must not end the call that logs
            self.handleError(record)

    def _pass_on(self, record: logging.LogRecord) -> None:
        match event_of(record):
            case "job_info":
                self.reporter.started(record.jobid)
            case "error" if is_failed_command(record):
                self._exits[record.thread] = read_exit(str(record.msg))
            case "job_error":
                self.reporter.note(record.jobid, record.rule_msg or self._exits.pop(record.thread, None))
