"""One GPU a job on a machine with several: each job leases as many cards as its rule asks for, before torch looks."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from logitfusion.cards import ORDER, VISIBLE, Card, cards_for, describe_shortage, visible_cards

GPUS = "LOGITFUSION_GPUS"  # how many the job has, from its rule
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
    visible = visible_cards()
    if not visible:
        return
    cards = cards_for(count, visible)
    if len(cards) < count:
        sys.exit(describe_shortage("The job", count, len(cards)))
    if not on_cluster:
        os.environ.setdefault(ORDER, "PCI_BUS_ID")  # nvidia-smi's, whose numbers these are
    os.environ[VISIBLE] = ",".join(card.name for card in _wait_for(count, cards))


def _wait_for(count: int, cards: Sequence[Card]) -> list[Card]:
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


def _try_locks(folder: Path, cards: Sequence[Card], count: int) -> dict[Card, int]:
    """That many free cards, each with its locked file; none if there are fewer."""
    locks: dict[Card, int] = {}
    for card in cards:
        if len(locks) == count:
            break
        # By UUID: another call may have other numbers for the same card.
        file = os.open(folder / card.uuid.replace("/", "_"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
