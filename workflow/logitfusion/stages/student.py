"""Train the student once: one method, one seed."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.config.jobs.distill import StudentJob
from logitfusion.config.training import Recipe, Training
from logitfusion.distill.cache import TeacherCache
from logitfusion.distill.encoding import encode_texts
from logitfusion.distill.shard import hash_texts
from logitfusion.distill.training import distill
from logitfusion.files import remove, whole
from logitfusion.models.identity import checksum_weights
from logitfusion.models.load import copy_tokenizer, describe, load_model, load_tokenizer, save_model, use_threads
from logitfusion.provenance import fingerprint, record
from logitfusion.stages._distill import read_texts
from logitfusion.stages._stage import logger, run_stage
from logitfusion.training.curve import write_curve
from logitfusion.training.loop import is_main_process, merge_adapters


def main(arguments: argparse.Namespace, job: StudentJob) -> None:
    use_threads()
    recipe = Recipe.model_validate(dict(job.training.part(Training)) | {"seed": arguments.seed})
    made_with = job.dump() | {"seed": arguments.seed}
    tokenizer = load_tokenizer(arguments.base)
    texts = read_texts(arguments.text, job.texts)
    caches = {
        # .../<teacher>/<shard>.safetensors
        name: TeacherCache(
            [path for path in arguments.caches if path.parent.name == name], expected={"data_hash": hash_texts(texts)}
        )
        for name in job.method.teachers
    }
    model, curve = distill(
        load_model(arguments.base),
        tokenizer,
        encode_texts(tokenizer, texts, max_tokens=recipe.max_tokens),
        caches,
        job.method,
        recipe,
        lora=job.training.lora if job.training.method == "lora" else None,
        checkpoints=arguments.checkpoints,
        fingerprint=fingerprint(made_with, [arguments.base, *arguments.text, *arguments.caches]),
        name=f"{arguments.name}, seed {arguments.seed}",
    )
    if not is_main_process():
        return
    model = merge_adapters(model, arguments.name)
    with whole(arguments.output) as folder:
        folder.mkdir()
        save_model(model, tokenizer, folder)
        copy_tokenizer(arguments.base, folder)
        facts = {"checksum": checksum_weights(folder), **describe(model)}
        record(folder / "record.json", made_with, **facts)
        write_curve(folder / "curve.csv", curve)
    remove(arguments.checkpoints)
    logger.info("%s: written", arguments.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the method's name, for messages")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--base", type=Path, required=True, help="the untrained student")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="training splits")
    parser.add_argument("--caches", type=Path, nargs="*", default=[], help="shards: .../<teacher>/<shard>.safetensors")
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    run_stage(main, parser, StudentJob)
