"""Train the student once: one method, one seed."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.config.jobs.distill import StudentJob
from logitfusion.config.training import PLACEMENT, Recipe, Training
from logitfusion.distill.cache import TeacherCache
from logitfusion.distill.encoding import encode_texts
from logitfusion.distill.shard import hash_texts
from logitfusion.distill.sources import CachedSource
from logitfusion.distill.training import distill
from logitfusion.files import remove
from logitfusion.models.load import load_tokenizer, use_threads
from logitfusion.provenance import fingerprint
from logitfusion.stages._stage import logger, run_stage
from logitfusion.stages._texts import read_texts
from logitfusion.stages._trained import write_trained
from logitfusion.training.batches import is_main_process
from logitfusion.training.weights import load_trainee


def main(arguments: argparse.Namespace, job: StudentJob) -> None:
    use_threads()
    recipe = Recipe.model_validate(dict(job.training.part(Training)) | {"seed": arguments.seed})
    made_with = job.dump() | {"seed": arguments.seed}
    decided_by = job.dump(exclude={"training": PLACEMENT}) | {"seed": arguments.seed}
    base, *_ = arguments.base
    tokenizer = load_tokenizer(base)
    texts = read_texts(arguments.text, job.texts)
    expected = {"data_hash": hash_texts(texts)}
    teachers = {
        # .../<teacher>/<shard>.safetensors
        name: CachedSource(TeacherCache([path for path in arguments.caches if path.parent.name == name], expected))
        for name in job.method.teachers
    }
    model, curve = distill(
        load_trainee(base, job.training),
        tokenizer,
        encode_texts(tokenizer, texts, template=recipe.template, system=recipe.system, max_tokens=recipe.max_tokens),
        teachers,
        job.method,
        recipe,
        lora=job.training.lora if job.training.method == "lora" else None,
        checkpoints=arguments.checkpoints,
        fingerprint=fingerprint(decided_by, [*arguments.base, *arguments.text, *arguments.caches]),
        name=f"{arguments.name}, seed {arguments.seed}",
    )
    if not is_main_process():
        return
    write_trained(arguments.output, model, tokenizer, base, made_with, curve)
    remove(arguments.checkpoints)
    logger.info("%s: written", arguments.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the method's name, for messages")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument(
        "--base", type=Path, nargs="+", required=True, help="the untrained student, and its base if it is an adapter"
    )
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="training splits")
    parser.add_argument("--caches", type=Path, nargs="*", default=[], help="shards: .../<teacher>/<shard>.safetensors")
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    run_stage(main, parser, StudentJob)
