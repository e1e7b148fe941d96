"""Freeze a comparison: write down what decides its answers, before its test splits are decoded."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfusion.cli._inputs import be_quiet
from logitfusion.cli._outputs import claim_outputs
from logitfusion.errors import UserError

if TYPE_CHECKING:
    from logitfusion.config.run import RunConfig
    from logitfusion.protocol.frozen import FrozenComparison, FrozenRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write what decides the answers of a comparison's runs into the file that their config names (protocol.frozen),"
        " to be committed before a test split is decoded. Runs that the file holds already stay. Refused once a test"
        " split was decoded."
    )
    parser.add_argument(
        "configs", metavar="CONFIG", type=Path, nargs="+",
        help="a config file that names its run; or, after one, a file whose values replace those before it, as with"
        " snakemake's --configfile",
    )  # fmt: skip
    parser.add_argument(
        "--config", metavar="KEY=VALUE", nargs="+", action="extend", default=[],
        help="values of top-level keys (run, seed) that replace the files', as with snakemake's --config",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    be_quiet()
    from logitfusion.protocol.frozen import freeze_comparison, freeze_run, read_frozen, write_frozen
    from logitfusion.protocol.records import read_decoded, records_folder

    runs = read_runs(arguments.configs, read_values(arguments.config))
    comparison, path = _find_comparison(runs)
    claim_outputs({"protocol.frozen": path}, {"CONFIG": arguments.configs})
    former = read_frozen(path) if path.exists() else freeze_comparison(comparison, {})
    if former.comparison != comparison:
        raise UserError(f"{path} freezes the comparison {former.comparison!r}; name another file in protocol.frozen.")
    new = former.runs | {one.run: freeze_run(one) for one in runs}
    told = {name: _tell(former.runs.get(name), one) for name, one in new.items()}
    decoded = read_decoded(records_folder(comparison))
    explored = former.explored | {one.run: one.date for one in decoded if one.exploratory}
    dates = [one.date for one in decoded if not one.exploratory]
    if any(told.values()):
        _refuse_decoded(comparison, dates)
    if any(told.values()) or (explored != former.explored and not dates):
        former = freeze_comparison(comparison, new, explored)
        write_frozen(path, former)
    print(_report(path, former, told))


def read_values(pairs: Sequence[str]) -> dict[str, Any]:
    """The values of ``["seed=1", ...]``, read as YAML."""
    from logitfusion.formats.yaml import parse_yaml

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"--config {pair!r} is not a top-level key with a value; write it as KEY=VALUE.")
        values[key] = parse_yaml(text, f"--config {key}")
    return values


def read_runs(configs: Sequence[Path], given: Mapping[str, Any]) -> list[RunConfig]:
    """The runs of some files: one that names its run begins a run, another one replaces values of it."""
    from logitfusion.config.command_line import read_run
    from logitfusion.config.load import load_config
    from logitfusion.config.tasks import check_inputs

    groups: list[list[Path]] = []
    for path in configs:
        if not groups or read_run(path) is not None:
            groups.append([])
        groups[-1].append(path)
    runs = [load_config(*group, given=given) for group in groups]
    for one in runs:
        check_inputs(one.tasks)
    names = [one.run for one in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"Two of the configs are of the run {twice[0]!r}; give each run once.")
    return runs


def _find_comparison(runs: Sequence[RunConfig]) -> tuple[str, Path]:
    """Name and file of the comparison that all runs are of."""
    from logitfusion.config.jobs.protocol import tested_tracks

    for one in runs:
        if one.protocol is None:
            raise UserError(
                f"The config of the run {one.run!r} has no section protocol: name its comparison and the file that"
                " freezes it there."
            )
        if not tested_tracks(one):
            raise UserError(f"The run {one.run!r} decodes no test split, so there is nothing to freeze.")
    first = runs[0].protocol
    for one in runs:
        if (one.protocol.comparison, one.protocol.frozen) != (first.comparison, first.frozen):
            raise UserError(
                f"The runs {runs[0].run!r} and {one.run!r} name different comparisons or files in protocol; freeze"
                " them one by one."
            )
    return first.comparison, Path(first.frozen)


def _tell(former: FrozenRun | None, new: FrozenRun) -> str:
    """What is another about a run than was frozen before; empty where nothing is."""
    from logitfusion.protocol.frozen import first_difference

    if former is None:
        return "new"
    found = first_difference(former, new)
    if found is None:
        return ""
    return f"changed, first {found.key}: {found.second} (before {found.first})"


def _refuse_decoded(comparison: str, dates: Sequence[str]) -> None:
    if dates:
        raise UserError(
            f"A test split of the comparison {comparison!r} was decoded on {dates[0]}, so what is frozen stays: give"
            " another configuration another name (protocol.comparison), or set protocol.exploratory: true."
        )


def _report(path: Path, frozen: FrozenComparison, told: Mapping[str, str]) -> str:
    """What is frozen now, and what to do."""
    runs = [f"  {name}: {told[name] or 'unchanged'}" for name in sorted(frozen.runs)]
    seen = [
        f"The test split of {name} had been decoded as exploratory on {date}; the file says so."
        for name, date in sorted(frozen.explored.items())
    ]
    head = f"{path} freezes the comparison {frozen.comparison} ({frozen.digest[:12]}):"
    return "\n".join([head, *runs, *seen, "Commit it; then its test splits may be decoded."])
