"""Times of several ways to do the same, on one machine: every round times each way once, one after the other."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch


def time_rounds(
    ways: dict[str, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each way in each round, after one unmeasured round, and what each way returned."""
    made = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            synchronise(device)
            start = clock()
            way()
            synchronise(device)
            seconds[name].append(clock() - start)
    return seconds, made


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(
    seconds: dict[str, list[float]], reference: str | None = None, over: list[float] | None = None
) -> dict[str, list[float]]:
    below = seconds[reference] if reference is not None else over
    return {
        name: [value / other for value, other in zip(values, below, strict=True)] for name, values in seconds.items()
    }


def spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def describe_machine(device: torch.device) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or "unknown",
    }


def use_all_threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1)


def words(report: dict[str, Any]) -> str:
    """What numbers mean and where they are from, below a table."""
    machine = report["machine"]
    return (
        f"Median [least, greatest] of {report['rounds']} rounds; {machine['device']}, {machine['threads']} threads,"
        f" torch {machine['torch']}, commit {machine['commit']}."
    )
