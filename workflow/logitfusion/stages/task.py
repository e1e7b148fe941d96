"""Make a task's documents and the texts that are learnt from."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from logitfusion.artefact import read_artefact
from logitfusion.config.jobs.models import TaskJob
from logitfusion.files import write_jsonl
from logitfusion.provenance import record
from logitfusion.stages._splits import record_splits
from logitfusion.stages._stage import logger, run_stage
from logitfusion.tasks.data import FetchedTask
from logitfusion.tasks.definition import local_packages
from logitfusion.tasks.documents import write_documents
from logitfusion.tasks.prepare import cut_task, make_texts, read_task


def main(arguments: argparse.Namespace, job: TaskJob) -> None:
    fetched = read_artefact(arguments.fetched, FetchedTask) if arguments.fetched else None
    with tempfile.TemporaryDirectory() as scratch:
        folders, loaded = read_task(
            job, shots=job.shots, scratch=Path(scratch), fetched=fetched, wheels=_find_wheels(arguments, job)
        )
        cut = cut_task(job, loaded, arguments.task)
        texts = {"train": list(make_texts(cut.train)), "validation": list(make_texts(cut.validation))}
        write_documents(arguments.documents, job.harness, folders, loaded, cut, shots=job.shots)
    for name, rows in texts.items():
        write_jsonl(getattr(arguments, name), rows)
    sizes = {"test": len(cut.test), "validation": len(cut.validation), "train": len(cut.train)}
    for name, size in sizes.items():
        logger.info("%s: %d %s documents", arguments.task, size, name)
    if cut.left_out:
        logger.info("%s: %d documents left out, whose prompt is one of these", arguments.task, cut.left_out)
    commits = sorted({part.rows.download["commit"] for part in fetched.parts}) if fetched else []
    files = record_splits(arguments.record, arguments.train, arguments.validation)
    facts = {"tasks": list(loaded["tasks"]), "sizes": sizes, "left_out": cut.left_out, "commits": commits}
    record(arguments.record, job.dump(), files=files, **facts)


def _find_wheels(arguments: argparse.Namespace, job: TaskJob) -> dict[str, str]:
    """SHA-256 -> the package; names of downloaded packages end with the beginning of their digest."""
    named = {path.stem.rpartition("-")[2]: str(path) for path in arguments.package}
    digests = [part["sha256"] for part in local_packages(job.harness, job.include_path)]
    return {digest: named[digest[:8]] for digest in digests if digest[:8] in named}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True, help="its name, for messages")
    parser.add_argument("--package", type=Path, nargs="*", default=[], help="downloaded packages that hold documents")
    parser.add_argument("--files", type=Path, nargs="*", help="files of this machine that the task is made of")
    parser.add_argument("--fetched", type=Path, help="the record of what was downloaded of the hub")
    parser.add_argument("--documents", type=Path, required=True, help="folder of the documents that are evaluated")
    for name in ("train", "validation", "record"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    run_stage(main, parser, TaskJob)
