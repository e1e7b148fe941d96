"""The profile `slurm`: it knows the rules, and what it offers in comments works when uncommented."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from checkout import ROOT, copy_checkout, plan_jobs, rules_with, snakemake

TEXT = (ROOT / "slurm/profile.yaml").read_text()
# Keys in comments; a value goes on in the next lines if these are indented.
OFFERED = re.findall(r"^ *# ((?:- )?[a-z_-]+[:=].*(?:\n#   .*)*)$", TEXT, re.MULTILINE)
CONDA = "software-deployment-method"  # needs a conda
pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


def plan_with(checkout: Path, offered: str) -> dict[str, dict[str, str]]:
    """Job -> resources of the smoke config, with what the profile offers by these first words."""
    lines = [line for line in OFFERED if line.startswith(offered)]
    assert lines
    text = TEXT
    for line in lines:
        text = text.replace("# " + line, line.replace("\n# ", "\n  "))
    (checkout / "slurm/profile.yaml").write_text(text)
    return plan_jobs(checkout, "config/smoke.yaml", profile="slurm")


def test_the_profile_sets_the_cores_of_every_rule_that_computes() -> None:
    assert rules_with("threads: THREADS") == {entry.split("=")[0] for entry in yaml.safe_load(TEXT)["set-threads"]}


def test_the_profile_offers_what_sites_differ_in() -> None:
    words = {re.match(r"(?:- )?([a-z_-]+)", line)[1] for line in OFFERED}
    assert words >= {"slurm_account", "set-resources", "slurm-status-command", "slurm-no-account", CONDA}


def test_no_rule_names_a_partition() -> None:
    assert not rules_with("slurm_partition") | rules_with("gres=") | rules_with("slurm_account")


def test_an_account_is_every_jobs(checkout: Path) -> None:
    plan = plan_with(checkout, "- slurm_account")
    assert {asked["slurm_account"] for asked in plan.values()} == {"my-account"}


@pytest.mark.parametrize(
    ("offered", "resource", "value"),
    [
        ("set-resources: {model: &gpu {slurm_partition", "slurm_partition", "gpu"),
        ("set-resources: {model: &gpu {gpu", "gres", "gpu:a100:1"),
    ],
    ids=["partition", "gres"],
)
def test_a_sites_way_to_gpus_is_that_of_all_rules_that_use_one(
    checkout: Path, offered: str, resource: str, value: str
) -> None:
    plan = plan_with(checkout, offered)
    using = {job.split()[0] for job, asked in plan.items() if asked.get(resource) == value}
    assert using == rules_with("gpu=")
    if resource == "gres":
        assert all(asked["gpu"] == "0" for asked in plan.values()), "never both"


def test_the_gpus_of_a_job_are_on_one_node(checkout: Path) -> None:
    (checkout / "slurm/profile.yaml").write_text(TEXT)
    config = yaml.safe_load((checkout / "config/smoke.yaml").read_text())
    config["fusion"]["methods"]["proxy"]["gpus"] = 2
    config["distill"]["training"]["processes"] = 4
    (checkout / "config/several.yaml").write_text(yaml.safe_dump(config))
    plan = plan_jobs(checkout, "config/several.yaml", profile="slurm")
    assert {asked["nodes"] for asked in plan.values()} == {"1"}
    asked = {job: plan[job]["gpu"] for job in ("decode sums 0", "decode letters 0", "student sft 0", "task sums")}
    assert asked == {"decode sums 0": "2", "decode letters 0": "1", "student sft 0": "4", "task sums": "0"}


def test_more_memory_and_time_are_one_rules(checkout: Path) -> None:
    plan = plan_with(checkout, "set-resources: {expert")
    assert {job.split()[0] for job, asked in plan.items() if asked["mem_mb"] == "64000"} == {"expert"}
    assert {asked["runtime"] for job, asked in plan.items() if job.split()[0] == "expert"} == {"1440"}


def test_without_slurm_one_sentence_comes_before_any_job(checkout: Path) -> None:
    if shutil.which("sbatch"):
        pytest.skip("there is a SLURM here")
    (checkout / "slurm/profile.yaml").write_text(TEXT)
    target = "results/smoke/tasks/letters/validation.jsonl"
    done = snakemake(checkout, target, "--configfile", "config/smoke.yaml", profile="slurm")
    assert done.returncode == 1
    assert done.stderr.count("There is no SLURM here (sbatch is not in PATH)") == 1
    assert "Traceback" not in done.stderr
    assert "rule task:" not in done.stdout + done.stderr, "no job was tried"


def test_keys_for_sites_without_accounts_are_known(checkout: Path) -> None:
    assert plan_with(checkout, "slurm-")
