"""Fused decoding and its solver against what a user would do otherwise, measured in the same run.

`make bench-fusion` runs it on the demo's models. `make bench-gpu` takes random weights of the papers' sizes in bf16
instead, made on the device (`--shapes`), and a teacher that reads texts (`--teachers`); `--dry-run` does all of that
with tiny models of the same structure.

Every round times each way once, one after the other; a ratio is of two times of one round. Tables give the median over
rounds and, in brackets, the least and the greatest.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from decoding.floor import Speed, measure_speed
from decoding.graphs import bench_graph
from decoding.measure import Fusion, bench_decoding, load_fusion, make_fusion
from decoding.plan import Predicted, predict_decoding, predict_reading
from decoding.reading import TEXTS, bench_reading
from decoding.sizes import SETTINGS, TEACHERS, Shape, make_model
from decoding.solver import BATCHES, SIZES, bench_solver
from decoding.tables import Row, as_markdown
from logitfusion.errors import first_line
from logitfusion.files import write_json, write_text
from timing import describe_machine, use_all_threads


def main() -> None:
    arguments = parse()
    transformers_logging.disable_progress_bar()
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    use_all_threads()
    speed = measure_speed(device, dtype)
    report: dict[str, Any] = {
        "machine": describe_machine(device),
        "rounds": arguments.rounds,
        "dtype": arguments.dtype if arguments.shapes or arguments.teachers else "float32",
        "speed": asdict(speed),
        "solver": [],
        "decoding": [],
        "graphs": [],
        "reading": [],
        "left out": [],
    }
    sizes = [(4, 320)] if arguments.dry_run else SIZES + (BATCHES if device.type == "cuda" else ())
    for rows, vocabulary in () if arguments.no_solver else sizes:
        report["solver"].append(bench_solver(rows, vocabulary, arguments.rounds, device, speed))
    measure_subjects(arguments, device, dtype, speed, report)
    save(report, arguments.output)
    print(as_markdown(report))
    if any("failed:" in words for words in report["left out"]):
        sys.exit("Something failed: see above.")


def measure_subjects(
    arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype, speed: Speed, report: dict[str, Any]
) -> None:
    """Fill the report; what is measured is saved at once, and stays whatever becomes of the rest."""
    begun = time.monotonic()
    for name, measure in subjects(arguments, device, dtype, speed):
        try:
            for kind, row in measure():
                report[kind].append(row)
                save(report, arguments.output)
                print(f"{name}, batch {row['batch']}: done after {time.monotonic() - begun:.0f} s", flush=True)
        except torch.OutOfMemoryError:
            report["left out"].append(f"{name} does not fit into the device's memory.")
        except Exception as error:
            traceback.print_exc()
            report["left out"].append(f"{name} failed: {first_line(error)}.")
        gc.collect()  # its models must not count to the next one's peak
        if device.type == "cuda":
            torch.cuda.empty_cache()


def save(report: dict[str, Any], path: Path) -> None:
    """As JSON, and as tables beside it."""
    write_json(path, report)
    write_text(path.with_suffix(".md"), as_markdown(report))


def subjects(
    arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype, speed: Speed
) -> Iterator[tuple[str, Callable[[], Iterator[tuple[str, Row]]]]]:
    """What is measured, by name: each gives the rows of its batches, and their kind."""

    def decode(make: Callable[[], Fusion], predicted: Predicted | None = None) -> Iterator[tuple[str, Row]]:
        fusion = make()
        for batch in arguments.batches:
            yield "decoding", bench_decoding(fusion, batch, arguments.rounds, arguments.tokens, speed, predicted)
            if fusion.graphs is not None:
                try:
                    row = bench_graph(fusion, batch, arguments.rounds)
                except RuntimeError as error:  # the other numbers are worth as much without it
                    print(f"{fusion.name}, batch {batch}, as CUDA graphs: {error}", file=sys.stderr)
                else:
                    yield "graphs", row

    def read(name: str, shape: Shape) -> Iterator[tuple[str, Row]]:
        teacher = make_model(shape, device, dtype, seed=0)
        for batch in arguments.batches:
            predicted = predict_reading(shape, arguments.dtype, TEXTS, arguments.text, batch)
            yield "reading", bench_reading(name, teacher, arguments.text, batch, arguments.rounds, speed, predicted)

    if not (arguments.shapes or arguments.teachers):
        for expert in arguments.experts if arguments.batches else ():
            yield expert, partial(decode, partial(load_fusion, arguments.results, expert, device))
    for name in arguments.shapes:
        setting = SETTINGS[name].shrunk() if arguments.dry_run else SETTINGS[name]
        make = partial(make_fusion, name, setting, device, dtype, arguments.prompt)
        yield name, partial(decode, make, predict_decoding(setting, arguments.dtype, graphs=device.type == "cuda"))
    for name in arguments.teachers:
        shape = TEACHERS[name].shrunk(TEACHERS[name].vocabulary) if arguments.dry_run else TEACHERS[name]
        yield name, partial(read, name, shape)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results/demo"), help="a finished run's folder")
    parser.add_argument("--experts", nargs="+", default=["common_knowledge"], help="experts of that run")
    parser.add_argument(
        "--shapes", nargs="*", choices=SETTINGS, default=[], help="random weights of these sizes instead"
    )
    parser.add_argument("--teachers", nargs="*", choices=TEACHERS, default=[], help="teachers that read texts")
    parser.add_argument("--dry-run", action="store_true", help="tiny models of the same structure, a round, few tokens")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="of random weights"
    )
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt, with random weights")
    parser.add_argument("--tokens", type=int, default=24, help="tokens that are made in each row")
    parser.add_argument("--text", type=int, default=512, help="tokens of a text that a teacher reads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-solver", action="store_true", help="leave out the solver alone")
    parser.add_argument("--output", type=Path, default=Path("results/bench/fusion.json"))
    arguments = parser.parse_args()
    if arguments.dry_run:
        arguments.rounds, arguments.batches = 1, [2]
        arguments.prompt, arguments.tokens, arguments.text = 6, 4, 16
    return arguments


if __name__ == "__main__":
    main()
