"""Train the student once: one method, one seed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from logitfusion.config.jobs.distill import Answering, StudentJob
from logitfusion.config.loading import PRECISIONS
from logitfusion.config.prompting import TextFormat
from logitfusion.config.training import PLACEMENT
from logitfusion.distill.cache import TeacherCache
from logitfusion.distill.shard import hash_texts
from logitfusion.distill.sources import CachedSource, Source, open_online
from logitfusion.distill.student import train_student
from logitfusion.models.examples import Text
from logitfusion.provenance import fingerprint
from logitfusion.stages._stage import run_stage
from logitfusion.stages._texts import SplitTexts

if TYPE_CHECKING:
    from logitfusion.evaluate.measured import Measure


def main(arguments: argparse.Namespace, job: StudentJob) -> None:
    texts, held_out = SplitTexts(arguments.text, job.texts), SplitTexts(arguments.validation)
    decided_by = job.dump(exclude={"training": PLACEMENT}) | {"seed": arguments.seed}
    base, *_ = arguments.base
    read = [*arguments.base, *arguments.text, *arguments.validation, *arguments.caches, *arguments.teachers]
    train_student(
        base,
        texts,
        {name: _open_teacher(name, arguments, job, texts, held_out) for name in job.method.teachers},
        job.method,
        job.training,
        held_out=held_out,
        measure=_measure(arguments, job.answering, base),
        seed=arguments.seed,
        name=f"{arguments.name}, seed {arguments.seed}",
        output=arguments.output,
        checkpoints=arguments.checkpoints,
        fingerprint=fingerprint(decided_by, read),
        made_with=job.dump() | {"seed": arguments.seed},
    )


def _measure(arguments: argparse.Namespace, answering: Answering | None, base: Path) -> Measure | None:
    """What answers the tasks that the student is measured on; None where there are none."""
    if answering is None:
        return None
    from logitfusion.evaluate.measured import Measure  # the harness takes a second to import
    from logitfusion.models.load import load_tokenizer
    from logitfusion.tasks.documents import open_documents

    opened = {
        path.parent.name: open_documents(path, split="validation", **dict(answering.tasks[path.parent.name]))
        for path in arguments.documents
    }
    return Measure(opened, load_tokenizer(base), answering.prompting, answering.batch_size)


def _open_teacher(
    name: str, arguments: argparse.Namespace, job: StudentJob, texts: Iterable[Text], held_out: Iterable[Text]
) -> Source:
    """A teacher that reads online, or its cache, whose files are ``.../<teacher>/<shard>.safetensors``."""
    if name not in job.online:
        paths = [path for path in arguments.caches if path.parent.name == name]
        tokenizer = dict(zip(job.method.teachers, arguments.tokenizers, strict=False)).get(name)
        return CachedSource(TeacherCache(paths, {"data_hash": hash_texts(texts)}), tokenizer)
    entry = job.online[name]
    folder = next(path for path in arguments.teachers if path.name == entry.model)
    return open_online(
        name, folder, chain(texts, held_out), job.method, text_format=entry.part(TextFormat),
        max_tokens=entry.max_tokens, dtype=PRECISIONS[entry.precision],
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the method's name, for messages")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument(
        "--base", type=Path, nargs="+", required=True, help="the untrained student, and its base if it is an adapter"
    )
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="training splits")
    parser.add_argument("--validation", type=Path, nargs="*", default=[], help="validation splits to be measured on")
    parser.add_argument(
        "--documents", type=Path, nargs="*", default=[], help="of tasks to be measured on: .../<task>/documents"
    )
    parser.add_argument("--caches", type=Path, nargs="*", default=[], help="shards: .../<teacher>/<shard>.safetensors")
    parser.add_argument(
        "--teachers", type=Path, nargs="*", default=[], help="folders of those that read online, and of their bases"
    )
    parser.add_argument(
        "--tokenizers", type=Path, nargs="*", default=[], help="folders of all teachers, for terms that name tokens"
    )
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    run_stage(main, parser, StudentJob)
