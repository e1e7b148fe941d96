"""A run that is stopped, politely or not, goes on where it was, and ends as if it had not been stopped."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from calls import (
    CONFIG,
    EXPERT,
    RESULTS,
    STUDENT,
    TARGETS,
    at_work,
    call,
    errors,
    find_stage,
    finish,
    has_loaded,
    hold_after_a_checkpoint,
    wait_for,
    weights,
    write_config,
)

pytestmark = pytest.mark.fault
STOPPED = "Stopped by a signal; the same call again goes on, a training from its last checkpoint."
LOCKED = "Error: Directory cannot be locked."
CHECKPOINTS, LOG = RESULTS / "experts/ceiling.checkpoints", RESULTS / "logs/experts/ceiling.log"


@pytest.fixture
def untrained(run: Path) -> Path:
    """The finished run without its trainings."""
    for target in (EXPERT, STUDENT):
        shutil.rmtree(run / target)
    return run


def nothing_half_written(folder: Path, target: str = EXPERT) -> bool:
    return not list((folder / "results").rglob("*.partial-*")) and not (folder / target).exists()


def goes_on(folder: Path, finished: Path, target: str = EXPERT, log: Path = LOG) -> None:
    """The same call again resumes, and ends with the weights of the run that nobody stopped, to the last bit."""
    code, said = call(folder, target, *CONFIG)
    assert code == 0, said
    assert "resuming from checkpoint-" in (folder / log).read_text()
    expected, found = weights(finished / target), weights(folder / target)
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_that_is_killed_goes_on(untrained: Path, finished: Path, how: signal.Signals) -> None:
    """SIGKILL is what the kernel sends when memory runs out, SIGTERM what SLURM sends at a time limit."""
    with at_work(untrained, EXPERT, *CONFIG) as process:
        stage = hold_after_a_checkpoint("expert", untrained, CHECKPOINTS)
        stage.send_signal(how)
        stage.resume()
        code, said = finish(process, untrained)
    assert code == 1
    assert nothing_half_written(untrained)
    assert errors(untrained / LOG) == ([] if how is signal.SIGKILL else [STOPPED])
    if how is signal.SIGKILL:
        assert "died with <Signals.SIGKILL: 9>" in said  # docs/troubleshooting.md says what to think of it
    goes_on(untrained, finished)


def test_a_students_training_that_is_killed_goes_on(untrained: Path, finished: Path) -> None:
    with at_work(untrained, STUDENT, *CONFIG) as process:
        hold_after_a_checkpoint("student", untrained, RESULTS / "distill/students/gld.0.checkpoints").kill()
        code, _ = finish(process, untrained)
    assert code == 1
    assert nothing_half_written(untrained, STUDENT)
    goes_on(untrained, finished, STUDENT, RESULTS / "logs/distill/students/gld.0.log")


def test_ctrl_c_leaves_no_lock_and_nothing_half_written(untrained: Path, finished: Path) -> None:
    with at_work(untrained, EXPERT, *CONFIG) as process:
        stage = hold_after_a_checkpoint("expert", untrained, CHECKPOINTS)
        os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches Snakemake and its jobs
        stage.resume()
        code, said = finish(process, untrained)
    assert code == 1
    assert "Terminating processes on user request" in said
    assert errors(untrained / LOG) == [STOPPED]
    assert "Traceback" not in said
    assert nothing_half_written(untrained)
    goes_on(untrained, finished)


def test_a_killed_snakemake_takes_its_jobs_along_and_unlocks_on_demand(untrained: Path, finished: Path) -> None:
    with at_work(untrained, EXPERT, *CONFIG) as process:
        stage = hold_after_a_checkpoint("expert", untrained, CHECKPOINTS)
        process.kill()
        process.wait()
        stage.resume()
        wait_for(lambda: not stage.is_running(), "the end of what Snakemake left at work", 60)
        assert errors(untrained / LOG) == [STOPPED]
    assert nothing_half_written(untrained)
    code, said = call(untrained, EXPERT, *CONFIG)
    assert code == 1
    assert LOCKED in said
    assert "--unlock" in said
    assert "Traceback" not in said
    assert call(untrained, "--unlock", *CONFIG)[0] == 0
    goes_on(untrained, finished)


def test_a_training_in_several_processes_ends_with_a_killed_snakemake(untrained: Path) -> None:
    """Their parent is torchrun, which would go on."""

    def change(config: dict) -> None:
        config["distill"]["training"] |= {"processes": 2, "steps": 10_000}

    several = write_config(untrained, "several.yaml", change, source="faults.yaml")
    with at_work(untrained, STUDENT, *several) as process:
        checkpoints = untrained / RESULTS / "distill/students/gld.0.checkpoints"
        wait_for(lambda: list(checkpoints.glob("checkpoint-*/trainer_state.json")), "a checkpoint")
        process.kill()
        process.wait()
        wait_for(lambda: find_stage("student", untrained) is None, "the end of what Snakemake left at work", 60)
    assert nothing_half_written(untrained, STUDENT)


def kept_configs(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / RESULTS / "config").iterdir()}


def test_a_second_call_is_turned_away_and_disturbs_nothing(untrained: Path, finished: Path) -> None:
    """Even one with another config of the same run, whose values the first call's jobs must not see."""

    def change(config: dict) -> None:
        config["experts"]["ceiling"]["learning_rate"] = 0.5

    other = write_config(untrained, "other.yaml", change, source="faults.yaml")
    with at_work(untrained, EXPERT, *CONFIG) as process:
        stage = hold_after_a_checkpoint("expert", untrained, CHECKPOINTS)
        before = kept_configs(untrained)
        code, said = call(untrained, EXPERT, *other)
        assert code == 1
        assert LOCKED in said
        assert "Traceback" not in said
        assert kept_configs(untrained) == before
        stage.resume()
        assert process.wait(timeout=600) == 0
    expected, found = weights(finished / EXPERT), weights(untrained / EXPERT)
    assert all(expected[name].equal(found[name]) for name in expected)


@pytest.mark.parametrize("how", ["the job", "Ctrl-C", "Snakemake"])
def test_what_follows_from_a_stopped_job_is_not_up_to_date(run: Path, how: str) -> None:
    """A job in the middle, while all that was made from its earlier output is still there."""

    def change(config: dict) -> None:
        config["clip"]["methods"]["amu"]["alpha"] = 0.7

    changed = write_config(run, "changed.yaml", change, source="faults.yaml")
    with at_work(run, *TARGETS, *changed) as process:
        stage = wait_for(lambda: find_stage("clip_fit", run), "a fit")
        if how == "Ctrl-C":
            wait_for(lambda: has_loaded("torch", stage), "its imports")  # Python's own first steps end in a traceback
            os.killpg(process.pid, signal.SIGINT)
        else:
            (stage if how == "the job" else process).kill()
        process.wait(timeout=600)
    assert "Traceback" not in (run.parent / "said.txt").read_text()
    call(run, "--unlock", *changed)
    code, said = call(run, *TARGETS, *changed, "--dry-run", "--quiet", "rules")
    assert code == 0
    planned = dict(re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE))
    assert planned.keys() == {"clip_fit", "clip_predict", "metrics", "plot_methods", "total"}
