"""The workflow as a module of another one, in an environment where the package is not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
from checkout import ROOT

pytestmark = pytest.mark.workflow

OUTER = f"""
configfile: "outer.yaml"

module fusion:
    snakefile: "{ROOT}/Snakefile"
    config: config["inner"]
    prefix: "inner"

use rule * from fusion as fusion_*

assert config == before, "the outer config is untouched"

rule everything:
    default_target: True
    input:
        "inner/results/smoke/tasks/sums/validation.jsonl",
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python with all packages of this one, but without ours: its editable install is a .pth file, not read here."""
    venv.create(tmp_path / "env", symlinks=True)
    places = tmp_path / "env/lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (places / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    made = tmp_path / "env/bin/python"
    missing = subprocess.run([made, "-c", "import logitfusion"], cwd=tmp_path, capture_output=True, check=False)
    assert b"No module named 'logitfusion'" in missing.stderr
    return made


def test_a_stage_runs_from_an_outer_workflow_with_a_prefix(tmp_path: Path, python: Path) -> None:
    folder = tmp_path / "outer"
    folder.mkdir()
    shutil.copytree(ROOT / "config/smoke_tasks", folder / "config/smoke_tasks")  # paths of a config are the caller's
    inner = (ROOT / "config/smoke.yaml").read_text()
    (folder / "outer.yaml").write_text("own: 1\ninner:\n" + "".join(f"  {line}\n" for line in inner.splitlines()))
    head = "import copy, yaml\nbefore = yaml.safe_load(open('outer.yaml'))\n"
    (folder / "Snakefile").write_text(head + OUTER)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [python, "-m", "snakemake", "--cores", "2", "--nocolor"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "inner/results/smoke/tasks/sums/validation.jsonl").exists()
    assert (folder / "inner/results/smoke/logs/tasks/sums.log").exists()
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "Snakefile", "config", "inner", "outer.yaml"
    ]  # fmt: skip
