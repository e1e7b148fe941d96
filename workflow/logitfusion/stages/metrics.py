"""Put all numbers of a run into one tidy table."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd

from logitfusion.evaluate.table import tabulate_fusion
from logitfusion.files import whole
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, config: dict[str, Any]) -> None:
    table = tabulate_fusion(
        {path.stem: pd.read_parquet(path) for path in arguments.judged},
        metrics=config["metrics"],
        seen=config["seen"],
        settings=config["evaluate"],
        labels={
            "run": config["run"],
            "seed": config["seed"],
            "split": config["split"],
            "config": hashlib.sha256(json.dumps(config["whole"], sort_keys=True).encode()).hexdigest()[:10],
            "commit": _commit(),
        },
    )
    with whole(arguments.csv) as temporary:
        table.to_csv(temporary, index=False)
    with whole(arguments.parquet) as temporary:
        table.to_parquet(temporary)
    logger.info("%d numbers of %d methods on %d tasks", len(table), table["method"].nunique(), len(arguments.judged))


def _commit() -> str:
    """The commit of the code, marked where files differ from it; ``unknown`` outside a checkout."""
    done = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judged", type=Path, nargs="+", required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--parquet", type=Path, required=True)
    run_stage(main, parser)
