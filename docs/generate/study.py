"""Store the study in docs/results and write its page: ``python docs/generate/study.py results`` ends ``make study``.

``study.json`` says how it was made, ``study.csv`` has every number of its runs, ``study_<track>.csv`` what
``logitfusion compare`` made of them.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from generate import readme, stored, study_page, study_picture
from generate.stored import FOLDER
from logitfusion.errors import UserError
from logitfusion.files import read_json, write_json
from logitfusion.progress.record import read_records
from logitfusion.tables import write_table

COMMAND = "make study"
LONGER = "make study-converged"
# Track -> its runs, of which those that differ in their seed alone are compared together.
RUNS = {
    "fusion": ("study0", "study1", "study2"),
    "distill": ("study_distill",),
    "converged": ("study_converged",),
    "clip": ("study_fewshot",),
}
# What `logitfusion compare` made of them: a table for each track, and the few comparisons that were the aim, alone.
TABLES = (*RUNS, "goals")


@dataclass(frozen=True)
class Study:
    """How the study was made, and its comparisons.

    Attributes:
        facts: what ``study.json`` holds.
        compared: name in ``TABLES`` -> the table, of those tracks that were run.
    """

    facts: dict[str, Any]
    compared: dict[str, pd.DataFrame]


def collect(results: Path, folder: Path) -> None:
    """Keep the facts and the numbers of all runs that are there.

    Raises:
        UserError: there is none, or one is not finished.
    """
    found = [results / name for names in RUNS.values() for name in names if (results / name).is_dir()]
    if not found:
        raise UserError(f"{results} has no run of the study; call {COMMAND}.")
    runs = [stored.collect(run) for run in found]
    told = [asdict(one.facts) | _surroundings(place) for one, place in zip(runs, found, strict=True)]
    commands = [COMMAND] + [LONGER for run in RUNS["converged"] if (results / run).is_dir()]
    write_json(folder / "study.json", {"commands": commands, "runs": told})
    table = pd.concat([one.table for one in runs], ignore_index=True)
    write_table(table.round(6), folder / "study.csv")


def _surroundings(run: Path) -> dict[str, Any]:
    """The machine of a run, and the versions that its stages wrote down."""
    records = read_records(run / "runs", most=1)
    kept = sorted(run.glob("*/*/record.json")) + sorted(run.glob("clip/data/*/record.json"))
    versions = {name: version for path in kept for name, version in read_json(path).get("versions", {}).items()}
    return {"machine": asdict(records[0].machine) if records else None, "versions": versions}


def read(folder: Path = FOLDER) -> Study:
    """The study that was kept."""
    tables = {name: folder / f"study_{name}.csv" for name in TABLES}
    return Study(
        read_json(folder / "study.json"),
        {name: pd.read_csv(path) for name, path in tables.items() if path.is_file()},
    )


def main(results: Path, folder: Path = FOLDER) -> None:
    """Store the study, and write what shows it."""
    collect(results, folder)
    study = read(folder)
    study_picture.draw(study.compared, folder / "study.svg")
    study_page.write(study.facts, study.compared, folder / "study.md")
    readme.write_study(study.compared)
    print(f"Stored the study in {folder} and README.md")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
