"""The shipped profile `slurm` on a real one-node cluster: what is asked for, granted, lost, resumed, cleared away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from checkout import ROOT, copy_checkout, heed_ctrl_c, plan_jobs, rules_with, write_small_config
from cluster import Cluster, find_obstacle, find_processes, start_cluster, wait_for

pytestmark = pytest.mark.slurm
PROFILE = yaml.safe_load((ROOT / "slurm/profile.yaml").read_text())
DEFAULTS = dict(entry.split("=") for entry in PROFILE["default-resources"])
ATTENTIVE = ROOT / "tests/slurm/attentive.py"
# What the one-node cluster lacks (accounts), and a look at the queue every few seconds because its jobs are so short.
OVERRIDES = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    obstacle = find_obstacle()
    if obstacle:
        pytest.skip(obstacle)
    with start_cluster(partition=DEFAULTS["slurm_partition"]) as cluster:
        yield cluster
    assert not find_processes(cluster.folder)
    assert not cluster.folder.exists()


@contextlib.contextmanager
def at_work(cluster: Cluster, checkout: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`snakemake --profile slurm` in the background, interrupted if its test fails; what it says is in a file."""
    environment = cluster.environment | {"OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment.pop("PYTHONPATH", None)
    with (checkout / "snakemake.out").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, ATTENTIVE, *arguments, "--profile", "slurm", "--nocolor", *OVERRIDES],
            cwd=checkout, env=environment, stdout=output, stderr=output, text=True,
            preexec_fn=heed_ctrl_c,
        )  # fmt: skip
    try:
        yield process
    except BaseException:
        print((checkout / "snakemake.out").read_text()[-6000:])
        raise
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=600)


def finish(process: subprocess.Popen[str], checkout: Path, seconds: float = 900) -> tuple[int, str]:
    """The exit code and all that was said."""
    return process.wait(timeout=seconds), (checkout / "snakemake.out").read_text()


def call(cluster: Cluster, checkout: Path, *arguments: str) -> tuple[int, str]:
    """`snakemake --profile slurm` to its end: the exit code and all that was said."""
    with at_work(cluster, checkout, *arguments) as process:
        return finish(process, checkout)


