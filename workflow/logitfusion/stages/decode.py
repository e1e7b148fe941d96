"""Decode one shard of every task's examples with one method."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.jobs.fusion import DecodeJob
from logitfusion.config.keywords import read_options
from logitfusion.errors import UserError
from logitfusion.files import read_json, read_jsonl, write_jsonl
from logitfusion.fusion import FusedLM, Generation
from logitfusion.fusion.ends import folder_ends
from logitfusion.models.load import use_threads
from logitfusion.models.vocabulary import load_shared_tokenizer
from logitfusion.progress.pace import Rate
from logitfusion.shards import shard_range
from logitfusion.stages._models import Models
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, job: DecodeJob) -> None:
    logger.info("decoding %d tasks on %d threads", len(job.tasks), use_threads())
    write_jsonl(arguments.output, _decode_tasks(arguments, job))


def _decode_tasks(arguments: argparse.Namespace, job: DecodeJob) -> Iterator[dict[str, Any]]:
    folders = {path.name: path for path in arguments.models}
    models = Models(folders, job.loading)
    splits = {path.parent.name: path for path in arguments.examples}
    tuned = read_json(arguments.tuned)["chosen"] if arguments.tuned else {}
    for task, entry in job.tasks.items():
        missing = {task} - splits.keys() | set(entry.models) - folders.keys()
        if missing:
            raise UserError(
                f"Decoding {task!r} needs {', '.join(sorted(missing))}, which the command line does not give."
            )
    shared = {
        names: load_shared_tokenizer([folders[name] for name in names])
        for names in {entry.models for entry in job.tasks.values()}
    }
    ends = {names: folder_ends(folders[name] for name in names) for names in shared}
    examples = {task: read_jsonl(splits[task]) for task in job.tasks}
    mine = {task: shard_range(len(rows), arguments.shard, job.shards) for task, rows in examples.items()}
    rate = Rate("all tasks", "examples", sum(map(len, mine.values())))
    for task, entry in job.tasks.items():
        lm = FusedLM(
            *models.open(entry.models),
            tokenizer=shared[entry.models].tokenizer,
            entries=shared[entry.models].entries,
            options=read_options(FusionOptions, dict(job.options) | choice_for(task, tuned)),
            ends=ends[entry.models],
        )
        yield from _decode_shard(lm, task, examples[task], mine[task], job, rate)


def choice_for(task: str, tuned: dict[str, dict[str, float]]) -> dict[str, float]:
    """Trust, anchor and familiar, as chosen for a task, or for all tasks."""
    chosen = tuned.get(task) or tuned.get("*") or {}
    return {key: chosen[key] for key in ("trust", "anchor", "familiar") if key in chosen}


def _decode_shard(
    lm: FusedLM, task: str, examples: list[dict[str, Any]], chosen: range, job: DecodeJob, rate: Rate
) -> Iterator[dict[str, Any]]:
    """Rows of the shard's examples: the text, and each token with its weights and the expert that steered it."""
    options = job.decoding.complete(
        max_new_tokens=job.tasks[task].max_new_tokens,
        stop=job.tasks[task].stop,
        seed=job.decoding.seed + chosen.start,
        speculative=job.decoding.speculative and bool(lm.experts),
    )
    started = time.monotonic()
    generations = lm.generate(
        [examples[number]["prompt"] for number in chosen],
        options,
        on_batch=rate,
    )
    seconds = time.monotonic() - started
    tokens = sum(len(generation.token_ids) for generation in generations)
    logger.info("%s: %d tokens in %.1f s, %.1f tokens/s", task, tokens, seconds, tokens / max(seconds, 1e-9))
    for number, generation in zip(chosen, generations, strict=True):
        # The shard's time is spread evenly: examples of a batch share their seconds.
        yield _row(task, examples[number]["id"], generation, lm.tokenizer, seconds / len(chosen))


def _row(task: str, number: int, generation: Generation, tokenizer: Any, seconds: float) -> dict[str, Any]:
    return {
        "task": task,
        "id": number,
        "text": generation.text,
        "tokens": [tokenizer.decode([token]) for token in generation.token_ids],
        "token_ids": generation.token_ids,
        "weights": generation.weights,
        "expert": generation.expert,
        "finish_reason": generation.finish_reason,
        "seconds": seconds,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=Path, nargs="+", required=True, help="splits: .../<task>/<split>.jsonl")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders of all models, named by model")
    parser.add_argument("--shard", type=int, required=True)
    parser.add_argument("--tuned", type=Path, help="what the stage tune chose")
    parser.add_argument("--output", type=Path, required=True)
    run_stage(main, parser, DecodeJob)
