"""Predictions of all heads of a data set on its test images and those of its shifted sets, which no other job reads."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from logitfusion.clip.predictions import EvaluationSet, predict
from logitfusion.files import whole
from logitfusion.provenance import record
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, config: dict[str, Any]) -> None:
    sets = [EvaluationSet(folder.name, folder, arguments.support) for folder in arguments.test]
    answers, epochs, fits = [], [], []
    for folder in arguments.heads:
        for answered, kept, fit in predict(folder.name, sorted(folder.glob("*.safetensors")), sets):
            answers.append(answered)
            epochs += kept
            fits.append(fit | {"settings": json.dumps(fit["settings"], sort_keys=True)})
        logger.info("%s: %d heads", folder.name, len(list(folder.glob("*.safetensors"))))
    tables = {
        "answers": pd.concat(answers, ignore_index=True),
        "epochs": pd.DataFrame(epochs, columns=["method", "shots", "seed", "set", "epoch", "accuracy"]),
        "fits": pd.DataFrame(fits),
        "images": pd.concat([one.images() for one in sets], ignore_index=True),
    }
    with whole(arguments.output) as output:
        output.mkdir()
        for name, table in tables.items():
            table.to_parquet(output / f"{name}.parquet")
        record(output / "stage.json", config, classes=sets[0].facts["classes"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--support", type=Path, required=True, help="folder of support features, for the classifier")
    parser.add_argument("--test", type=Path, nargs="+", required=True, help="folders of test features: .../<set>")
    parser.add_argument("--heads", type=Path, nargs="+", required=True, help="folders of heads: .../<method>")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    run_stage(main, parser)
