"""Records of a workflow's calls: what they hold, what later calls expect because of them, and their summary."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_records import MACHINE, record

from logitfusion.artefact import read_artefact, write_artefact
from logitfusion.errors import UserError
from logitfusion.progress import lines
from logitfusion.progress.history import History
from logitfusion.progress.record import (
    JobRecord,
    latest_jobs,
    read_record,
    read_records,
    write_record,
)
from logitfusion.progress.summary import after_success, key_numbers


def test_records_are_read_back_and_others_are_passed_over(tmp_path: Path) -> None:
    older = record(jobs=(JobRecord("a", {"x": "1"}, 0, 5, "finished", 1, False),), state="finished")
    newer = record(
        jobs=(JobRecord("a", {"x": "1"}, 0, 7, "finished", 1, None), JobRecord("b", {}, 0, 1, "failed", 1, None))
    )
    write_record(tmp_path / "1.json", older)
    write_record(tmp_path / "2.json", newer)
    assert read_records(tmp_path) == [newer, older]
    assert [(name, one.seconds) for name, one in latest_jobs([newer, older]).items()] == [("a (1)", 7)]
    (tmp_path / "3.json").write_text("[]")
    write_artefact(tmp_path / "4.json", read_artefact(tmp_path / "1.json") | {"later": 1})
    assert read_records(tmp_path) == [older, newer, older], "a key that is not known yet does no harm"
    write_artefact(tmp_path / "5.json", read_artefact(tmp_path / "1.json") | {"format": 99})
    with pytest.raises(UserError, match=r"5\.json is of a newer version"):
        read_record(tmp_path / "5.json")


@pytest.mark.parametrize(
    "changes",
    [{"jobs": ["a"]}, {"jobs": {}}, {"jobs": [{"rule": "a"}]}, {"machine": "fast"}, {"seconds": "x"}, {"format": "1"}],
)
def test_what_is_no_record_is_passed_over(tmp_path: Path, changes: dict[str, object]) -> None:
    write_record(tmp_path / "1.json", record())
    write_artefact(tmp_path / "2.json", read_artefact(tmp_path / "1.json") | changes)
    (tmp_path / "3.json").mkdir()
    (tmp_path / "4.json").write_text('{"format": 1, "jo')
    assert read_records(tmp_path) == [record()]
    with pytest.raises(UserError, match=r"2\.json is not a record of a run"):
        read_record(tmp_path / "2.json")


def test_a_job_keeps_its_name_in_the_record(tmp_path: Path) -> None:
    """Later calls find what it took by its name, in which the wildcards have the rule's order."""
    job = JobRecord("cache", {"teacher": "twin", "shard": "0"}, 0, 5, "finished", 1, False)
    write_record(tmp_path / "1.json", record(jobs=(job,)))
    assert job.name == "cache (twin, 0)"
    assert latest_jobs(read_records(tmp_path)) == {"cache (twin, 0)": job}


def test_expected_seconds_follow_what_was_measured(tmp_path: Path) -> None:
    jobs = (
        JobRecord("expert", {"expert": "a"}, 0, 30, "finished", 1, False, 900.0, planned_seconds=60),
        JobRecord("expert", {"expert": "b"}, 0, 50, "failed", 1, False, None, planned_seconds=60),
    )
    ran = record(jobs=jobs)
    history = History([ran], [replace(ran, machine=replace(MACHINE, cpus=64))], MACHINE)
    benchmark = tmp_path / "b.tsv"

    def expect(rule: str, name: str, rough: float) -> tuple[float, str, float | None]:
        found = history.expect(rule, {"expert": name}, rough, benchmark)
        return found.seconds, found.basis, found.memory_mb

    assert expect("expert", "a", 60) == (30, "measured", 900)
    assert expect("expert", "a", 600) == (300, "measured", 900), "ten times the steps"
    assert expect("expert", "b", 40) == (20, "scaled", 900), "like its stage"
    assert expect("decode", "c", 40) == (20, "scaled", None), "like all stages"
    benchmark.write_text("s\th:m:s\tmax_rss\n12.0\t0:00:12\t800\n")
    assert expect("decode", "c", 40) == (12, "measured", 800)
    benchmark.write_text("s\th:m:s\tmax_rss\n0.4\t0:00:00\t9\n")
    assert expect("decode", "c", 40) == (0.4, "measured", 0), "it had not even loaded Python"
    empty = History([], [], MACHINE)
    assert empty.expect("decode", {}, 40, tmp_path / "none").basis == "rough"
    for broken in ("", "s\tmax_rss\n", "s\tmax_rss\nx\ty\n"):
        benchmark.write_text(broken)
        assert empty.expect("decode", {}, 40, benchmark).basis == "rough"


