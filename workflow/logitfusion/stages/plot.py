"""Draw one plot, or write the summary table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from logitfusion.clip.data import load_data
from logitfusion.clip.data.images import thumbnail
from logitfusion.files import read_json
from logitfusion.report.clip import (
    plot_ablation,
    plot_shift,
    plot_shots,
    plot_uncertainty,
    write_examples,
    write_fewshot_summary,
)
from logitfusion.report.losses import plot_losses
from logitfusion.report.methods import plot_methods, write_summary
from logitfusion.report.students import plot_student_losses, plot_students, write_students_summary
from logitfusion.report.traces import plot_traces
from logitfusion.report.tuning import plot_tuning
from logitfusion.stages._stage import run_stage
from logitfusion.tables import read_table


def main(arguments: argparse.Namespace, config: dict[str, Any]) -> None:
    first = arguments.output[0]
    if "teachers" in config:
        config["teachers"] = dict(config["teachers"])
    match arguments.what:
        case "methods":
            table = _track(arguments.input[0], "fusion")
            plot_methods(table, config["methods"], config["base"], config["ceiling"], first)
        case "summary":
            write_summary(_track(arguments.input[0], "fusion"), config["methods"], config["seen"], *arguments.output)
        case "traces":
            title = f"Weights along the first examples of {config['task']}"
            plot_traces(read_table(arguments.input[0]), dict(config["experts"]), config["examples"], title, first)
        case "losses":
            curves = {path.name: read_table(path / "curve.csv") for path in arguments.input}
            plot_losses({name: curve for name, curve in curves.items() if len(curve)}, set(config["healed"]), first)
        case "tuning":
            plot_tuning({path.stem: read_json(path) for path in arguments.input}, first)
        case "students":
            plot_students(_track(arguments.input[0], "distill"), config, first)
        case "students_summary":
            write_students_summary(_track(arguments.input[0], "distill"), config, *arguments.output)
        case "student_losses":
            plot_student_losses({path.name: read_table(path / "curve.csv") for path in arguments.input}, config, first)
        case "fewshot":
            config["methods"] = dict.fromkeys(config["methods"], "amu")
            config["sets"] = dict(config["sets"])
            table = _track(arguments.input[0], "clip")
            shots, ablation, shift, *tables = arguments.output
            plot_shots(table, config, shots)
            plot_ablation(table, config, ablation)
            plot_shift(table, config, shift)
            write_fewshot_summary(table, config, *tables)
        case "fewshot_answers":
            config["methods"] = dict.fromkeys(config["methods"], "amu")
            config["sets"] = dict(config["sets"])
            answers, images, classes = _read_answers(arguments.input)
            plot_uncertainty(answers, images, config, first)
            pictures = _Pictures(arguments.data)
            write_examples(answers, images, pictures, config | {"classes": classes}, arguments.output[1])


def _read_answers(
    folders: list[Path],
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame], dict[str, list[str]]]:
    """Answers, images and classes of each data set, from .../<data set>."""
    tables = [{f.name: read_table(f / f"{part}.parquet") for f in folders} for part in ("answers", "images")]
    return *tables, {folder.name: read_json(folder / "stage.json")["classes"] for folder in folders}


class _Pictures:
    """Small PNGs of images, by data set and id, from the sets' tables."""

    def __init__(self, tables: list[Path]) -> None:
        self.rows = {path.parent.name: {row.id: row for row in load_data(path).test} for path in tables}

    def __call__(self, name: str, image: str) -> bytes | None:
        return thumbnail(self.rows[name][image], 64)


def _track(path: Path, track: str) -> pd.DataFrame:
    """One track's rows of the metrics table."""
    table = read_table(path)
    return table[table["track"] == track]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    # fmt: off
    parser.add_argument("what", choices=[
        "methods", "summary", "traces", "losses", "tuning", "students", "students_summary", "student_losses",
        "fewshot", "fewshot_answers",
    ])
    # fmt: on
    parser.add_argument("--input", type=Path, nargs="+", required=True)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="few-shot data sets: .../<set>/<file>")
    parser.add_argument("--images", type=Path, nargs="*", help="the folders that the tables' images are in")
    parser.add_argument("--output", type=Path, nargs="+", required=True)
    run_stage(main, parser)
