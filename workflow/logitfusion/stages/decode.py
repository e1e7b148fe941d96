"""Decode one shard of a task's test examples with one method."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from logitfusion.files import read_jsonl, write_jsonl
from logitfusion.fusion import FusedLM
from logitfusion.models.load import use_threads
from logitfusion.stages._stage import logger, run_stage


def shard_range(examples: int, shard: int, shards: int) -> range:
    """The examples of one shard: contiguous, sizes differing by at most one."""
    return range(examples * shard // shards, examples * (shard + 1) // shards)


def main(arguments: argparse.Namespace, config: dict[str, Any]) -> None:
    threads = use_threads()
    examples = read_jsonl(arguments.examples)
    chosen = shard_range(len(examples), arguments.shard, config["shards"])
    method, decoding = config["method"], config["decoding"]
    options = {key: method[key] for key in ("weights", "rule", "selection", "bounds", "step") if key in method}
    if "bounds" in options:
        options["bounds"] = tuple(options["bounds"])
    large, *others = arguments.models
    lm = FusedLM.from_folders(large, others[0] if others else None, others[1:], **options)
    logger.info("decoding examples %d to %d of %d", chosen.start, chosen.stop - 1, len(examples))
    done, started, printed = 0, time.monotonic(), time.monotonic()

    def report(finished: int) -> None:
        nonlocal done, printed
        done += finished
        now = time.monotonic()
        if now - printed > 5 or done == len(chosen):
            printed = now
            logger.info("%d of %d examples, %.1f examples/s", done, len(chosen), done / (now - started))

    generations = lm.generate(
        [examples[number]["prompt"] for number in chosen],
        max_new_tokens=config["max_new_tokens"],
        stop=config["stop"],
        seed=decoding["seed"] + chosen.start,
        **{key: decoding[key] for key in ("batch_size", "temperature", "top_p", "top_k")},
        on_batch=report,
    )
    seconds = time.monotonic() - started
    tokens = sum(len(generation.token_ids) for generation in generations)
    logger.info("%d tokens in %.1f s: %.1f tokens/s on %d threads", tokens, seconds, tokens / seconds, threads)
    tokenizer = lm.tokenizer
    write_jsonl(
        arguments.output,
        (
            {
                "id": examples[number]["id"],
                "text": generation.text,
                "tokens": [tokenizer.decode([token]) for token in generation.token_ids],
                "token_ids": generation.token_ids,
                "weights": generation.weights,
                "expert": generation.expert,
                "finish_reason": generation.finish_reason,
                # The shard's time, spread evenly: examples of a batch share their seconds.
                "seconds": seconds / len(chosen),
            }
            for number, generation in zip(chosen, generations, strict=True)
        ),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=Path, required=True, help="the task's test split")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="one model; or large, base, experts")
    parser.add_argument("--shard", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    run_stage(main, parser)