def test_the_summary_fits_and_compares_what_can_be_compared(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    rows = [
        "track,method,task,subtask,shots,metric,value,better",
        "fusion,large,sums,,,accuracy,0.5,higher",
        "fusion,large,sums,part,,accuracy,0.1,higher",
        "fusion,large,sums,,,acc_norm,0.2,",
        "fusion,large,sst2,,,accuracy,0.7,higher",
        "fusion,large,seen,,,score,0.1,higher",
        "fusion,large,words,,,word_perplexity,30,lower",
        "fusion,expert,sums,,,accuracy,0.9,higher",
        "fusion,expert,words,,,word_perplexity,20,lower",
        "clip,amu,emoji,,1,accuracy,0.2,higher",
        "clip,amu,emoji,,8,accuracy,0.6,higher",
        "clip,amu,emoji,,8,accuracy,0.1,",
        "clip,amu,twitter,,8,accuracy,0.3,higher",
    ]
    metrics.write_text("\n".join(rows) + "\n")
    jobs = tuple(JobRecord(f"rule_{number}", {}, 0, number + 1, "finished", 1, True, 1000.0) for number in range(26))
    done = record(26, jobs=jobs, seconds=1140.0, state="finished")
    page = tmp_path / "index.html"
    page.touch()
    said = after_success(done, where="2 cores", metrics=metrics, pages=[page, tmp_path / "none.html"])
    text = "\n".join(said)
    assert "Finished: 26 of 26 jobs, in 19 min on 2 cores, at most 26 GB of memory at a time." in text
    assert "% right, sums: expert 90.0, large 50.0" in text, "the expert was not asked sst2"
    assert "% right, emoji, 8 shots: amu 60.0" in text
    assert str(page) in text
    assert "none.html" not in text
    assert len(said) <= 12
    assert all(len(line) <= 100 for line in said if str(tmp_path) not in line)
    resumed = after_success(replace(done, total=95), where="2 cores", metrics=metrics, pages=[])
    assert "Finished: 26 jobs, and all 95 are up to date" in "\n".join(resumed)


def test_many_tasks_are_counted_and_what_is_no_number_comes_last(tmp_path: Path) -> None:
    head = "track,method,task,subtask,shots,metric,value,better"
    values = {"worst": 0.1, "none": "nan", "best": 0.9}
    rows = [
        f"fusion,{method},a_task_of_a_long_name_{number},,,accuracy,{value},higher"
        for number in range(12)
        for method, value in values.items()
    ]
    (tmp_path / "m.csv").write_text("\n".join([head, *rows]) + "\n")
    ((_, text),) = key_numbers(tmp_path / "m.csv")
    assert text.replace(lines.GLUE, " ") == "% right, mean of 12 tasks: best 90.0, worst 10.0, none nan"


def test_many_methods_take_two_lines_with_the_best_and_the_last(tmp_path: Path) -> None:
    rows = [f"clip,method_{number},emoji,,1,accuracy,0.{number},higher" for number in range(10, 60)]
    (tmp_path / "m.csv").write_text("\n".join(["track,method,task,subtask,shots,metric,value,better", *rows]) + "\n")
    ((_, text),) = key_numbers(tmp_path / "m.csv")
    said = lines.wrap(text, indent=" " * 10)
    assert len(said) == 2
    assert "method_59 59.0, method_58 58.0" in said[0]
    (more,) = re.findall(r"(\d+) more, method_10 10.0$", said[1])
    assert text.count("method_") + int(more) == 50
