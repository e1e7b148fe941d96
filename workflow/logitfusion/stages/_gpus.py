"""Jobs find GPUs on a machine with several: each leases as many cards as its rule asks for, before torch looks."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from logitfusion.cards import ORDER, VISIBLE, Card, cards_for, describe_shortage, jobs_per_card, visible_cards
from logitfusion.errors import UserError

GPUS = "LOGITFUSION_GPUS"  # how many the job has, from its rule
_leases: list[int] = []  # open files, whose locks end with the process


def lease_gpus() -> None:
    """Let this process see ``LOGITFUSION_GPUS`` cards that no other job of this user has; wait until they are free.

    Of the cards in ``CUDA_VISIBLE_DEVICES``, if that is set, as a cluster does for each job. Jobs that were all started
    with ``LOGITFUSION_JOBS_PER_GPU`` share cards, as many at a time as it says. Without ``LOGITFUSION_GPUS``, or on a
    machine without NVIDIA's driver, nothing happens.
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
    try:
        leased = _wait_for(count, cards, jobs_per_card())
    except UserError as error:
        sys.exit(str(error))
    os.environ[VISIBLE] = ",".join(card.name for card in leased)


def _wait_for(count: int, cards: Sequence[Card], jobs: int) -> list[Card]:
    """Lock a place on that many cards; never some while waiting for others, which could wait for these."""
    folder = Path(tempfile.gettempdir()) / f"logitfusion-gpus-{os.getuid()}-{os.environ.get('SLURM_JOB_ID', 'local')}"
    folder.mkdir(mode=0o700, exist_ok=True)
    parent, waiting = os.getppid(), False
    while len(chosen := _try_cards(folder, cards, count, jobs)) < count:
        if not waiting:
            print(f"waiting for {count} of {len(cards)} GPUs, which other jobs use", file=sys.stderr, flush=True)
        waiting = True
        time.sleep(1)
        if os.getppid() != parent:
            sys.exit("Stopped: Snakemake has ended.")
    _leases.extend(file for files in chosen.values() for file in files)
    return [card for card in cards if card in chosen]


def _try_cards(folder: Path, cards: Sequence[Card], count: int, jobs: int) -> dict[Card, list[int]]:
    """That many cards with a place that is free, each with its locked files; none if there are fewer.

    First places of all cards come before second ones, so jobs are spread over the cards.
    """
    chosen: dict[Card, list[int]] = {}
    for place, card in product(range(jobs), cards):
        if len(chosen) == count:
            break
        # By UUID: another call may have other numbers for the same card.
        if card not in chosen and (files := _try_place(folder / card.uuid.replace("/", "_"), place, jobs)):
            chosen[card] = files
    if len(chosen) == count:
        return chosen
    for files in chosen.values():
        _close(files)
    return {}


def _try_place(card: Path, place: int, jobs: int) -> list[int]:
    """Locked files: the card's, which jobs that share it lock together and others alone, and the place's; or none."""
    wanted = [(card, fcntl.LOCK_EX)]
    if jobs > 1:
        wanted = [(card, fcntl.LOCK_SH), (card.with_name(f"{card.name}.{place}"), fcntl.LOCK_EX)]
    locked: list[int] = []
    for path, kind in wanted:
        locked.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            fcntl.flock(locked[-1], kind | fcntl.LOCK_NB)
        except BlockingIOError:
            _close(locked)
            return []
    return locked


def _close(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)
