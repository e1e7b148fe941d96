"""Calls of Snakemake in a copied checkout, to their end or at work, and what they leave behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from checkout import heed_ctrl_c
from safetensors.torch import load_file

CONFIG = ("--configfile", "config/faults.yaml")
RESULTS = Path("results/faults")
EXPERT, STUDENT = f"{RESULTS}/experts/ceiling", f"{RESULTS}/distill/students/gld.0"  # the trainings
TARGETS = (f"{RESULTS}/metrics.csv", f"{RESULTS}/plots/losses.svg", f"{RESULTS}/plots/methods.svg")


def environment(**changes: str) -> dict[str, str]:
    """This Python's packages, the checkout's own code, one thread."""
    values = os.environ | {"OMP_NUM_THREADS": "1"} | changes
    values["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{values['PATH']}"
    values.pop("PYTHONPATH", None)
    return values


@contextlib.contextmanager
def at_work(folder: Path, *arguments: str, prefix: tuple[str, ...] = (), **changes: str) -> Iterator[subprocess.Popen]:
    """`snakemake --profile local` in the background, as a process group of its own, gone at the end."""
    command = [
        *prefix,
        sys.executable,
        "-m",
        "snakemake",
        *arguments,
        "--profile",
        "local",
        "--cores",
        "2",
        "--nocolor",
    ]
    with (folder.parent / "said.txt").open("w") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(**changes), stdout=said, stderr=said, start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def call(folder: Path, *arguments: str, prefix: tuple[str, ...] = (), **changes: str) -> tuple[int, str]:
    """The exit code of a call, and all that the user saw."""
    with at_work(folder, *arguments, prefix=prefix, **changes) as process:
        return finish(process, folder)


def finish(process: subprocess.Popen, folder: Path) -> tuple[int, str]:
    return process.wait(timeout=600), (folder.parent / "said.txt").read_text()


def wait_for(true: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    """The first true value of a function, asked often."""
    end = time.monotonic() + seconds
    while not (value := true()):
        if time.monotonic() > end:
            raise TimeoutError(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(0.02)
    return value


def find_stage(name: str, folder: Path) -> psutil.Process | None:
    """The process of a stage that works in a checkout."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if f"logitfusion.stages.{name}" in process.cmdline() and process.cwd() == str(folder):
                return process
    return None


def has_loaded(library: str, process: psutil.Process) -> bool:
    """Whether a process has a shared library of that name in memory."""
    return any(library in part.path for part in process.memory_maps())


def hold_after_a_checkpoint(name: str, folder: Path, checkpoints: Path) -> psutil.Process:
    """Stop a training's process once it has a whole checkpoint, so that no machine is too fast for a test."""
    stage = wait_for(lambda: find_stage(name, folder), f"the stage {name}")
    wait_for(lambda: list((folder / checkpoints).glob("checkpoint-*/trainer_state.json")), "a checkpoint")
    stage.suspend()
    return stage


def write_config(
    folder: Path, name: str, change: Callable[[dict[str, Any]], None], source: str = "smoke.yaml"
) -> tuple[str, str]:
    """A changed copy of a config, as the option that names it."""
    config = yaml.safe_load((folder / "config" / source).read_text())
    change(config)
    (folder / "config" / name).write_text(yaml.safe_dump(config, sort_keys=False))
    return "--configfile", f"config/{name}"


def copy_run(folder: Path, target: Path) -> Path:
    """A checkout with its results, times and Snakemake's notes included."""
    return shutil.copytree(folder, target, symlinks=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def errors(log: Path) -> list[str]:
    """The sentences that a stage's log tells the user."""
    return [line.split(" ERROR ", 1)[1] for line in log.read_text(errors="replace").splitlines() if " ERROR " in line]
