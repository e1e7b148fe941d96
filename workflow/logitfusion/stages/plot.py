"""Draw the plots of one rule, and write its summary table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from logitfusion.artefact import read_artefact
from logitfusion.config.section import Section, parse
from logitfusion.config.tracks import (
    FewShotReport,
    FusionReport,
    LossesReport,
    StudentsTrack,
    TracesReport,
    TuningReport,
)
from logitfusion.report.fewshot.ablation import plot_ablation
from logitfusion.report.fewshot.shift import plot_shift
from logitfusion.report.fewshot.shots import plot_shots
from logitfusion.report.fewshot.summary import write_fewshot_summary
from logitfusion.report.fewshot.uncertainty import plot_uncertainty
from logitfusion.report.fusion.methods import plot_methods, write_fusion_summary
from logitfusion.report.fusion.traces import plot_traces
from logitfusion.report.fusion.tuning import GatedTasks, TunedTask, Tuning, plot_tuning
from logitfusion.report.losses import plot_losses
from logitfusion.report.students import plot_student_losses, plot_students, write_students_summary
from logitfusion.stages._examples import read_predictions
from logitfusion.stages._stage import run_stage
from logitfusion.tables import read_table


def main(arguments: argparse.Namespace, _: Any) -> None:
    section, draw = PLOTS[arguments.what]
    draw(arguments, parse(section, arguments.config))


def _draw_table(track: str, *draw: Callable[..., None]) -> Callable[[argparse.Namespace, Section], None]:
    """Plots of one track's rows of the metrics table, an output each; the last one gets all outputs that are left."""

    def run(arguments: argparse.Namespace, section: Section) -> None:
        table = read_table(arguments.input[0])
        table = table[(table["track"] == track) & table["subtask"].isna()]
        outputs = arguments.output
        for one, path in zip(draw[:-1], outputs, strict=False):
            one(table, section, path)
        draw[-1](table, section, *outputs[len(draw) - 1 :])

    return run


def _draw_curves(draw: Callable[..., None]) -> Callable[[argparse.Namespace, Section], None]:
    """A plot of the loss curves in folders, by their names."""

    def run(arguments: argparse.Namespace, section: Section) -> None:
        draw({path.name: read_table(path / "curve.csv") for path in arguments.input}, section, arguments.output[0])

    return run


def _draw_traces(arguments: argparse.Namespace, section: TracesReport) -> None:
    plot_traces(read_table(arguments.input[0]), section, arguments.output[0])


def _draw_tuning(arguments: argparse.Namespace, section: TuningReport) -> None:
    found = {path.stem: read_artefact(path) for path in arguments.input}
    plot_tuning({name: read_tuning(found[name]) for name in section.methods}, arguments.output[0])


def read_tuning(tuned: dict[str, Any]) -> Tuning:
    """Task -> its candidates and the choice, which is its own or that of all tasks (``*``); a gate has ways instead."""
    compared = tuned["ways" if "gate" in tuned else "candidates"]
    choices = {group: tuned["chosen"].get(group, tuned["chosen"].get("*")) for group in compared}
    if "gate" in tuned:
        return {group: _read_ways(rows, choices[group]) for group, rows in compared.items()}
    return {
        task: TunedTask(pd.DataFrame(rows), choices[task]["trust"], choices[task]["anchor"])
        for task, rows in compared.items()
    }


def _read_ways(rows: list[dict[str, Any]], choice: dict[str, Any]) -> GatedTasks:
    """The ways of some tasks; the first that has the fixed weight of the choice, if any, was chosen."""
    chosen = next(row["way"] for row in rows if row.get("weights") == choice.get("weights"))
    return GatedTasks(pd.DataFrame(rows), chosen)


def _draw_answers(arguments: argparse.Namespace, section: FewShotReport) -> None:
    plot_uncertainty({path.name: read_predictions(path) for path in arguments.input}, section, arguments.output[0])


PLOTS: dict[str, tuple[type[Section], Callable[[argparse.Namespace, Any], None]]] = {
    "methods": (FusionReport, _draw_table("fusion", plot_methods, write_fusion_summary)),
    "traces": (TracesReport, _draw_traces),
    "tuning": (TuningReport, _draw_tuning),
    "losses": (LossesReport, _draw_curves(plot_losses)),
    "students": (StudentsTrack, _draw_table("distill", plot_students, write_students_summary)),
    "student_losses": (StudentsTrack, _draw_curves(plot_student_losses)),
    "fewshot": (FewShotReport, _draw_table("clip", plot_shots, plot_ablation, plot_shift, write_fewshot_summary)),
    "fewshot_answers": (FewShotReport, _draw_answers),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=PLOTS)
    parser.add_argument("--input", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, nargs="+", required=True)
    run_stage(main, parser, dict[str, Any])
