"""What the distillation losses and a teacher's cache cost, against what a user would do otherwise: `make bench-gld`.

All data is made up. The parts, each with its table, are in the folder `distillation`; `--parts` runs some of them.
Every round times each way once, one after the other; a ratio is of two times of one round. Tables give the median over
rounds and, in brackets, the least and the greatest. All of it takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distillation import cache, codec, gradient, losses, memory, pot, scaling, side_by_side
from logitfusion.files import write_json, write_text
from timing import describe_machine, use_all_threads, words

PARTS = {
    "losses": losses,
    "scaling": scaling,
    "memory": memory,
    "peers": side_by_side,
    "pot": pot,
    "cache": cache,
    "codec": codec,
    "gradient": gradient,
}


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        losses: positions, V and k.
        lengths, ks, scaled_at: of the scaling; the L at which k is varied, the k at which L is, and V.
        memory: positions, V, k and type of the logits.
        peers: positions, V and k of what other libraries compute as well.
        nodes, pot_seconds: of the graphs that POT gets, and how long it may take.
        caches, texts, tokens: V and k of the caches, their texts and tokens of each.
        codecs, coded: V and k of the predictions that codecs are given, and how many.
        model: hidden size, layers and vocabulary of the model that makes a training step.
    """

    losses: tuple[tuple[int, int, int], ...]
    lengths: tuple[int, ...]
    ks: tuple[int, ...]
    scaled_at: tuple[int, int, int]
    memory: tuple[tuple[int, int, int, torch.dtype], ...]
    peers: tuple[tuple[int, int, int], ...]
    nodes: tuple[int, ...]
    pot_seconds: float
    caches: tuple[tuple[int, int], ...]
    texts: int
    tokens: int
    codecs: tuple[tuple[int, int], ...]
    coded: int
    model: tuple[int, int, int]


FULL = Sizes(
    losses=tuple((*size, k) for size in ((512, 32_000), (512, 49_152), (64, 262_144)) for k in (10, 32)),
    lengths=(64, 128, 256, 512, 1024, 2048, 4096),
    ks=(5, 10, 20, 40, 80, 160),
    scaled_at=(512, 10, 16_384),
    memory=(
        (128, 49_152, 10, torch.float32),
        (512, 49_152, 10, torch.float32),
        (512, 49_152, 128, torch.float32),
        (64, 262_144, 10, torch.float32),
        (512, 49_152, 10, torch.bfloat16),
    ),
    peers=((128, 49_152, 128), (64, 262_144, 128)),
    nodes=(100, 200, 400, 800),
    pot_seconds=60,
    caches=tuple((vocabulary, k) for vocabulary in (49_152, 262_144) for k in (10, 32, 50, 128)),
    texts=200,
    tokens=100,
    codecs=((49_152, 50), (49_152, 128), (262_144, 50)),
    coded=1_000,
    model=(576, 8, 49_152),
)
QUICK = Sizes(
    losses=((16, 2_000, 5), (4, 3_000, 5)),
    lengths=(8, 16, 32),
    ks=(2, 4, 8),
    scaled_at=(16, 4, 1_000),
    memory=((16, 2_000, 5, torch.float32), (16, 2_000, 5, torch.bfloat16)),
    peers=((16, 2_000, 5),),
    nodes=(20, 40),
    pot_seconds=5,
    caches=((2_000, 10), (70_000, 50)),
    texts=10,
    tokens=20,
    codecs=((2_000, 50),),
    coded=50,
    model=(192, 2, 2_000),
)


def as_markdown(report: dict[str, Any]) -> str:
    lines, goals = [], []
    for name, part in PARTS.items():
        if name in report:
            lines += [*part.table(report[name]), "", words(report), ""]
            goals += part.targets(report[name]) if hasattr(part, "targets") else []
    if goals:
        lines += ["| target | measured, worst median | met |", "| --- | --- | --- |"]
        lines += [f"| {what} | {value:.3g} | {'yes' if met else 'no'} |" for what, value, met in goals]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs: numbers mean nothing")
    parser.add_argument("--output", type=Path, default=Path("results/bench/gld.json"))
    for name in ("TRL", "DistillKit"):
        help_text = f"a checkout of {name}, to compare with; else what is installed"
        parser.add_argument(f"--{name.lower()}", type=Path, metavar="FOLDER", help=help_text)
    parser.add_argument(
        "--teachers",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="models whose predictions codecs are given",
    )
    arguments = parser.parse_args()
    use_all_threads()
    checkouts = {name: getattr(arguments, name.lower()) for name in ("TRL", "DistillKit")}
    device, rounds = torch.device(arguments.device), arguments.rounds
    sizes = QUICK if arguments.quick else FULL
    measures: dict[str, Callable[[], Any]] = {
        "losses": lambda: losses.measure(sizes.losses, rounds, device),
        "scaling": lambda: scaling.measure(sizes.lengths, sizes.ks, sizes.scaled_at, rounds, device),
        "memory": lambda: memory.measure(sizes.memory, device),
        "peers": lambda: side_by_side.measure(sizes.peers, rounds, device, checkouts),
        "pot": lambda: pot.measure(sizes.nodes, sizes.pot_seconds, rounds),
        "cache": lambda: cache.measure(sizes.caches, sizes.texts, sizes.tokens, sizes.model, rounds, device),
        "codec": lambda: codec.measure(sizes.codecs, sizes.coded, rounds, checkouts["DistillKit"], arguments.teachers),
        "gradient": gradient.measure,
    }
    report: dict[str, Any] = {"machine": describe_machine(device), "rounds": rounds}
    report |= {name: measure() for name, measure in measures.items() if name in arguments.parts}
    write_json(arguments.output, report)
    write_text(arguments.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


if __name__ == "__main__":
    main()
