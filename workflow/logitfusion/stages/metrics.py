"""Put all numbers of a run into one tidy table."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from logitfusion.config.jobs.report import MetricsJob
from logitfusion.evaluate.fewshot import tabulate_fewshot
from logitfusion.evaluate.fusion import tabulate_fusion
from logitfusion.evaluate.scores import JudgedTask, read_judged
from logitfusion.evaluate.students import tabulate_students
from logitfusion.evaluate.table import Provenance
from logitfusion.provenance import find_commit
from logitfusion.stages._stage import logger, run_stage
from logitfusion.tables import read_table, write_table


def main(arguments: argparse.Namespace, job: MetricsJob) -> None:
    provenance = partial(_provenance, job, commit=find_commit())
    tables = []
    if arguments.judged:
        source = provenance(split=job.fusion.split, seed=job.seed)
        judged = _read(arguments.judged, arguments.scores)
        tables.append(tabulate_fusion(judged, job.fusion, job.evaluate, source))
    if arguments.students:
        source = provenance(split=job.distill.split)
        judged = _read(arguments.students, arguments.students_scores)
        tables.append(tabulate_students(judged, job.distill, job.evaluate, source))
    for folder in arguments.fewshot:
        source = provenance(split="test")
        parts = (read_table(folder / f"{part}.parquet") for part in ("answers", "epochs", "fits"))
        tables.append(tabulate_fewshot(*parts, job.clip.sets[folder.name], job.clip, job.evaluate, source))
    table = pd.concat(tables, ignore_index=True)
    write_table(table, arguments.csv)
    write_table(table, arguments.parquet)
    for track, group in table.groupby("track", sort=False):
        logger.info("%s: %d numbers of %d methods", track, len(group), group["method"].nunique())


def _provenance(job: MetricsJob, **facts: Any) -> Provenance:
    """What the numbers of a track come from; only those of a test split confirm or explore anything."""
    protocol = job.protocol if facts["split"] == "test" else None
    return Provenance(run=job.run, config=job.config, protocol=protocol, **facts)


def _read(examples: list[Path], scores: list[Path]) -> dict[str, JudgedTask]:
    """Task -> its judged documents and the harness's numbers."""
    numbers = {path.stem: path for path in scores}
    return {path.stem: read_judged(path, numbers[path.stem]) for path in examples}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judged", type=Path, nargs="*", default=[], help="fusion: .../<task>.parquet")
    parser.add_argument("--scores", type=Path, nargs="*", default=[], help="fusion: .../<task>.json")
    parser.add_argument("--students", type=Path, nargs="*", default=[], help="distillation: .../<task>.parquet")
    parser.add_argument("--students_scores", type=Path, nargs="*", default=[], help="distillation: .../<task>.json")
    parser.add_argument("--fewshot", type=Path, nargs="*", default=[], help="few-shot CLIP: .../<data set>")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--parquet", type=Path, required=True)
    run_stage(main, parser, MetricsJob)
