"""Decoding, losses, a teacher's cache and probes beside other people's code, in one run: `make bench-peers`.

Their code is run from folders that are named on the command line, and never changed; what is not named is left out,
with a word on how to fetch it. To add a peer: its repository in `beside/checkouts.py`, and a file in `beside` (or a
function in one that is there) that gives `Comparison`s.

Both sides run in one process, one after the other in every round, in processor time. Parts that are not asked for
(`--parts`) stay in the result as they are, with the commit and machine that they are of.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

import gld
from beside import comparison, decoding, probes
from beside.checkouts import DISTILLKIT, REPOSITORIES, TRL
from beside.comparison import CPU, Comparison
from distillation import codec, side_by_side
from logitfusion.files import write_json, write_text
from timing import describe_machine, use_all_threads, words


def main() -> None:
    arguments = parse()
    transformers_logging.disable_progress_bar()
    use_all_threads()
    checkouts = {one.name: getattr(arguments, one.variable.lower()) for one in REPOSITORIES}
    missing = [said for one in REPOSITORIES if (said := one.missing(checkouts[one.name]))]
    report = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    for name, part in parts(arguments, checkouts).items():
        origin = {"machine": describe_machine(CPU), "rounds": arguments.rounds, "cores": os.cpu_count()}
        before, found, after = os.getloadavg()[0], part(), os.getloadavg()[0]
        report[name] = {"found": found, **origin, "load": [before, after]}
        write_json(arguments.output, report)
        write_text(arguments.output.with_suffix(".md"), as_markdown(report))
    print("\n".join([as_markdown(report), *missing]))


def parts(arguments: argparse.Namespace, checkouts: dict[str, Path | None]) -> dict[str, Callable[[], Any]]:
    """Those that were asked for."""
    sizes = gld.QUICK if arguments.quick else gld.FULL
    probed = [(3, 4)] if arguments.quick else [(10, 16), (100, 16)]
    rounds = arguments.rounds

    def rows(found: list[Comparison]) -> list[dict[str, Any]]:
        return [asdict(row) for row in found]

    def decode() -> list[dict[str, Any]]:
        options = (arguments.results, arguments.expert, arguments.batches, arguments.tokens, rounds)
        return rows(decoding.measure(*options, checkouts["proxy-tuning"]))

    makers: dict[str, Callable[[], Any]] = {
        "decoding": decode,
        "losses": lambda: side_by_side.measure(
            sizes.peers[:1], rounds, CPU, {name: checkouts[name] for name in (TRL.name, DISTILLKIT.name)}
        ),
        "codec": lambda: codec.measure(
            sizes.codecs[:1], sizes.coded, rounds, checkouts[DISTILLKIT.name], arguments.teachers
        ),
        "probes": lambda: rows(probes.measure(probed, rounds, checkouts["CLIP_benchmark"])),
    }
    return {name: makers[name] for name in arguments.parts}


def as_markdown(report: dict[str, Any]) -> str:
    """Each part's table, and where its numbers are from."""
    pieces = []
    for name in (name for name in PARTS if name in report):
        part = report[name]
        load = f"load of {part['cores']} cores {part['load'][0]:.1f} before, {part['load'][1]:.1f} after."
        pieces += ["\n".join(TABLES[name](part["found"])), f"{words(part)} Processor time; {load}"]
    return "\n\n".join(pieces) + "\n"


def compared(rows: list[dict[str, Any]]) -> list[str]:
    return comparison.table([Comparison(**row) for row in rows])


TABLES: dict[str, Callable[[Any], list[str]]] = {
    "decoding": compared,
    "losses": side_by_side.table,
    "codec": codec.table,
    "probes": compared,
}
PARTS = tuple(TABLES)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--results", type=Path, default=Path("results/demo"), help="a finished run's folder")
    parser.add_argument("--expert", default="common_knowledge", help="of that run, whose task gives the prompts")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=16, help="tokens that are made in each row")
    parser.add_argument(
        "--teachers", type=Path, nargs="+", default=[], metavar="FOLDER", help="whose predictions codecs are given"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs: numbers mean nothing")
    parser.add_argument("--output", type=Path, default=Path("results/bench/peers.json"))
    for one in REPOSITORIES:
        parser.add_argument(f"--{one.option}", type=Path, metavar="FOLDER", help=f"{one.name}, at {one.commit[:7]}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
