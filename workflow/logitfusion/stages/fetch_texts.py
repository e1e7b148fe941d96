"""Download the files of the data sets of the hub that a task's texts are from, and write the record of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.config.jobs.texts import FetchTextsJob
from logitfusion.files import write_json
from logitfusion.stages._stage import logger, run_stage
from logitfusion.tasks.hub_rows import FetchedPart, FetchedTexts, fetch_rows


def main(arguments: argparse.Namespace, job: FetchTextsJob) -> None:
    parts = [FetchedPart(source=rows, rows=fetch_rows(rows, arguments.revisions)) for rows in job.sources]
    write_json(arguments.output, FetchedTexts(parts=tuple(parts)).dump())
    for part in parts:
        size = sum(file["size"] for file in part.rows.download["files"])
        told = arguments.task, part.source.dataset, part.rows.download["commit"], size / 1e6
        logger.info("%s: %s at %s, %.1f MB, checked", *told)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True, help="its name, for messages")
    parser.add_argument("--revisions", type=Path, required=True, help="folder of the commits that branches were")
    parser.add_argument("--output", type=Path, required=True, help="record.json")
    run_stage(main, parser, FetchTextsJob)
