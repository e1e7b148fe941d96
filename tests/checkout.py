"""A copy of this checkout, and Snakemake in it, as its user runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

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


def environment(programs: Path | None = None, **variables: str) -> dict[str, str]:
    """This Python's packages, the checkout's own code, `programs` first in PATH; other variables come before these."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    places = [*([programs] if programs else []), Path(sys.executable).parent, clean["PATH"]]
    clean["PATH"] = os.pathsep.join(map(str, places))
    return clean | variables


def snakemake(
    folder: Path, *arguments: str, profile: str = "local", programs: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Snakemake to its end, with more environment variables."""
    return subprocess.run(
        command(*arguments, profile=profile),
        cwd=folder, env=environment(programs, **variables), capture_output=True, text=True, check=False,
    )  # fmt: skip


def heed_ctrl_c() -> None:
    """For ``preexec_fn``: what runs in a shell's background, as CI may, ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def plan_jobs(folder: Path, config: str, profile: str) -> dict[str, dict[str, str]]:
    """Job, as "rule wildcard ...", -> the resources that a dry-run plans for it; the target `all` is none."""
    done = snakemake(folder, "--configfile", config, "--dry-run", profile=profile)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = {}
    for text in re.split(r"^rule ", done.stdout + done.stderr, flags=re.MULTILINE)[1:]:
        wildcards = re.search(r"^ +wildcards: (.+)$", text, re.MULTILINE)
        values = [pair.split("=")[1] for pair in wildcards[1].split(", ")] if wildcards else []
        resources = re.search(r"^ +resources: (.+)$", text, re.MULTILINE)
        plan[" ".join([text.split(":")[0], *values])] = dict(pair.split("=") for pair in resources[1].split(", "))
    plan.pop("all", None)
    return plan


def rules_with(words: str) -> set[str]:
    """The rules that contain some text."""
    return {
        name
        for path in (ROOT / "workflow/rules").glob("*.smk")
        for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", path.read_text(), re.MULTILINE)
        if words in body
    }


def write_small_config(folder: Path) -> str:
    """The smoke config with one of everything: each rule but downloads runs; `model`, `expert` with and without GPU."""
    config = yaml.safe_load((folder / "config/smoke.yaml").read_text())
    del config["tasks"]["letters"], config["models"]["stranger"], config["clip"]["datasets"]["dark"]
    config["tasks"]["chats"]["texts"] = [
        {"path": "config/smoke_tasks/chats.jsonl", "prompt": "question", "completion": "answer"}
    ]
    config["experts"] = {
        "sums": config["experts"]["sums"] | {"tasks": ["sums", "chats"]},
        "merged": {"base": "small", "merge": ["sums"]},
    }
    tuned = config["fusion"]["methods"]["tuned"] | {"experts": ["merged"], "tasks": ["sums"]}
    config["fusion"] |= {"shards": 1, "methods": {"tuned": tuned}}
    config["evaluate"] |= {"base": "tuned", "ceiling": "tuned"}
    alone = {"teachers": ["itself"], "uld": 0.3, "gld": 0.2, "k": 4}
    config["distill"] |= {"teachers": {"itself": {"model": "small"}}, "seeds": [0], "methods": {"gld": alone}}
    config["distill"] |= {"baseline": "gld", "cache": config["distill"]["cache"] | {"shards": 1}}
    config["clip"] |= {"shots": [1], "seeds": [0], "methods": {"amu": {"epochs": 1}}, "baselines": [], "oracle": []}
    (folder / "config/small.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return "config/small.yaml"


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
