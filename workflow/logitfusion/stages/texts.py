"""Draw the texts of a task from data sets and files: a training and a validation split."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.artefact import read_artefact
from logitfusion.config.texts import HubTexts, TextTask
from logitfusion.provenance import record
from logitfusion.stages._splits import record_splits
from logitfusion.stages._stage import run_stage
from logitfusion.tasks.hub_rows import FetchedTexts
from logitfusion.tasks.mixtures import write_mixture
from logitfusion.tasks.streaming import Source


def main(arguments: argparse.Namespace, task: TextTask) -> None:
    parts = read_artefact(arguments.fetched, FetchedTexts).parts if arguments.fetched else ()
    fetched = iter(part.rows for part in parts)
    sources = [Source(entry, next(fetched) if isinstance(entry, HubTexts) else None) for entry in task.texts]
    found = write_mixture(task, sources, arguments.train, arguments.validation, name=arguments.task)
    sizes = {"train": task.train, "validation": task.validation}
    files = record_splits(arguments.record, arguments.train, arguments.validation)
    record(arguments.record, task.dump(), files=files, sizes=sizes, sources=found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True, help="its name, for messages")
    parser.add_argument("--fetched", type=Path, help="the record of the files of its data sets of the hub")
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="its own files, as the config names them")
    for name in ("train", "validation", "record"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    run_stage(main, parser, TextTask)
