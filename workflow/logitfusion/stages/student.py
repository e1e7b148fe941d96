"""Train the student once: one method, one seed."""

from __future__ import annotations

import argparse
from itertools import zip_longest
from pathlib import Path

from logitfusion.config.jobs.distill import StudentJob
from logitfusion.config.training import PLACEMENT
from logitfusion.distill.cache import TeacherCache
from logitfusion.distill.shard import hash_texts
from logitfusion.distill.sources import CachedSource
from logitfusion.distill.student import train_student
from logitfusion.provenance import fingerprint
from logitfusion.stages._stage import run_stage
from logitfusion.stages._texts import read_texts


def main(arguments: argparse.Namespace, job: StudentJob) -> None:
    texts = read_texts(arguments.text, job.texts)
    expected = {"data_hash": hash_texts(texts)}
    teachers = {
        # .../<teacher>/<shard>.safetensors
        name: CachedSource(
            TeacherCache([path for path in arguments.caches if path.parent.name == name], expected), tokenizer=folder
        )
        for name, folder in zip_longest(job.method.teachers, arguments.tokenizers)
    }
    decided_by = job.dump(exclude={"training": PLACEMENT}) | {"seed": arguments.seed}
    base, *_ = arguments.base
    train_student(
        base,
        texts,
        teachers,
        job.method,
        job.training,
        seed=arguments.seed,
        name=f"{arguments.name}, seed {arguments.seed}",
        output=arguments.output,
        checkpoints=arguments.checkpoints,
        fingerprint=fingerprint(decided_by, [*arguments.base, *arguments.text, *arguments.caches]),
        made_with=job.dump() | {"seed": arguments.seed},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the method's name, for messages")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument(
        "--base", type=Path, nargs="+", required=True, help="the untrained student, and its base if it is an adapter"
    )
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="training splits")
    parser.add_argument("--caches", type=Path, nargs="*", default=[], help="shards: .../<teacher>/<shard>.safetensors")
    parser.add_argument(
        "--tokenizers", type=Path, nargs="*", default=[], help="folders of all teachers, for terms that name tokens"
    )
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    run_stage(main, parser, StudentJob)
