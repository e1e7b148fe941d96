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
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from checkout import ROOT, copy_checkout
from cluster import Cluster, find_obstacle, find_processes, start_cluster, wait_for

pytestmark = pytest.mark.slurm
PROFILE = yaml.safe_load((ROOT / "slurm/profile.yaml").read_text())
DEFAULTS = dict(entry.split("=") for entry in PROFILE["default-resources"])
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
            [sys.executable, "-m", "snakemake", *arguments, "--profile", "slurm", "--nocolor", *OVERRIDES],
            cwd=checkout, env=environment, stdout=output, stderr=output, text=True,
        )  # fmt: skip
    try:
        yield process
    except BaseException:
        print((checkout / "snakemake.out").read_text()[-6000:])
        raise
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def finish(process: subprocess.Popen[str], checkout: Path, seconds: float = 900) -> tuple[int, str]:
    """The exit code and all that was said."""
    return process.wait(timeout=seconds), (checkout / "snakemake.out").read_text()


def call(cluster: Cluster, checkout: Path, *arguments: str) -> tuple[int, str]:
    """`snakemake --profile slurm` to its end: the exit code and all that was said."""
    with at_work(cluster, checkout, *arguments) as process:
        return finish(process, checkout)


def write_small_config(checkout: Path) -> str:
    """The smoke config with one task, one shard and the fewest methods with which every rule still runs."""
    config = yaml.safe_load((checkout / "config/smoke.yaml").read_text())
    del config["tasks"]["letters"], config["experts"]["ceiling"]
    config["evaluate"]["ceiling"] = "task_arithmetic"
    methods = config["fusion"]["methods"]
    config["fusion"]["methods"] = {name: methods[name] for name in ("large", "tuned", "task_arithmetic")}
    config["fusion"]["shards"] = 1
    (checkout / "config/small.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return "config/small.yaml"


def write_long_config(checkout: Path, steps: int) -> str:
    """The smoke config as a run of its own, with a long training and a checkpoint at nearly every step."""
    config = yaml.safe_load((checkout / "config/smoke.yaml").read_text())
    config["run"] = "long"
    config["experts"]["ceiling"] |= {"steps": steps, "checkpoint_minutes": 0.001}
    (checkout / "config/long.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return "config/long.yaml"


def read_plan(checkout: Path, config: str) -> dict[str, dict[str, str]]:
    """Job, as SLURM's comment names it -> the resources that Snakemake plans for it."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "slurm", "--nocolor", "--configfile", config, "--dry-run"],
        cwd=checkout, capture_output=True, text=True, check=True,
    )  # fmt: skip
    plan = {}
    for text in re.split(r"^rule ", done.stdout + done.stderr, flags=re.MULTILINE)[1:]:
        rule = text.split(":")[0]
        wildcards = re.search(r"^ +wildcards: (.+)$", text, re.MULTILINE)
        values = [pair.split("=")[1] for pair in wildcards[1].split(", ")] if wildcards else []
        comment = f"rule_{rule}" + (f"_wildcards_{'_'.join(values)}" if values else "")
        resources = re.search(r"^ +resources: (.+)$", text, re.MULTILINE)
        plan[comment] = dict(pair.split("=") for pair in resources[1].split(", "))
    return plan


def rule_of(comment: str) -> str:
    return comment.removeprefix("rule_").split("_wildcards_")[0]


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
    """What a dry-run plans in a fresh checkout, less the target."""
    plan = read_plan(checkout, write_small_config(checkout))
    del plan["rule_all"]
    return plan


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
    written = {
        name for path in (ROOT / "workflow/rules").glob("*.smk")
        for name in re.findall(r"^rule (\w+):", path.read_text(), re.MULTILINE)
    }  # fmt: skip
    # The smoke config's models come out of nothing: no package is downloaded.
    assert {rule_of(comment) for comment in jobs} >= written - {"package"}


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


def test_models_use_the_gpu_one_job_at_a_time_and_nothing_else_sees_it(
    cluster: Cluster, jobs: dict[str, dict[str, str]]
) -> None:
    steps = cluster.steps()
    using = [job for comment, job in jobs.items() if steps[job["JobId"]][1] != "none"]
    trained = {"rule_model_wildcards_small", "rule_expert_wildcards_sums", "rule_expert_wildcards_adapter"}
    computing = trained | {comment for comment in jobs if rule_of(comment) in ("tune", "decode")}
    assert {job["Comment"] for job in using} == computing
    assert {steps[job["JobId"]][1] for job in using} == {"0"}
    times = sorted((datetime.fromisoformat(job["StartTime"]), datetime.fromisoformat(job["EndTime"])) for job in using)
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
    for name in ("models/small", "experts/merged", "tuning/tuned", "fusion/tuned/0", "metrics"):
        assert "done in" in (checkout / f"results/smoke/logs/{name}.log").read_text()


def test_a_second_call_has_nothing_to_do(cluster: Cluster, checkout: Path, jobs: dict[str, dict[str, str]]) -> None:
    before = len(cluster.jobs())
    code, said = call(cluster, checkout, "--configfile", "config/small.yaml")
    assert code == 0
    assert "Nothing to be done" in said
    assert len(cluster.jobs()) == before


def test_jobs_wait_for_a_drained_node_and_survive_a_lost_one(cluster: Cluster, checkout: Path) -> None:
    before = len(cluster.jobs())
    target = "results/long/tasks/sums/train.jsonl"

    def job() -> dict[str, str]:
        return next(iter(cluster.jobs()[before:]), {"JobState": "NONE", "Reason": ""})

    cluster.set_node("DRAIN")
    with at_work(cluster, checkout, target, "--configfile", write_long_config(checkout, steps=60)) as process:
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


def test_a_training_survives_its_time_limit_and_scancel(cluster: Cluster, checkout: Path) -> None:
    arguments = ("results/long/experts/ceiling", "--configfile", write_long_config(checkout, steps=60))
    log = checkout / "results/long/logs/experts/ceiling.log"

    def trainings() -> list[dict[str, str]]:
        return [job for job in cluster.jobs() if job["Comment"] == "rule_expert_wildcards_ceiling"]

    def reached() -> int:
        """The step of the newest whole checkpoint."""
        steps = []
        for path in (checkout / "results/long/checkpoints/ceiling").glob("checkpoint-*/trainer_state.json"):
            with contextlib.suppress(OSError, ValueError):  # half written, or just replaced by a newer one
                steps.append(json.loads(path.read_text())["global_step"])
        return max(steps, default=0)

    def hold() -> int:
        """Stop the stage's process, so that no machine is too fast for this test; return the step reached."""
        for process, command in find_processes(cluster.folder).items():
            if command.startswith("python -m logitfusion.stages.expert"):
                os.kill(process, signal.SIGSTOP)
        return reached()

    with at_work(cluster, checkout, *arguments) as process:
        wait_for(reached, "a checkpoint", 240)
        first_step = hold()
        (first,) = trainings()
        cluster.run("scontrol", "update", f"JobId={first['JobId']}", "TimeLimit=1")
        wait_for(lambda: trainings()[0]["JobState"] == "TIMEOUT", "the time limit", 180)
        second = wait_for(lambda: trainings()[1:], "the second try", 120)[0]
        assert minutes(second["TimeLimit"]) == 2 * minutes(first["TimeLimit"])

        wait_for(lambda: reached() > first_step, "a newer checkpoint", 240)
        second_step = hold()
        assert f"resuming from checkpoint-{first_step}" in log.read_text()
        cluster.run("scancel", second["JobId"])
        code, said = finish(process, checkout)
    assert code == 1
    assert "CANCELLED" in said
    assert (checkout / PROFILE["slurm-logdir"] / f"rule_expert/ceiling/{second['JobId']}.log").exists()

    code, said = call(cluster, checkout, *arguments)
    assert code == 0, said
    assert f"resuming from checkpoint-{second_step}" in log.read_text()
    assert [job["JobState"] for job in trainings()] == ["TIMEOUT", "CANCELLED", "COMPLETED"]


def test_ctrl_c_leaves_no_job_behind(cluster: Cluster, checkout: Path) -> None:
    config = write_long_config(checkout, steps=100_000)

    def running() -> set[str]:
        return {job["Comment"] for job in cluster.jobs() if job["JobState"] == "RUNNING"}

    with at_work(cluster, checkout, "results/long/experts/ceiling", "--configfile", config) as process:
        wait_for(lambda: "rule_expert_wildcards_ceiling" in running(), "a running training", 240)
        process.send_signal(signal.SIGINT)
        finish(process, checkout, 60)
    wait_for(lambda: not cluster.run("squeue", "--noheader").strip(), "an empty queue")
    assert cluster.jobs()[-1]["JobState"] == "CANCELLED"
