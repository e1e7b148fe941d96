"""One GPU a job on a machine with several: each job leases as many cards as its rule asks for, before torch looks."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

GPUS = "LOGITFUSION_GPUS"  # how many the job has, from its rule
VISIBLE = "CUDA_VISIBLE_DEVICES"
_leases: list[int] = []  # open files, whose locks end with the process


def lease_gpus() -> None:
    """Let this process see ``LOGITFUSION_GPUS`` cards that no other job of this user has; wait until they are free.

    Of the cards in ``CUDA_VISIBLE_DEVICES``, if that is set, as a cluster does for each job. Without the variable, or
    on a machine without NVIDIA's driver, nothing happens.
    """
    count = int(os.environ.pop(GPUS, -1))  # not for the processes that this one starts
    on_cluster = "SLURM_JOB_ID" in os.environ  # a site may give GPUs in words that the rule does not know
    if count < 0 or (count == 0 and on_cluster):
        return
    if count == 0:
        os.environ[VISIBLE] = ""
        return
    cards = visible_cards()
    if not cards:
        return
    if len(cards) < count:
        sys.exit(f"The job asks for {count} GPUs and sees {len(cards)}; lower the number of processes in the config.")
    os.environ[VISIBLE] = ",".join(_wait_for(count, cards))


def visible_cards() -> list[str]:
    """The cards that this process may use, by number or by name, in CUDA's words."""
    if VISIBLE in os.environ:
        return list(dict.fromkeys(card.strip() for card in os.environ[VISIBLE].split(",") if card.strip()))
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def _wait_for(count: int, cards: Sequence[str]) -> list[str]:
    """Lock that many cards; never some while waiting for others, which could wait for these."""
    folder = Path(tempfile.gettempdir()) / f"logitfusion-gpus-{os.getuid()}-{os.environ.get('SLURM_JOB_ID', 'local')}"
    folder.mkdir(mode=0o700, exist_ok=True)
    parent, waiting = os.getppid(), False
    while len(chosen := _try_locks(folder, cards, count)) < count:
        if not waiting:
            print(f"waiting for {count} of {len(cards)} GPUs, which other jobs use", file=sys.stderr, flush=True)
        waiting = True
        time.sleep(1)
        if os.getppid() != parent:
            sys.exit("Stopped: Snakemake has ended.")
    _leases.extend(chosen.values())
    return list(chosen)


def _try_locks(folder: Path, cards: Sequence[str], count: int) -> dict[str, int]:
    """that many free cards, each with its locked file; none if there are fewer."""
    locks: dict[str, int] = {}
    for card in cards:
        if len(locks) == count:
            break
        file = os.open(folder / card.replace("/", "_"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks[card] = file
        except BlockingIOError:
            os.close(file)
    if len(locks) == count:
        return locks
    for file in locks.values():
        os.close(file)
    return {}
