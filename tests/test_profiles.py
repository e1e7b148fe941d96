"""The profile `slurm`: it knows the rules, and what it offers in comments works when uncommented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from checkout import ROOT, copy_checkout, snakemake

TEXT = (ROOT / "slurm/profile.yaml").read_text()
OFFERED = re.findall(r"^ *# ((?:- )?[a-z_-]+[:=].*)$", TEXT, re.MULTILINE)
CONDA = "software-deployment-method"  # needs a conda
pytestmark = pytest.mark.workflow


def test_the_profile_sets_the_cores_of_every_rule_that_computes() -> None:
    rules = {
        name
        for path in (ROOT / "workflow/rules").glob("*.smk")
        for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", path.read_text(), re.MULTILINE)
        if "threads: THREADS" in body
    }
    assert rules == {entry.split("=")[0] for entry in yaml.safe_load(TEXT)["set-threads"]}


def test_the_profile_offers_what_sites_differ_in() -> None:
    words = {re.match(r"(?:- )?([a-z_-]+)", line)[1] for line in OFFERED}
    assert words >= {"slurm_account", "set-resources", "slurm-status-command", CONDA}


@pytest.mark.parametrize(
    ("offered", "planned"),
    [
        ("- slurm_account", "slurm_account=my-account"),
        ("set-resources: {model: &gpu {slurm_partition", "slurm_partition=gpu"),
        ("set-resources: {model: &gpu {gpu", "gres=gpu:a100:1"),
        ("slurm-", ""),
    ],
    ids=["account", "partition", "gres", "status"],
)
def test_what_is_offered_in_a_comment_works(tmp_path: Path, offered: str, planned: str) -> None:
    folder = copy_checkout(tmp_path)
    lines = [line for line in OFFERED if line.startswith(offered)]
    assert lines
    text = TEXT
    for line in lines:
        text = text.replace(f"# {line}", line)
    (folder / "slurm/profile.yaml").write_text(text)
    target = "results/smoke/experts/sums"
    done = snakemake(folder, target, "--configfile", "config/smoke.yaml", "--dry-run", profile="slurm")
    assert done.returncode == 0, done.stdout + done.stderr
    resources = re.findall(r"^rule (\w+):.*?resources: (.+?)$", done.stdout + done.stderr, re.MULTILINE | re.DOTALL)
    assert planned in dict(resources)["expert"]
