"""What a cluster's user reads last: jobs that SLURM ended at a limit, each with the way on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from logitfusion.cluster import explain_failures

RULE = """\
rule expert:
    input: results/demo/models/small
    log: results/demo/logs/experts/a.log
    jobid: 7
    wildcards: expert=a
    resources: tmpdir=<TBD>, mem_mb=16000, mem=16 GB, mem_mib=15259, slurm_partition=main, runtime=480, gpu=1
Job 7 has been submitted with SLURM jobid 12 (log: {folder}/12.log).
"""
ERROR = """\
[Mon Nov 23 22:18:27 2026]
Error in rule expert:
    message: SLURM-job '12' failed, SLURM status is: '{state}'. For further error details see the log files.
    jobid: 7
    log: results/demo/logs/experts/a.log, {folder}/12.log (check log file(s) for error details)
    shell:
        python -m logitfusion.stages.expert --checkpoints results/demo/checkpoints/a
        (command exited with non-zero exit code)
    external_jobid: 12
Logfile results/demo/logs/experts/a.log: empty file
"""
# Snakemake shows the log of the failed job, which is that of another Snakemake: numbers of its own, fewer facts.
INNER = """\
rule expert:
    log: results/demo/logs/experts/a.log
    jobid: 7
    resources: mem_mb=1, runtime=1
Error in rule expert:
    message: None
    jobid: 7
    log: results/demo/logs/experts/a.log (check log file(s) for error details)
"""
MEMORY = (
    "expert (a) needed more than its 16000 MB of memory: put `expert: {mem_mb: 32000}` into set-resources in"
    " slurm/profile.yaml and call again."
)
TIME = (
    "expert (a) met its time limit of 480 minutes: put `expert: {runtime: 960}` into set-resources in"
    " slurm/profile.yaml and call again; it goes on from its last checkpoint."
)


@pytest.fixture
def explain(tmp_path: Path) -> Callable[[str, str, str], list[str]]:
    """The sentences for one failed job, from its state, SLURM's log, and what Snakemake wrote afterwards."""

    def explain(state: str, slurm: str, afterwards: str = "") -> list[str]:
        (tmp_path / "12.log").write_text(slurm)
        text = RULE.format(folder=tmp_path) + ERROR.format(folder=tmp_path, state=state) + afterwards
        (tmp_path / "snakemake.log").write_text(text)
        return explain_failures([tmp_path / "snakemake.log"])

    return explain


@pytest.mark.parametrize(
    ("state", "slurm", "sentences"),
    [
        ("OUT_OF_MEMORY", "", [MEMORY]),
        (
            "FAILED",
            "slurmstepd: error: StepId=2.0 exceeded memory limit (434769920 > 104857600)",
            [MEMORY],
        ),
        ("FAILED", "slurmstepd: error: Detected 1 oom_kill event in StepId=2.0. Some of the step tasks", [MEMORY]),
        ("FAILED", "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=2.batch cgroup.", [MEMORY]),
        ("TIMEOUT", "", [TIME]),
        ("FAILED", "slurmstepd: error: *** JOB 12 ON n CANCELLED AT 2026-11-23T22:17:25 DUE TO TIME LIMIT ***", [TIME]),
        ("FAILED", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", []),
        ("CANCELLED", "slurmstepd: error: *** JOB 12 ON n CANCELLED AT 2026-11-23T22:17:25 ***", []),
    ],
    ids=["sacct", "polled", "cgroup 1", "cgroup 2", "timeout", "log of a timeout", "the GPU's memory", "cancelled"],
)
def test_a_limit_is_named_with_the_way_on(explain: Callable, state: str, slurm: str, sentences: list[str]) -> None:
    assert explain(state, slurm) == sentences


def test_a_stage_without_checkpoints_promises_none(tmp_path: Path) -> None:
    text = (RULE + ERROR).format(folder=tmp_path, state="TIMEOUT").replace("--checkpoints", "--shard")
    (tmp_path / "snakemake.log").write_text(text)
    (sentence,) = explain_failures([tmp_path / "snakemake.log"])
    assert sentence.endswith("in slurm/profile.yaml and call again.")


def test_a_retry_that_succeeded_needs_no_word(explain: Callable) -> None:
    assert explain("TIMEOUT", "", "Trying to restart job 7.\nFinished jobid: 7 (Rule: expert)\n") == []


def test_the_log_of_a_job_is_not_mistaken_for_that_of_the_run(explain: Callable) -> None:
    assert explain("TIMEOUT", "", INNER) == [TIME]


def test_only_the_last_try_counts(explain: Callable, tmp_path: Path) -> None:
    again = (RULE.replace("runtime=480", "runtime=960") + ERROR).replace("12", "13")
    (sentence,) = explain("OUT_OF_MEMORY", "", INNER + again.format(folder=tmp_path, state="TIMEOUT"))
    assert "960 minutes" in sentence
    assert "runtime: 1920" in sentence


def test_other_logs_and_no_failure_are_fine(tmp_path: Path) -> None:
    lost = RULE.format(folder=tmp_path) + ERROR.format(folder=tmp_path, state="FAILED")
    for text in (lost, "Nothing to be done.\n", ""):
        (tmp_path / "snakemake.log").write_text(text)
        assert explain_failures([tmp_path / "snakemake.log"]) == []
