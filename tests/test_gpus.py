"""GPUs of a job: what a stage sees of a machine's cards, which a made-up nvidia-smi lists."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logitfusion.cards import JOBS

ROOT = Path(__file__).parents[1]
# A stage's first line, then what it sees, then its work: as long as its standard input is open.
JOB = """
import logitfusion.stages
import os, sys
print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("LOGITFUSION_GPUS"), flush=True)
sys.stdin.read()
"""
Job = subprocess.Popen[str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Start a job on a machine with two cards, or with as many as asked for."""
    jobs: list[Job] = []

    def start(gpus: int | None, cards: int = 2, script: str = JOB, **variables: str) -> Job:
        programs = tmp_path / f"bin{cards}"
        programs.mkdir(exist_ok=True)
        lines = "".join(f"echo 'GPU {card}: NVIDIA (UUID: GPU-{card})'\n" for card in range(cards))
        (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{lines}exit {int(not cards)}\n")
        (programs / "nvidia-smi").chmod(0o755)
        outside = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "LOGITFUSION_GPUS", "LOGITFUSION_PARENT", JOBS)
        environment = {name: value for name, value in os.environ.items() if name not in outside}
        environment |= {"PYTHONPATH": str(ROOT / "workflow"), "TMPDIR": str(tmp_path), **variables}
        environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
        if gpus is not None:
            environment["LOGITFUSION_GPUS"] = str(gpus)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        jobs.append(subprocess.Popen([sys.executable, "-c", script], env=environment, text=True, **pipes))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()
        job.wait()
        for pipe in (job.stdin, job.stdout, job.stderr):
            pipe.close()


def sees(job: Job) -> str:
    """The cards that a job sees, once it has them; the number is not for what it starts."""
    visible, number = job.stdout.readline().split()
    assert number == "None"
    return visible


def test_jobs_at_the_same_time_have_different_cards_and_a_third_waits(start: Callable[..., Job]) -> None:
    first, second = start(1), start(1)
    assert {sees(first), sees(second)} == {"0", "1"}
    third = start(1)
    assert "waiting for 1 of 2 GPUs" in third.stderr.readline()
    assert third.poll() is None
    second.kill()  # nobody cleans up after it
    freed = sees(third)
    assert freed in {"0", "1"}
    fourth = start(1)
    assert "waiting" in fourth.stderr.readline()
    first.stdin.close()
    assert {freed, sees(fourth)} == {"0", "1"}


def test_a_job_of_two_gpus_waits_for_both_and_holds_none_meanwhile(start: Callable[..., Job]) -> None:
    first = start(1)
    assert sees(first) == "0"
    pair = start(2)
    assert "waiting for 2 of 2 GPUs" in pair.stderr.readline()
    between = start(1)
    assert sees(between) == "1"
    for job in (first, between):
        job.stdin.close()
    assert sees(pair) == "0,1"


def test_cards_are_those_that_the_user_left_visible(start: Callable[..., Job]) -> None:
    jobs = [start(1, cards=8, CUDA_VISIBLE_DEVICES="5,GPU-7") for _ in range(2)]
    assert set(map(sees, jobs)) == {"5", "GPU-7"}
    other = start(2, cards=8, CUDA_VISIBLE_DEVICES="GPU-5,7,1")  # the same cards, by their other names
    assert "waiting for 2 of 3 GPUs" in other.stderr.readline()


def test_so_many_jobs_share_each_card_and_are_spread_over_them(start: Callable[..., Job]) -> None:
    shared = {JOBS: "2"}
    first = [start(1, **shared) for _ in range(2)]
    assert set(map(sees, first)) == {"0", "1"}
    pair = start(2, **shared)
    assert sees(pair) == "0,1", "a job of two has a place on each"
    late = start(1, **shared)
    assert "waiting for 1 of 2 GPUs" in late.stderr.readline()
    first[0].stdin.close()
    assert sees(late) in {"0", "1"}


