"""Read or unpack a few-shot data set: the table of its images."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from logitfusion.clip.data import read_data, save_data
from logitfusion.clip.data.found import left_out_lines
from logitfusion.config.datasets import DataSet
from logitfusion.provenance import record
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, entry: DataSet) -> None:
    arguments.images.mkdir(parents=True, exist_ok=True)
    data = read_data(entry.dump(), package=arguments.package, folder=arguments.images)
    counts = {part: Counter(row.label for row in rows) for part, rows in (("train", data.train), ("test", data.test))}
    sizes = {
        part: {name: counted[label] for label, name in enumerate(data.classes)} for part, counted in counts.items()
    }
    record(arguments.record, entry.dump(), split=data.split, images=sizes)
    save_data(data, arguments.table)
    logger.info(
        "%s: %d classes, %d images to learn from, %d to test on, split %s",
        arguments.dataset, len(data.classes), len(data.train), len(data.test), data.split,
    )  # fmt: skip
    for line in left_out_lines(data.left_out):
        logger.warning("%s: %s", arguments.dataset, line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="its name, for messages")
    parser.add_argument("--package", type=Path, help="the fetched package that holds the images")
    parser.add_argument("--images", type=Path, required=True, help="folder that images are unpacked to")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    run_stage(main, parser, DataSet)