def write_long_config(checkout: Path, steps: int = 40) -> str:
    """The smoke config as a run of its own, with a long training and a checkpoint at nearly every step."""
    config = yaml.safe_load((checkout / "config/smoke.yaml").read_text())
    config["run"] = "long"
    config["experts"]["ceiling"] |= {"steps": steps, "checkpoint_minutes": 0.001}
    (checkout / "config/long.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return "config/long.yaml"


def rule_of(comment: str) -> str:
    return comment.removeprefix("rule_").split("_wildcards_")[0]


def comment_of(job: str) -> str:
    """What the executor writes into SLURM's comment of a job, "rule wildcard ..."."""
    rule, *wildcards = job.split()
    return f"rule_{rule}" + (f"_wildcards_{'_'.join(wildcards)}" if wildcards else "")


def minutes(limit: str) -> int:
    """The minutes of SLURM's [days-]hours:minutes:seconds."""
    days, _, clock = limit.rpartition("-")
    hours, minute, second = map(int, clock.split(":"))
    assert second == 0
    return (int(days or 0) * 24 + hours) * 60 + minute


def megabytes(memory: str) -> int:
    """SLURM's 2000M or 16G in the units of mem_mb."""
    return int(memory[:-1]) * {"M": 1, "G": 1024}[memory[-1]]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def plan(checkout: Path) -> dict[str, dict[str, str]]:
    """What a dry-run plans in a fresh checkout, but for what runs where Snakemake itself does."""
    plan = plan_jobs(checkout, write_small_config(checkout), profile="slurm")
    local = rules_with("localrule: True")
    return {comment_of(job): asked for job, asked in plan.items() if job.split()[0] not in local}


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, checkout: Path, plan: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Comment -> SLURM job, after the whole small run."""
    before = len(cluster.jobs())
    code, said = call(cluster, checkout, "--configfile", "config/small.yaml")
    assert code == 0, said[-6000:]
    made = cluster.jobs()[before:]
    jobs = {job["Comment"]: job for job in made}
    assert len(jobs) == len(made), "each job once"
    return jobs


def test_every_job_of_every_rule_was_one_slurm_job(
    plan: dict[str, dict[str, str]], jobs: dict[str, dict[str, str]]
) -> None:
    assert set(jobs) == set(plan)
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}
    # Compute nodes may have no network, so downloads are no SLURM jobs.
    assert {rule_of(comment) for comment in jobs} == rules_with("") - rules_with("localrule: True")


def test_slurm_was_asked_for_what_the_rules_and_the_profile_say(
    plan: dict[str, dict[str, str]], jobs: dict[str, dict[str, str]]
) -> None:
    threads = dict(entry.split("=") for entry in PROFILE["set-threads"])
    for comment, planned in plan.items():
        job = jobs[comment]
        assert job.get("TresPerJob", "gres:gpu:0") == f"gres:gpu:{planned['gpu']}", comment
        assert job["CPUs/Task"] == job["NumCPUs"] == threads.get(rule_of(comment), "1"), comment
        assert megabytes(job["MinMemoryNode"]) == int(planned["mem_mb"]), comment
        assert minutes(job["TimeLimit"]) == int(planned["runtime"]), comment
        assert job["Partition"] == planned["slurm_partition"]
        assert job["Requeue"] == "1"


def test_a_gpu_is_seen_by_the_jobs_that_ask_for_one_and_by_one_at_a_time(
    cluster: Cluster, plan: dict[str, dict[str, str]], jobs: dict[str, dict[str, str]]
) -> None:
    steps = cluster.steps()
    seen = {comment: steps[job["JobId"]][1] for comment, job in jobs.items()}
    assert {comment for comment, device in seen.items() if device != "none"} == {
        comment for comment, asked in plan.items() if asked["gpu"] != "0"
    }
    assert {rule_of(comment) for comment, device in seen.items() if device != "none"} == rules_with("gpu=")
    assert set(seen.values()) == {"none", "0", "1"}, "both GPUs were used, each alone"
    for device in ("0", "1"):
        using = [jobs[comment] for comment, its in seen.items() if its == device]
        times = sorted(
            (datetime.fromisoformat(job["StartTime"]), datetime.fromisoformat(job["EndTime"])) for job in using
        )
        assert all(end <= start for (_, end), (start, _) in pairwise(times))


def test_a_stage_runs_on_the_cores_that_its_job_was_given(cluster: Cluster, jobs: dict[str, dict[str, str]]) -> None:
    here = len(os.sched_getaffinity(0))  # Snakemake gives a step no more than the machine really has
    for comment, job in jobs.items():
        assert int(cluster.steps()[job["JobId"]][0]) == min(int(job["NumCPUs"]), here), comment


def test_logs_are_where_the_profile_says(checkout: Path, jobs: dict[str, dict[str, str]]) -> None:
    for comment, job in jobs.items():
        folder = checkout / PROFILE["slurm-logdir"] / f"rule_{rule_of(comment)}"
        assert folder in Path(job["StdOut"]).parents
        assert not Path(job["StdOut"]).exists(), "successful jobs keep none"
    for name in ("models/small", "experts/merged", "tuning/tuned", "distill/answers/small", "clip/encoder", "metrics"):
        assert "done in" in (checkout / f"results/smoke/logs/{name}.log").read_text()


def test_a_second_call_has_nothing_to_do(cluster: Cluster, checkout: Path, jobs: dict[str, dict[str, str]]) -> None:
    before = len(cluster.jobs())
    code, said = call(cluster, checkout, "--configfile", "config/small.yaml")
    assert code == 0
    assert "Nothing to be done" in said
    assert len(cluster.jobs()) == before


def test_the_cap_on_gpus_holds_jobs_back(cluster: Cluster, checkout: Path) -> None:
    before = len(cluster.jobs())
    targets = ("results/capped/models/large", "results/capped/models/stranger")
    arguments = ("--configfile", "config/smoke.yaml", "--config", "run=capped")
    arguments += ("--resources", "gpu=1", "--set-resources", "model:gpu=1")
    code, said = call(cluster, checkout, *targets, *arguments)
    assert code == 0, said[-6000:]
    first, second = cluster.jobs()[before:]
    assert {job["TresPerJob"] for job in (first, second)} == {"gres:gpu:1"}
    # Two GPUs are there, and nothing else.
    assert datetime.fromisoformat(first["EndTime"]) <= datetime.fromisoformat(second["StartTime"])


def test_jobs_wait_for_a_drained_node_and_survive_a_lost_one(cluster: Cluster, checkout: Path) -> None:
    before = len(cluster.jobs())
    target = "results/long/tasks/sums/train.jsonl"

    def job() -> dict[str, str]:
        return next(iter(cluster.jobs()[before:]), {"JobState": "NONE", "Reason": ""})

    cluster.set_node("DRAIN")
    with at_work(cluster, checkout, target, "--configfile", write_long_config(checkout)) as process:
        wait_for(lambda: job()["JobState"] == "PENDING" and "DRAINED" in job()["Reason"], "a job that waits")
        cluster.set_node("RESUME")
        wait_for(lambda: job()["JobState"] == "RUNNING", "the job")
        cluster.set_node("DOWN")
        wait_for(lambda: job()["JobState"] == "PENDING", "the loss")
        cluster.set_node("RESUME")
        code, said = finish(process, checkout)
    assert code == 0, said
    assert job()["Restarts"] == "1"
    assert len(cluster.jobs()) == before + 1, "the same job, started again by SLURM"
    assert len((checkout / target).read_text().splitlines()) == 32


@dataclass(frozen=True)
class Training:
    """A long training with a checkpoint at nearly every step, as a test follows and stops it."""

    cluster: Cluster
    checkout: Path
    target: tuple[str, ...]

    def jobs(self) -> list[dict[str, str]]:
        return [job for job in self.cluster.jobs() if job["Comment"] == "rule_expert_wildcards_ceiling"]

    def log(self) -> str:
        return (self.checkout / "results/long/logs/experts/ceiling.log").read_text()

    def reached(self) -> int:
        """The step of the newest whole checkpoint."""
        steps = []
        for path in (self.checkout / "results/long/experts/ceiling.checkpoints").glob(
            "checkpoint-*/trainer_state.json"
        ):
            with contextlib.suppress(OSError, ValueError):  # half written, or just replaced by a newer one
                steps.append(json.loads(path.read_text())["global_step"])
        return max(steps, default=0)

    def hold(self, after: int) -> tuple[dict[str, str], int]:
        """Wait for a checkpoint after a step, and stop the stage's process there, so that no machine is too fast.

        Returns:
            The job, and the step that the newest checkpoint is of.
        """
        wait_for(lambda: self.reached() > after, "a newer checkpoint")
        for process, command in find_processes(self.cluster.folder).items():
            if command.startswith("python -m logitfusion.stages.expert"):
                os.kill(process, signal.SIGSTOP)
        return self.jobs()[-1], self.reached()


@pytest.fixture
def training(cluster: Cluster, checkout: Path) -> Training:
    target = ("results/long/experts/ceiling", "--configfile", write_long_config(checkout))
    return Training(cluster, checkout, target)


def test_a_training_over_its_time_limit_has_twice_the_time_and_goes_on(training: Training) -> None:
    with at_work(training.cluster, training.checkout, *training.target) as process:
        first, step = training.hold(after=0)
        training.cluster.end(first["JobId"])
        # SLURM lets a job go on before it ends it, so that one more checkpoint can come of the first.
        wait_for(lambda: training.jobs()[0]["JobState"] == "TIMEOUT", "the end of the first job")
        second, _ = training.hold(after=training.reached())
        assert minutes(second["TimeLimit"]) == 2 * minutes(first["TimeLimit"])
        assert int(re.findall(r"resuming from checkpoint-(\d+)", training.log())[-1]) >= step
        training.cluster.end(second["JobId"])
        code, said = finish(process, training.checkout)
    assert code == 1
    assert [job["JobState"] for job in training.jobs()] == ["TIMEOUT", "TIMEOUT"]
    (sentence,) = [line for line in said.splitlines() if line.startswith("expert (ceiling) ")]
    limit = minutes(second["TimeLimit"])
    assert sentence == (
        f"expert (ceiling) met its time limit of {limit} minutes: put `expert: {{runtime: {2 * limit}}}` into"
        " set-resources in slurm/profile.yaml and call again; it goes on from its last checkpoint."
    )
    assert (training.checkout / PROFILE["slurm-logdir"] / f"rule_expert/ceiling/{second['JobId']}.log").exists()


def test_a_cancelled_training_goes_on(training: Training) -> None:
    with at_work(training.cluster, training.checkout, *training.target) as process:
        _, step = training.hold(after=training.reached())
        process.send_signal(signal.SIGINT)
        finish(process, training.checkout)
    wait_for(lambda: not training.cluster.run("squeue", "--noheader").strip(), "an empty queue")
    assert training.jobs()[-1]["JobState"] == "CANCELLED"

    code, said = call(training.cluster, training.checkout, *training.target)
    assert code == 0, said
    assert int(re.findall(r"resuming from checkpoint-(\d+)", training.log())[-1]) >= step
    assert training.jobs()[-1]["JobState"] == "COMPLETED"


def test_a_job_over_its_memory_is_killed_and_the_user_told_what_to_do(cluster: Cluster, checkout: Path) -> None:
    arguments = ("results/long/models/stranger", "--configfile", write_long_config(checkout))
    code, said = call(cluster, checkout, *arguments, "--retries", "0", "--set-resources", "model:mem_mb=300")
    assert code == 1
    assert cluster.jobs()[-1]["JobState"] == "FAILED"
    (sentence,) = [line for line in said.splitlines() if line.startswith("model (stranger) ")]
    assert sentence == (
        "model (stranger) needed more than its 300 MB of memory: put `model: {mem_mb: 600}` into"
        " set-resources in slurm/profile.yaml and call again."
    )


@pytest.mark.usefixtures("cluster")
def test_a_killed_run_takes_its_cluster_with_it() -> None:
    command = ["sh", "-c", "echo $SLURM_CONF; srun sleep $((10 * 60))"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/slurm/cluster.py"), *command], stdout=subprocess.PIPE, text=True
    )
    try:
        folder = Path(process.stdout.readline().strip()).parent
        wait_for(lambda: "sleep 600" in " ".join(find_processes(folder).values()), "a running job")
    finally:
        process.terminate()
        process.communicate(timeout=600)
    assert process.returncode == 130
    assert not find_processes(folder)
    assert not folder.exists()
