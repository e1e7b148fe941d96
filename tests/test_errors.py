"""Whose memory ran out, in whoever's words."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkout import ROOT, rules_with

from logitfusion.config.clip import Clip
from logitfusion.config.distill import Cache, StudentTraining
from logitfusion.config.fusion import Fusion
from logitfusion.errors import find_memory_error
from logitfusion.stages._memory import advise


def fail_to_allocate() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)  # more than any address space has
    return caught.value


def test_torch_without_memory_is_known_by_what_it_says_today() -> None:
    assert find_memory_error(fail_to_allocate()) == "machine"


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_the_machines_memory_is_known(error: Exception) -> None:
    outer = ValueError("could not load")
    outer.__cause__ = error
    assert find_memory_error(error) == find_memory_error(outer) == "machine"


def test_the_gpus_memory_is_known() -> None:
    assert find_memory_error(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")) == "gpu"


@pytest.mark.parametrize("error", [None, ValueError("no"), OSError(errno.ENOSPC, "No space left on device")])
def test_other_errors_are_not_about_memory(error: Exception | None) -> None:
    assert find_memory_error(error) is None


# ---- what a stage says of it ----------------------------------------------------------------------------------------

RULES = "\n".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
STAGES = sorted(re.search(rf'^rule {rule}:.*?stage\(\s*"(\w+)"', RULES, re.M | re.S)[1] for rule in rules_with("gpu="))


@pytest.mark.parametrize("stage", sorted(set(STAGES)))
def test_every_stage_that_has_a_gpu_says_what_to_change(stage: str) -> None:
    keys = re.findall(r"(\w+): \w+", advise(stage, "gpu")) + re.findall(
        r"(?:lower|raise) ([\w.]+)", advise(stage, "gpu")
    )
    assert keys
    fields = {name for section in (Clip, Cache, StudentTraining, Fusion) for name in section.model_fields}
    assert {key.removeprefix("cache.") for key in keys} <= fields
    assert "mem_mb" in advise(stage, "machine")


def test_a_stage_that_runs_out_of_memory_ends_with_its_sentence(tmp_path: Path) -> None:
    work = """
import argparse, torch
from logitfusion.stages._stage import run_stage

def main(arguments, job):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

run_stage(main, argparse.ArgumentParser())
"""
    (tmp_path / "decode.py").write_text(work)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    command = [sys.executable, tmp_path / "decode.py", "--config", "{}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"ERROR {advise('decode', 'gpu')}")
    assert "batch_size: auto" in done.stderr