def test_a_job_that_does_not_share_has_its_card_alone(start: Callable[..., Job]) -> None:
    assert sees(start(1, CUDA_VISIBLE_DEVICES="0", **{JOBS: "3"})) == "0"
    assert sees(start(1)) == "1"
    assert "waiting for 1 of 2 GPUs" in start(1).stderr.readline()
    sharing = start(1, **{JOBS: "3"})
    assert sees(sharing) == "0"
    assert "waiting for 2 of 2 GPUs" in start(2, **{JOBS: "3"}).stderr.readline()


@pytest.mark.parametrize("jobs", ["", "0", "-1", "two", "1.5"])
def test_how_many_share_a_card_is_a_number(start: Callable[..., Job], jobs: str) -> None:
    _, stderr = start(1, **{JOBS: jobs}).communicate(timeout=60)
    (line,) = stderr.splitlines()
    assert line == f"{JOBS} is {jobs!r}: it is how many jobs may share a GPU, a whole number of at least 1."


@pytest.mark.parametrize(
    ("gpus", "cards", "variables", "expected"),
    [
        (1, 0, {}, "None"),
        (0, 2, {}, ""),
        (None, 2, {}, "None"),
        (None, 2, {"CUDA_VISIBLE_DEVICES": "0,1"}, "0,1"),
        (1, 2, {"CUDA_VISIBLE_DEVICES": ""}, ""),
        (1, 8, {"CUDA_VISIBLE_DEVICES": "3", "SLURM_JOB_ID": "7"}, "3"),
        (0, 8, {"CUDA_VISIBLE_DEVICES": "3", "SLURM_JOB_ID": "7"}, "3"),
    ],
    ids=["no GPU", "none asked for", "no workflow", "own choice", "hidden", "SLURM", "SLURM's gres"],
)
def test_other_jobs_see_what_they_saw(
    start: Callable[..., Job], gpus: int | None, cards: int, variables: dict[str, str], expected: str
) -> None:
    job = start(gpus, cards, **variables)
    assert job.stdout.readline().rsplit(" ", 1)[0] == expected


def test_more_gpus_than_there_are_end_the_job_with_a_sentence(start: Callable[..., Job]) -> None:
    _, stderr = start(3).communicate(timeout=60)
    (line,) = stderr.splitlines()
    assert "asks for 3 GPUs and can get 2" in line
    _, stderr = start(2, CUDA_VISIBLE_DEVICES="1,1").communicate(timeout=60)
    assert "asks for 2 GPUs and can get 1" in stderr


def launch(start: Callable[..., Job], tmp_path: Path, work: str, **variables: str) -> Job:
    """A training in two processes, whose work is this."""
    (tmp_path / "work.py").write_text(work)
    script = f"""
import runpy, sys
sys.argv[1:] = ["--standalone", "--nproc-per-node", "2", {str(tmp_path / "work.py")!r}]
runpy.run_module("logitfusion.stages._torchrun", run_name="__main__")
"""
    return start(2, script=script, OMP_NUM_THREADS="1", **variables)


def test_the_processes_of_one_training_share_its_gpus(start: Callable[..., Job], tmp_path: Path) -> None:
    work = "import logitfusion.stages, os, sys\nsys.stdout.write(os.environ['CUDA_VISIBLE_DEVICES'] + '\\n')\n"
    stdout, stderr = launch(start, tmp_path, work).communicate(timeout=300)
    assert stdout.split() == ["0,1", "0,1"], stderr


def test_processes_end_soon_after_the_one_that_leased_their_gpus(start: Callable[..., Job], tmp_path: Path) -> None:
    work = """
import os, sys, time
from logitfusion.stages._stage import _end_with_parent
_end_with_parent()
sys.stdout.write(f"{os.getpid()}\\n")
sys.stdout.flush()
time.sleep(300)
"""
    job = launch(start, tmp_path, work, LOGITFUSION_PARENT=str(os.getpid()))
    workers = [int(job.stdout.readline()) for _ in range(2)]
    job.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{worker}/exe").exists() for worker in workers):
        assert time.monotonic() < deadline, "they still use the cards, which are free for others"
        time.sleep(0.1)
