"""A copy of this checkout, and Snakemake in it, as its user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def copy_checkout(target: Path) -> Path:
    """What a fresh clone would hold, uncommitted work included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def command(*arguments: str, profile: str = "local") -> list[str]:
    """Snakemake's command line."""
    return [sys.executable, "-m", "snakemake", "--profile", profile, "--nocolor", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """This Python's packages and the checkout's own code; what else is given comes before it."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clean["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
    return clean | variables


def snakemake(
    folder: Path, *arguments: str, profile: str = "local", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Snakemake to its end, with more environment variables."""
    return subprocess.run(
        command(*arguments, profile=profile),
        cwd=folder, env=environment(**variables), capture_output=True, text=True, check=False,
    )  # fmt: skip


def plans(folder: Path, configs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What would run for each config, after the first one has run to its end."""
    requests = [{"config": config, "finish": not number} for number, config in enumerate(configs)]
    (folder / "requests.json").write_text(json.dumps(requests))
    done = subprocess.run(
        [sys.executable, ROOT / "tests/plans.py", "requests.json", "answers.json"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "answers.json").read_text())
