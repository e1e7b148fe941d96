"""Put all numbers of a run into one tidy table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from logitfusion.evaluate.fewshot import tabulate_fewshot
from logitfusion.evaluate.students import tabulate_students
from logitfusion.evaluate.table import join_tables, tabulate_fusion
from logitfusion.files import whole
from logitfusion.provenance import find_commit, hash_json
from logitfusion.stages._stage import logger, run_stage
from logitfusion.tables import read_table


def main(arguments: argparse.Namespace, config: dict[str, Any]) -> None:
    labels = {
        "run": config["run"],
        "config": hash_json(config["whole"])[:10],
        "commit": find_commit(),
    }
    common = {"metrics": config["metrics"], "settings": config["evaluate"]}
    tables = []
    if arguments.judged:
        fusion = config["fusion"]
        tables.append(
            tabulate_fusion(
                _read(arguments.judged),
                seen=fusion["seen"],
                labels=labels | {"seed": config["seed"], "split": fusion["split"]},
                **common,
            )
        )
    if arguments.students:
        track = config["distill"]
        tables.append(
            tabulate_students(
                _read(arguments.students), track=track, labels=labels | {"split": track["split"]}, **common
            )
        )
    for folder in arguments.fewshot:
        track = config["clip"]
        parts = {part: read_table(folder / f"{part}.parquet") for part in ("answers", "epochs", "fits")}
        tables.append(
            tabulate_fewshot(
                **parts,
                sets=track["sets"][folder.name],
                track=track,
                settings=config["evaluate"],
                labels=labels | {"split": "test"},
            )
        )
    table = join_tables(tables)
    with whole(arguments.csv) as temporary:
        table.to_csv(temporary, index=False)
    with whole(arguments.parquet) as temporary:
        table.to_parquet(temporary)
    for track, group in table.groupby("track", sort=False):
        logger.info("%s: %d numbers of %d methods", track, len(group), group["method"].nunique())


def _read(paths: list[Path]) -> dict[str, pd.DataFrame]:
    """Task -> its judged examples."""
    return {path.stem: read_table(path) for path in paths}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judged", type=Path, nargs="*", default=[], help="fusion: .../<task>.parquet")
    parser.add_argument("--students", type=Path, nargs="*", default=[], help="distillation: .../<task>.parquet")
    parser.add_argument("--fewshot", type=Path, nargs="*", default=[], help="few-shot CLIP: .../<data set>")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--parquet", type=Path, required=True)
    run_stage(main, parser)
