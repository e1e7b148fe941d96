"""Compare the methods of finished runs: differences paired over examples and trainings, corrected for their number."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfusion.cli._options import add_options, read_section
from logitfusion.cli._outputs import claim_outputs
from logitfusion.config.section import Listed, Section, number
from logitfusion.files import write_json, write_text

if TYPE_CHECKING:
    from logitfusion.evaluate.compare import Comparison
    from logitfusion.evaluate.run_tables import RunTables


class Compared(Section):
    """What is compared: to be chosen before the numbers are seen."""

    baseline: Listed[str] = ()
    """Rivals; left out, the best fixed weight, the large model alone, the paper's rule, and the config's baselines."""
    method: Listed[str] = ()
    """Methods that are compared with the rivals; left out, all but ceilings and models that were not trained."""
    task: Listed[str] = ()
    """Tasks and averages of tasks; left out, all."""
    power: number(gt=0.5, lt=1) = 0.8
    """Probability with which the smallest difference that is told would be shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare the methods of finished runs of one config, which differ in name and seed only: each method's"
        " difference to rivals, paired over test examples and trainings, with Holm's correction over all comparisons of"
        " a table, and the smallest difference that so many examples and trainings would show."
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run's folder, or its name in results")
    add_options(parser, Compared)
    parser.add_argument("--csv", metavar="FILE.csv", type=Path, help="write one row a track, task, method and rival")
    parser.add_argument("--json", metavar="FILE.json", type=Path, help="the same, with the runs and what was asked")


def run(arguments: argparse.Namespace) -> None:
    asked = read_section(Compared, arguments)
    from logitfusion.cli._finished_run import find_run, read_run

    folders = list(map(find_run, arguments.runs))
    claim_outputs({"--csv": arguments.csv, "--json": arguments.json}, {"RUN": folders})
    from logitfusion.cli._comparison_text import write_comparison
    from logitfusion.evaluate.compare import compare_runs

    runs = list(map(read_run, folders))
    comparison = compare_runs(runs, baselines=asked.baseline, methods=asked.method, tasks=asked.task, power=asked.power)
    print(", ".join(f"{one.config.run} (seed {one.config.seed})" for one in runs))
    if len({one.commit for one in runs}) > 1:
        commits = ", ".join(f"{one.config.run} by {one.commit}" for one in runs)
        print(f"Other code may be another training: their numbers were made by different commits ({commits}).")
    print()
    print(write_comparison(comparison))
    if arguments.csv is not None:
        write_text(arguments.csv, comparison.table().to_csv(index=False))
    if arguments.json is not None:
        write_json(arguments.json, {"runs": _describe(runs), "asked": asked.dump(), "rows": _rows(comparison)})


def _describe(runs: list[RunTables]) -> list[dict[str, Any]]:
    return [
        {"run": one.config.run, "seed": one.config.seed, "config": one.digest, "commit": one.commit} for one in runs
    ]


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    table = comparison.table().astype(object)
    return table.where(table.notna(), None).to_dict("records")
