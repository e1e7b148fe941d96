"""Cache a teacher's top-k predictions of one shard of the training texts."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.config.jobs.distill import TeacherJob
from logitfusion.config.loading import PRECISIONS, Loading
from logitfusion.distill.encoding import encode_texts, name_template
from logitfusion.distill.offline import cache_teacher
from logitfusion.distill.shard import hash_texts, read_manifest
from logitfusion.files import remove, whole
from logitfusion.models.forward import check_texts
from logitfusion.models.identity import hash_model, hash_tokenizer, hash_vocabulary
from logitfusion.models.load import load_tokenizer, use_threads
from logitfusion.progress.pace import Rate
from logitfusion.shards import shard_range
from logitfusion.stages._models import Models
from logitfusion.stages._stage import logger, run_stage
from logitfusion.stages._texts import SplitTexts


def main(arguments: argparse.Namespace, job: TeacherJob) -> None:
    use_threads()
    texts = SplitTexts(arguments.text, job.texts)
    folder, *_ = arguments.model
    tokenizer = load_tokenizer(folder)
    encoded = encode_texts(tokenizer, texts, template=job.template, system=job.system, max_tokens=job.max_tokens)
    model = (
        Models({arguments.teacher: folder}, Loading(dtype=PRECISIONS[job.precision])).open([arguments.teacher]).large
    )
    check_texts(model, (text.ids for text in encoded), f"teacher {arguments.teacher!r}", "the cache's max_tokens")
    for finished in arguments.checkpoints.glob("*.safetensors"):
        remove(finished)  # an earlier job was killed between writing it and handing it over
    mine = shard_range(len(encoded), arguments.shard, job.shards)
    rate = Rate(arguments.teacher, "response tokens", int(encoded.labels[mine.start : mine.stop].sum()))
    (path,) = cache_teacher(
        model,
        encoded,
        arguments.checkpoints,
        source={
            "model_hash": hash_model(folder),
            "tokenizer_hash": hash_tokenizer(folder),
            "vocabulary_hash": hash_vocabulary(tokenizer),
            "template": name_template(job.template, job.system),
            "data_hash": hash_texts(texts),
            "max_tokens": job.max_tokens,
        },
        k=job.k,
        batch_size=job.batch_size,
        rounding=job.rounding,
        shards=job.shards,
        only=[arguments.shard + 1],
        on_batch=rate,
    )
    facts = [read_manifest(path)[name] for name in ("texts", "tokens", "bytes_per_token")]
    with whole(arguments.output) as temporary:
        path.replace(temporary)
    remove(arguments.checkpoints)
    logger.info("%s: %d texts, %d tokens, %d bytes a token", arguments.teacher, *facts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", required=True, help="its name, for messages")
    parser.add_argument(
        "--model", type=Path, nargs="+", required=True, help="the teacher's folder, and its base's if it is an adapter"
    )
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="training splits")
    parser.add_argument("--shard", type=int, required=True, help="from 0 on")
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    run_stage(main, parser, TeacherJob)
