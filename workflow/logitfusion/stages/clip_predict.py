"""Predictions of all heads of a data set on its test images and those of its shifted sets, which no other job reads."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from logitfusion.clip.data.duplicates import count_learnt
from logitfusion.clip.features.pool import read_pool
from logitfusion.clip.predictions import EvaluationSet, predict
from logitfusion.config.jobs.clip import PredictJob
from logitfusion.files import whole
from logitfusion.provenance import record
from logitfusion.stages._heads import list_heads
from logitfusion.stages._protocol import add_protocol, keep_protocol
from logitfusion.stages._stage import logger, run_stage
from logitfusion.tables import write_table


def main(arguments: argparse.Namespace, job: PredictJob) -> None:
    keep_protocol(arguments)
    sets = [EvaluationSet(folder.name, folder, arguments.support) for folder in arguments.test]
    learnt = read_pool(arguments.support).digests
    known = {one.name: count_learnt(one.digests, learnt) for one in sets}
    for one in sets:
        if known[one.name]:
            logger.warning(
                "%s: %d of %d test images are support images too, to the byte: their answers were learnt",
                one.name, known[one.name], len(one.ids),
            )  # fmt: skip
    answers, epochs, fits = [], [], []
    for folder in arguments.heads:
        heads = list_heads(folder)
        for answered, kept, fit in predict(folder.name, heads, sets):
            answers.append(answered)
            epochs += kept
            fits.append(fit | {"settings": json.dumps(fit["settings"], sort_keys=True)})
        logger.info("%s: %d heads", folder.name, len(heads))
    tables = {
        "answers": pd.concat(answers, ignore_index=True),
        "epochs": pd.DataFrame(epochs, columns=["method", "shots", "seed", "set", "epoch", "accuracy"]),
        "fits": pd.DataFrame(fits),
        "images": pd.concat([one.images() for one in sets], ignore_index=True),
    }
    with whole(arguments.output) as output:
        output.mkdir()
        for name, table in tables.items():
            write_table(table, output / f"{name}.parquet")
        record(output / "stage.json", job.dump(), classes=list(sets[0].facts.classes), learnt=known)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--support", type=Path, required=True, help="folder of support features, for the classifier")
    parser.add_argument("--test", type=Path, nargs="+", required=True, help="folders of test features: .../<set>")
    parser.add_argument("--heads", type=Path, nargs="+", required=True, help="folders of heads: .../<method>")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    add_protocol(parser)
    run_stage(main, parser, PredictJob)
