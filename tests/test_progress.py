"""What a terminal is told while a workflow runs, with clocks that are made up."""

from __future__ import annotations

import itertools
import logging
import os
import random
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from made_records import record

from logitfusion.progress import lines
from logitfusion.progress.duration import format_duration, format_range, read_duration
from logitfusion.progress.events import Listener, Retold
from logitfusion.progress.monitor import Monitor
from logitfusion.progress.pace import describe_pace, read_pace
from logitfusion.progress.plan import Plan, PlannedJob, simulate
from logitfusion.progress.record import (
    JobRecord,
    read_record,
    record_path,
)
from logitfusion.progress.reporter import SILENCE, Reporter, Voice
from logitfusion.progress.summary import peak_memory


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def job(number: int, seconds: float = 10.0, *, rule: str = "decode", **fields: object) -> PlannedJob:
    values = {"threads": 1, "slots": 1, "basis": "rough", "rough_seconds": seconds, **fields}
    return PlannedJob(number, rule, {"method": f"m{number}"}, seconds=seconds, **values)


def plan(*jobs: PlannedJob, slots: int = 2, done: int = 0) -> Plan:
    return Plan(jobs, len(jobs) + done, slots)


class Screen:
    """Remembers what is said, and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.said = clock, []

    def __call__(self, text: str) -> None:
        self.said.append((self.clock(), text))

    def lines(self) -> list[str]:
        return [line for _, text in self.said for line in text.splitlines()]


def report(planned: Plan, tmp_path: Path) -> tuple[Reporter, Screen, Clock]:
    """A reporter whose thread is not started: tests tick themselves."""
    clock = Clock()
    screen = Screen(clock)
    monitor = Monitor(planned, clock=clock)
    path = record_path(tmp_path / "runs", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    begun = record(len(planned.jobs), total=planned.total)
    return Reporter(monitor, begun, path, Voice(screen, screen), where="2 cores"), screen, clock


@pytest.mark.parametrize("seconds", [0, 1, 42, 99, 100, 540, 4800, 35999, 40000, 1e6])
def test_a_duration_is_read_as_it_was_written(seconds: float) -> None:
    found = read_duration(format_duration(seconds))
    assert found == pytest.approx(seconds, rel=0.17, abs=0.5)


def test_what_is_no_duration_is_none() -> None:
    assert [read_duration(text) for text in ("", " ", "soon", "3 days")] == [None] * 4


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(1230, 2050, "20 to 35 min"), (20, 50, "20 to 50 s"), (50, 55, "50 to 55 s"), (9000, 20000, "2.5 to 5.6 h")],
)
def test_ranges_are_round(low: float, high: float, text: str) -> None:
    assert format_range(low, high) == text


def test_a_stage_s_line_is_read_back_from_its_log() -> None:
    said = describe_pace(28, 60, "training steps", 31.0)
    assert said == "28 of 60 training steps, 0.9 a second, 35 s left"
    log = (
        f"10:00:00 INFO healing: {describe_pace(3, 60, 'steps', 3.0)}\n10:00:30 INFO healing: {said}; loss 3.1\nmore\n"
    )
    found = read_pace(log)
    assert (found.done, found.total, found.left) == (28, 60, 35)
    assert read_pace("epoch 3 of 5 is over\n12 of 95 jobs") is None, "words that look like it are not it"


def test_a_resumed_training_is_as_fast_as_it_is_now() -> None:
    """It did 50 steps yesterday and 5 in 10 s today: the other 5 take 10 s."""
    assert describe_pace(55, 60, "steps", 10.0, 50) == "55 of 60 steps, 0.5 a second, 10 s left"
    assert read_pace(describe_pace(60, 60, "steps", 20.0, 50)).left is None
    assert read_pace(describe_pace(1, 60, "steps", 100.0)).left == pytest.approx(5900, abs=100), "less than 1 a second"


def test_a_chain_takes_its_sum_and_independent_jobs_share_the_slots() -> None:
    chain = [job(0, 5), job(1, 7, needs=frozenset({0})), job(2, 9, needs=frozenset({1}))]
    assert simulate(chain, 4).seconds == 21
    assert simulate([job(number, 10) for number in range(6)], 2).seconds == 30
    assert simulate([job(0, 10, slots=8), job(1, 10)], 2).seconds == 20, "a job that wants more takes all"
    several = [job(number, 10, gpus=1) for number in range(4)] + [job(4, 10, gpus=2)]
    assert [simulate(several, 16, gpus=gpus).seconds for gpus in (1, 2, 3, 6, None)] == [50, 30, 20, 10, 10]
    assert simulate([*several, job(5, 30)], 16, gpus=2).seconds == 30, "others need none"


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_is_between_the_bounds_that_any_has(seed: int) -> None:
    """Never below the work over the slots or the longest chain, never above twice that (Graham 1969)."""
    chance = random.Random(seed)
    jobs, longest = [], {}
    for number in range(30):
        needs = frozenset(chance.sample(range(number), min(number, chance.randint(0, 2))))
        jobs.append(job(number, chance.uniform(1, 20), needs=needs, priority=chance.randint(0, 3)))
        longest[number] = jobs[-1].seconds + max((longest[needed] for needed in needs), default=0.0)
    bound = max(sum(one.seconds for one in jobs) / 3, *longest.values())
    assert bound - 1e-9 <= simulate(jobs, 3).seconds <= 2 * bound


def test_memory_is_that_of_jobs_at_the_same_time_and_unknown_if_one_is() -> None:
    jobs = [job(0, memory_mb=3000.0), job(1, memory_mb=2000.0), job(2, memory_mb=1000.0)]
    assert simulate(jobs, 2).memory_mb == 5000
    assert simulate(jobs, 1).memory_mb == 3000
    assert simulate([*jobs, job(3)], 2).memory_mb is None
    ran = [
        JobRecord("a", {}, 0, 10, "finished", 1, False, 300.0),
        JobRecord("b", {}, 10, 5, "finished", 1, False, 200.0),
    ]
    assert peak_memory(ran) == 300, "one ended as the other began"


def test_percent_is_of_expected_seconds_and_never_falls() -> None:
    clock = Clock()
    monitor = Monitor(plan(job(0, 90), job(1, 10), slots=1), clock=clock)
    shares = [0.0]
    for number in (1, 0):
        monitor.started(number)
        for _ in range(12):
            clock.seconds += number * 1 + 10 * (1 - number)
            shares.append(monitor.progress().share)
        monitor.ended(number)
        shares.append(monitor.progress().share)
    assert shares == sorted(shares)
    assert shares[13] == pytest.approx(0.1), "one of two jobs, a tenth of the time"
    assert shares[-1] == 1
    assert monitor.progress().left == 0


def test_a_job_s_own_word_counts_more_than_the_clock(tmp_path: Path) -> None:
    log = tmp_path / "log"
    clock = Clock()
    monitor = Monitor(plan(job(0, 1000, log=log)), clock=clock)
    log.write_text("INFO x: 59 of 60 steps, 1.0 a second, 1 s left\n")
    os.utime(log, (50, 50))
    monitor.started(0)
    clock.seconds += 20
    assert monitor.progress().running[0].pace is None, "the log of an earlier run"
    assert monitor.progress().left > 900
    log.write_text("INFO x: 30 of 60 steps, 1.0 a second, 30 s left\n")
    os.utime(log, (40, 40))  # the clock of a file server may be behind
    assert monitor.progress().left == 30
    assert monitor.progress().share == 0.5
    assert "30 of 60, 30 s left" in lines.heartbeat(monitor.progress())


def test_a_job_in_overtime_is_not_about_to_end() -> None:
    clock = Clock()
    monitor = Monitor(plan(job(0, 10)), clock=clock)
    monitor.started(0)
    lefts = []
    for _ in range(30):
        clock.seconds += 10
        lefts.append(monitor.progress().left)
    assert lefts[-1] == 60, "a fifth of the 300 s that it took"
    assert min(lefts) > 0


def test_a_queued_job_is_said_to_wait(tmp_path: Path) -> None:
    monitor = Monitor(plan(job(0, log=tmp_path / "none")), queues=True, clock=Clock())
    monitor.started(0)
    assert "waits in the queue" in lines.heartbeat(monitor.progress())


def test_what_needs_a_failed_job_is_not_waited_for() -> None:
    clock = Clock()
    monitor = Monitor(plan(job(0), job(1, 500, needs=frozenset({0})), job(2, 10)), clock=clock)
    monitor.started(0)
    monitor.ended(0, failed=True)
    assert monitor.progress().left == 10
    monitor.started(0)
    assert monitor.progress().left > 500, "it is tried again"
    assert monitor.progress().failed == 0


def test_jobs_that_only_collect_are_ignored() -> None:
    monitor = Monitor(plan(job(0)), clock=Clock())
    assert monitor.started(99) is None
    assert monitor.ended(99) is None
    assert monitor.ended(0) is None, "it was never started"


@pytest.mark.parametrize("seed", range(5))
def test_no_silence_is_longer_than_half_a_minute(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    jobs = [job(number, chance.uniform(1, 200)) for number in range(40)]
    reporter, screen, clock = report(plan(*jobs, slots=1), tmp_path)
    for one in jobs:
        reporter.started(one.number)
        end = clock.seconds + one.seconds
        while clock.seconds < end:
            clock.seconds += 1
            reporter.tick()
        reporter.ended(one.number)
    times = [100.0, *(when for when, _ in screen.said)]
    assert max(after - before for before, after in itertools.pairwise(times)) <= SILENCE
    assert len(screen.said) > 40


def test_nothing_is_wider_than_a_terminal(tmp_path: Path) -> None:
    """Whatever the names; only paths and sentences are not broken."""
    jobs = [job(number, 1000, rule="a_rule_with_quite_a_long_name", log=tmp_path / "log") for number in range(2000)]
    reporter, screen, clock = report(plan(*jobs, done=123456), tmp_path)
    reporter.voice.tell("\n".join(lines.before(reporter.monitor.plan, where="2 cores")))
    for one in jobs[:30]:
        reporter.started(one.number)
    for one in jobs[:20]:
        clock.seconds += 40
        reporter.tick()
        reporter.ended(one.number)
    for one in jobs[20:25]:
        reporter.ended(one.number, failed=True)
    for one in jobs[25:30]:
        clock.seconds += 40000
        reporter.tick()
        reporter.ended(one.number)
    assert max(map(len, screen.lines())) <= lines.WIDTH
    assert all(line.isascii() for line in screen.lines())


def test_memory_that_was_not_measured_is_not_said_to_be_little() -> None:
    said = " ".join(lines.before(plan(job(0, memory_mb=0.0, reserved_mb=4000)), where="2 cores"))
    assert "memory not measured yet" in said


def test_the_first_sentence_counts_what_is_left() -> None:
    jobs = [job(0, 600), job(1, 600, rule="expert"), job(2, 600, rule="expert")]
    text = " ".join(" ".join(lines.before(plan(*jobs, done=7), where="2 cores")).split())
    assert text.startswith("3 of 10 jobs, 7 are up to date: about 10 to 40 min here on 2 cores")
    assert "rough" in text
    assert text.endswith("1 decode, 2 expert")
    text = " ".join(lines.before(plan(job(0, rule="package"), job(1, rule="package")), where="2 cores"))
    assert ", 2 packages to download;" in " ".join(text.split())
    fetched = plan(job(0, rule="package"), job(1, rule="fetch_model"), job(2, rule="fetch_data"))
    text = " ".join(lines.before(fetched, where="2 cores"))
    assert ", 1 package, 1 model and 1 data set to download;" in " ".join(text.split())
    known = [replace(one, basis="measured", memory_mb=2500.0) for one in jobs]
    text = " ".join(" ".join(lines.before(plan(*known), where="2 cores")).split())
    assert text.startswith("3 jobs: about 15 to 25 min here on 2 cores, about 5.0 GB of memory; as measured")


def test_a_failure_is_its_sentence_and_its_log(tmp_path: Path) -> None:
    log = tmp_path / "expert.log"
    reporter, screen, clock = report(plan(job(0, log=log), job(1, needs=frozenset({0}))), tmp_path)
    reporter.started(0)
    os.utime(tmp_path)
    log.write_text("10:00 INFO loading\n10:01 ERROR the loss is nan at step 3; lower the learning_rate.\n")
    reporter.note(0, "the command returned non-zero exit status 1")
    clock.seconds += 5
    reporter.ended(0, failed=True)
    assert screen.lines() == [
        "FAILED  decode (m0): the loss is nan at step 3; lower the learning_rate.",
        f"  log: {log}",
    ]
    reporter.fail("snakemake --profile local")
    assert "0 of 2 jobs finished, 1 failed, 1 left" in screen.said[-1][1]
    assert screen.lines()[-1].endswith("to go on: snakemake --profile local")
    assert read_record(reporter.path).state == "failed"


def test_an_end_without_a_sentence_shows_how_and_the_log_s_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    reporter, screen, _ = report(plan(job(0, log=log)), tmp_path)
    listener = Listener(reporter)
    listener.emit(event("job_info", jobid=0))
    log.write_text("".join(f"line {number}\n" for number in range(40)) + "KeyError: 'x'\n")
    words = (
        "RuleException:\nCalledProcessError in file \"x.smk\", line 1:\nCommand 'long' died with <Signals.SIGKILL: 9>."
    )
    listener.emit(event("error", msg=words))
    listener.emit(event("job_error", jobid=0, rule_msg=None))
    reporter.ended(0, failed=True, again=True)
    first, *tail, last = screen.lines()
    assert first == "FAILED  decode (m0) (it is tried again): the command died with <Signals.SIGKILL: 9>"
    assert tail[-1] == "  | KeyError: 'x'"
    assert len(tail) == lines.LAST_WORDS
    assert last == f"  log: {log}"


def event(name: str, msg: str = "", **fields: object) -> logging.LogRecord:
    """What Snakemake logs."""
    made = logging.LogRecord("snakemake", logging.INFO, "", 1, msg, (), None)
    made.__dict__.update(fields, event=name)
    return made


def test_snakemake_s_paragraphs_are_kept_back_only_while_the_reporter_is_at_work() -> None:
    kept_back = [event("job_info"), event("progress"), event("error", msg="CalledProcessError in ...: Command 'x'")]
    shown = [event("error", msg="MissingOutputException in rule x"), logging.makeLogRecord({"msg": "Building DAG"})]
    assert [Retold(lambda: True).filter(one) for one in [*kept_back, *shown]] == [False] * 3 + [True] * 2
    assert all(Retold(lambda: False).filter(one) for one in [*kept_back, *shown])


def test_the_record_says_what_ran_when_and_beside_what(tmp_path: Path) -> None:
    benchmark = tmp_path / "b.tsv"
    benchmark.write_text("s\th:m:s\tmax_rss\n4.0\t0:00:04\t1234.5\n")
    planned = plan(job(0, benchmark=benchmark), job(1), job(2), done=5)
    reporter, _, clock = report(planned, tmp_path)
    reporter.started(0)
    reporter.started(1)
    clock.seconds += 4
    reporter.ended(0)
    clock.seconds += 6
    reporter.ended(1)
    reporter.started(2)
    reporter.tick()
    half = read_record(reporter.path)
    assert (half.state, half.finished, half.done, half.total) == ("running", 2, 7, 8)
    clock.seconds += 1
    reporter.ended(2)
    reporter.succeed(tmp_path / "none.csv", [])
    whole = read_record(reporter.path)
    assert (whole.state, whole.done, whole.seconds) == ("finished", 8, 11)
    assert [one.shared for one in whole.jobs] == [True, True, False]
    assert [(one.start, one.seconds, one.memory_mb) for one in whole.jobs] == [
        (0, 4, 1234.5), (0, 10, None), (10, 1, None)
    ]  # fmt: skip
    assert reporter.path.name == "20260102T030405Z.json"


def test_a_disk_that_can_t_be_written_is_told_once_and_ends_nothing(tmp_path: Path) -> None:
    reporter, screen, clock = report(plan(job(0)), tmp_path)
    (tmp_path / "runs").write_text("a file where the folder should be")
    for _ in range(3):
        reporter.started(0)
        clock.seconds += 1
        reporter.tick()
        reporter.ended(0)
    assert sum("is not kept" in line for line in screen.lines()) == 1
    reporter.succeed(tmp_path / "none.csv", [])
    assert any(line.startswith("Finished: 1 of 1 jobs") for line in screen.lines())


def test_the_reporter_s_thread_speaks_by_itself_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logitfusion.progress.reporter.TICK", 0.01)
    reporter, screen, clock = report(plan(job(0)), tmp_path)
    reporter.begin()
    reporter.started(0)
    clock.seconds += SILENCE
    end = time.monotonic() + 60
    while len(screen.said) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert re.match(r"0 of 1  decode \(m0\) for 30 s", screen.said[1][1])
    reporter.fail("again")
    assert not reporter.thread.is_alive()
    kept = read_record(reporter.path)
    assert (kept.state, kept.jobs[0].state) == ("stopped", "stopped")
    assert "0 of 1 jobs finished, none failed, 1 left" in screen.said[-1][1]
