"""The NVIDIA cards of this machine: which of them jobs may use, and how its cores are shared out among them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from logitfusion.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
JOBS = "LOGITFUSION_JOBS_PER_GPU"  # how many may share a card at a time; 1 where it is not set
# "GPU 0: NVIDIA H100 (UUID: GPU-...)"; under a card that is cut, "  MIG 1g.10gb Device 0: (UUID: MIG-...)".
_LISTED = re.compile(r"^(?:GPU (?P<number>\d+)|\s+MIG \S+ +Device +\d+):.*\(UUID: (?P<uuid>[^)]+)\)")
_PATIENCE = 120.0  # seconds; a driver that is broken may never answer


@dataclass(frozen=True)
class Card:
    """A card, or a slice (MIG) of one.

    Attributes:
        name: what ``CUDA_VISIBLE_DEVICES`` calls it: its number or UUID.
        uuid: the same for a card whatever it is called; its name where nvidia-smi does not know it.
    """

    name: str
    uuid: str


def visible_cards() -> tuple[Card, ...]:
    """The cards that this process may use: of those in ``CUDA_VISIBLE_DEVICES`` if it is set, else all; maybe none."""
    listed = _list_cards() if os.environ.get(VISIBLE, "all").strip() else {}
    if VISIBLE not in os.environ:
        return tuple({card.uuid: card for card in listed.values()}.values())
    names: list[str] = []
    for name in (part.strip() for part in os.environ[VISIBLE].split(",")):
        absent = name.isdigit() and listed and name not in listed
        if not name or name.startswith("-") or name == "NoDevFiles" or absent:  # CUDA sees none of those that follow
            break
        names.append(name)
    cards = (_identify(name, listed) for name in names)
    return tuple({card.uuid: card for card in cards}.values())


def _identify(name: str, listed: dict[str, Card]) -> Card:
    """A card by what the user calls it: a number, a UUID, or the beginning of one."""
    if name in listed:
        return Card(name, listed[name].uuid)
    alike = [card.uuid for card in listed.values() if card.uuid.startswith(name) and not name.isdigit()]
    return Card(name, alike[0] if len(alike) == 1 else name)


def _list_cards() -> dict[str, Card]:
    """Number of a card, or UUID of a slice -> it; by the number of a card that is cut CUDA finds its first slice."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=_PATIENCE
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    cards: dict[str, Card] = {}
    whole = None
    for line in said.splitlines():
        found = _LISTED.match(line)
        if found is None:
            continue
        if found["number"] is not None:
            whole = found["number"]
            cards[whole] = Card(whole, found["uuid"])
        else:
            if whole in cards and not cards[whole].uuid.startswith("MIG-"):
                cards[whole] = Card(whole, found["uuid"])
            cards[found["uuid"]] = Card(found["uuid"], found["uuid"])
    return cards


def jobs_per_card() -> int:
    """How many jobs may share a card at a time, as the user says.

    Raises:
        UserError: it is not a whole number of at least 1.
    """
    said = os.environ.get(JOBS, "1").strip()
    if not said.isdecimal() or int(said) < 1:
        raise UserError(f"{JOBS} is {said!r}: it is how many jobs may share a GPU, a whole number of at least 1.")
    return int(said)


def share_cores(cores: int, jobs: int) -> int:
    """The threads of a job, so that as many as find a place on the cards, and at least two, compute at the same time.

    Two even where there is one card or none: one job starting up, writing or decoding leaves the other at work.
    """
    return max(1, cores // max(2, jobs))


def cards_for(count: int, cards: Sequence[Card]) -> list[Card]:
    """The cards among which a job of so many finds its own: for several whole ones, as CUDA shows one slice at most."""
    return [card for card in cards if count < 2 or not card.uuid.startswith("MIG-")]


def describe_shortage(job: str, asked: int, most: int) -> str:
    """The sentence about a job that asks for more cards than it can ever get."""
    return (
        f"{job} asks for {asked} GPUs and can get {most} here: lower its `gpus` or `processes` in the config, or"
        " give it more (CUDA_VISIBLE_DEVICES, `resources: gpu`)."
    )
