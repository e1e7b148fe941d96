"""Tells a terminal how a call goes, and keeps its record. Progress is a convenience: its failure ends no run."""

from __future__ import annotations

import atexit
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from logitfusion.errors import UserError
from logitfusion.progress import lines
from logitfusion.progress.monitor import Attempt, Monitor, read_tail
from logitfusion.progress.record import RunRecord, write_record
from logitfusion.progress.summary import after_success

SILENCE = 30.0  # seconds without a line, at most
TICK = 1.0
KEPT = 200  # jobs of a record that is written every second

Say = Callable[[str], None]


@dataclass(frozen=True)
class Voice:
    """Where lines go: what is told, and what is a failure."""

    tell: Say
    complain: Say


class Reporter:
    """Takes events of jobs by their numbers, from any thread."""

    def __init__(self, monitor: Monitor, record: RunRecord, path: Path, voice: Voice, *, where: str) -> None:
        """Begin nothing yet.

        Args:
            record: of this call, before its first job.
            path: where it is kept.
            where: what jobs run on, in words.
        """
        self.monitor, self.path, self.voice, self.where = monitor, path, voice, where
        self.failures: dict[int, lines.Failure] = {}
        self._record, self._reasons = record, {}
        self._said, self._next, self._changed, self._kept = monitor.now(), 0.0, True, True
        self._done = threading.Event()
        self._keeping = threading.Lock()
        self.thread = threading.Thread(target=self._watch, daemon=True, name="progress")

    def begin(self) -> None:
        """Say what is planned, and say something at least every half minute from now on."""
        self._tell(lines.before(self.monitor.plan, where=self.where))
        self.thread.start()
        atexit.register(self._stop, "stopped")  # a call that an exception ends

    def started(self, number: int) -> None:
        """A job starts."""
        self._changed = True
        self.monitor.started(number)

    def note(self, number: int, reason: str | None) -> None:
        """What the workflow system says of a job's end, before it says that it has ended."""
        self._reasons[number] = reason

    def ended(self, number: int, *, failed: bool = False, again: bool = False) -> None:
        """A job has ended; ``again``: it is tried once more."""
        attempt = self.monitor.ended(number, failed=failed)
        self._changed = True
        if attempt is None:
            return
        if failed:
            self._complain(number, attempt, again=again)
        else:
            self.failures.pop(number, None)
            self._tell([lines.finished(attempt, self.monitor.progress())])

    def succeed(self, metrics: Path | None, pages: Sequence[Path]) -> None:
        """Say the key numbers, and end. ``metrics``: the table, if this call was asked for it."""
        self._stop("finished")
        self._tell(after_success(self._record, where=self.where, metrics=metrics, pages=pages))

    def fail(self, command: str) -> None:
        """Say what is left and how to go on, and end."""
        self._stop("failed" if self.failures else "stopped")
        failures = list(self.failures.values())
        text = lines.after_failure(self.monitor.progress(), failures, self._record.seconds, command)
        self.voice.complain("\n".join(text))

    def _complain(self, number: int, attempt: Attempt, *, again: bool) -> None:
        job = attempt.job
        text = read_tail(job.log, attempt.log)
        self.failures[number] = lines.read_failure(job.name, job.log, text, self._reasons.pop(number, None))
        self._said = self.monitor.now()
        self.voice.complain("\n".join(lines.failed(self.failures[number], again=again)))

    def _tell(self, text: Sequence[str]) -> None:
        self._said = self.monitor.now()
        self.voice.tell("\n".join(text))

    def tick(self) -> None:
        """Break a silence, and keep what has changed."""
        if self.monitor.now() - self._said > SILENCE - 2 * TICK:
            self._tell([lines.heartbeat(self.monitor.progress())])
        if self._changed and self.monitor.now() >= self._next:
            self._changed = False
            self._keep("running")
            self._next = self.monitor.now() + len(self._record.jobs) / KEPT  # that of thousands of jobs is large

    def _watch(self) -> None:
        while not self._done.wait(TICK):
            self.tick()

    def _stop(self, state: str) -> None:
        if not self._done.is_set():
            self._done.set()
            if self.thread.ident is not None:
                self.thread.join(timeout=5.0)  # it may hang on a file system that does
            self.monitor.stop()
            self._keep(state)

    def _keep(self, state: str) -> None:
        """Write the record; a disk that is full or can't be written is told once."""
        with self._keeping:
            seconds, jobs = round(self.monitor.now(), 2), self.monitor.records()
            self._record = replace(self._record, state=state, seconds=seconds, jobs=jobs)
            try:
                write_record(self.path, self._record)
            except (UserError, OSError) as error:
                if self._kept:
                    self.voice.tell(f"The record of this run is not kept: {error}")
                self._kept = False


def read_exit(message: str) -> str | None:
    """How a command ended, out of the message about it: ``the command died with <Signals.SIGKILL: 9>``."""
    found = re.search(r"(returned non-zero exit status \d+|died with <[^>]+>)", message)
    return None if found is None else f"the command {found[1]}"
