"""Download the data sets of a task of the hub, and write the record of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.artefact import write_artefact
from logitfusion.config.jobs.fetch import DataJob
from logitfusion.config.jobs.texts import TextsDataJob
from logitfusion.config.section import either
from logitfusion.stages._stage import logger, run_stage
from logitfusion.tasks.data import fetch_task
from logitfusion.tasks.hub_rows import fetch_texts


def main(arguments: argparse.Namespace, job: DataJob | TextsDataJob) -> None:
    if isinstance(job, TextsDataJob):
        fetched = fetch_texts(job.sources, arguments.revisions)
    else:
        fetched = fetch_task(
            job, train=job.train, validation=job.validation, shots=job.shots, revisions=arguments.revisions
        )
    write_artefact(arguments.output, fetched.dump())
    for part in fetched.parts:
        size = sum(file["size"] for file in part.rows.download["files"])
        told = arguments.task, part.source.dataset, part.source.subset or "", part.rows.download["commit"], size / 1e6
        logger.info("%s: %s %s at %s, %.1f MB, checked", *told)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True, help="its name, for messages")
    parser.add_argument("--revisions", type=Path, required=True, help="folder of the commits that branches were")
    parser.add_argument("--output", type=Path, required=True, help="record.json")
    run_stage(main, parser, either("sources", having=TextsDataJob, lacking=DataJob))
