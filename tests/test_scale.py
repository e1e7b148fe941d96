"""A study of the size that the papers have: planned in seconds, with no job more than needed."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT, copy_checkout, snakemake

pytestmark = pytest.mark.workflow

SETS = ["imagenet", "caltech101", "oxford_pets", "stanford_cars", "flowers102", "food101", "fgvc_aircraft", "sun397"]
SETS += ["dtd", "eurosat", "ucf101"]
HEADS = ["zero_shot", "clip_probe", "logit_sum", "tip_adapter", "tip_adapter_f", "gda", "taskres", "amu"]
TASKS = [f"task{number}" for number in range(5)]
EXPERTS = [f"expert{number}" for number in range(8)]


def study() -> dict[str, Any]:
    """11 data sets, 5 numbers of shots, 3 seeds, 8 methods; 8 experts, each of which steers alone, on 5 tasks."""
    letters = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())["tasks"]["letters"]
    return {
        "run": "scale",
        "models": {"large": {"source": "random"}, "small": {"source": "random"}},
        "tasks": {task: letters | {"train": 8, "validation": 2, "test": 2} for task in TASKS},
        "experts": {expert: {"base": "small", "tasks": TASKS} for expert in EXPERTS},
        "fusion": {
            "large": "large",
            "base": "small",
            "methods": {"large": {"model": "large"}} | {expert: {"experts": [expert]} for expert in EXPERTS},
        },
        "evaluate": {"ceiling": "large"},
        "clip": {
            "encoder": {"source": "random"},
            "auxiliaries": {"moco": {"source": "checkpoint", "model": "resnet50", "path": "m", "pretraining": "words"}},
            "datasets": {name: {"source": "torchvision", "name": name, "root": "data"} for name in SETS},
            "shots": [1, 2, 4, 8, 16],
            "seeds": [0, 1, 2],
            "methods": {name: {} for name in HEADS},
        },
    }


def test_a_study_is_planned_in_seconds_with_no_job_more_than_needed(tmp_path: Path) -> None:
    """Shots and seeds are loops in a job, and so are the methods of a task; loading costs more than they do."""
    folder = copy_checkout(tmp_path)
    (folder / "config/scale.yaml").write_text(yaml.safe_dump(study(), sort_keys=False))
    started = time.monotonic()
    done = snakemake(folder, "--configfile", "config/scale.yaml", "--dry-run", "--quiet", "rules")
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)}
    plots = ["plot_losses", "plot_methods", "plot_clip", "plot_clip_answers"]
    expected = {
        "model": 2,
        "task": len(TASKS),
        "expert": len(EXPERTS),
        "decode": len(TASKS),
        "evaluate": len(TASKS),
        "plot_traces": len(TASKS),
        "clip_encoder": 1,
        **dict.fromkeys(("clip_data", "clip_support", "clip_test", "clip_predict"), len(SETS)),
        "clip_fit": len(SETS) * len(HEADS),
        **dict.fromkeys(("fetch", *plots, "metrics", "index", "all"), 1),
    }
    assert jobs == expected | {"total": sum(expected.values())}
    assert seconds < 60, "3 on two cores with little else to do"
