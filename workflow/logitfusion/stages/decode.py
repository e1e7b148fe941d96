"""Decode one shard of every task's documents with one method."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from logitfusion.artefact import read_artefact, write_rows
from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.jobs.fusion import DecodeJob
from logitfusion.config.keywords import read_options
from logitfusion.evaluate.requests import Recorder, Request, build_requests
from logitfusion.evaluate.responses import Response
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.models.load import use_threads
from logitfusion.progress.pace import Rate
from logitfusion.shards import shard_range
from logitfusion.stages._models import Fusions
from logitfusion.stages._protocol import add_protocol, keep_protocol
from logitfusion.stages._stage import logger, run_stage
from logitfusion.tasks.documents import open_documents


def main(arguments: argparse.Namespace, job: DecodeJob) -> None:
    keep_protocol(arguments)
    logger.info("decoding %d tasks on %d threads", len(job.tasks), use_threads())
    write_rows(arguments.output, (vars(response) for response in _decode_tasks(arguments, job)))


def _decode_tasks(arguments: argparse.Namespace, job: DecodeJob) -> Iterator[Response]:
    fusions = Fusions(arguments.models, job.loading, {task: entry.models for task, entry in job.tasks.items()})
    folders = {path.parent.name: path for path in arguments.documents}
    tuned = read_artefact(arguments.tuned)["chosen"] if arguments.tuned else {}
    gate = arguments.gate or (arguments.tuned if job.options.rule == "gate" else None)
    given = dict(job.options) | ({"gate": str(gate)} if gate else {})
    opened = {
        task: open_documents(
            folders[task],
            split=job.split,
            num_fewshot=entry.num_fewshot,
            generation_kwargs=entry.generation_kwargs,
        )
        for task, entry in job.tasks.items()
    }
    mine = {task: shard_range(len(one.documents), arguments.shard, job.shards) for task, one in opened.items()}
    rate = Rate("all tasks", "documents", sum(map(len, mine.values())))
    for task, chosen in mine.items():
        if chosen:
            options = read_options(FusionOptions, given | choice_for(task, tuned))
            lm = FusedLMEval(
                fusions.open(task, options),
                batch_size=job.decoding.batch_size,
                speculative=job.decoding.speculative and len(job.tasks[task].models) > 1,
                seed=job.decoding.seed + chosen.start,
            )
            requests = build_requests(opened[task], chosen, job.prompting, lm)
            lm.on_batch = _count_documents(rate, len(chosen), requests)
            yield from _record(lm, task, requests)


def choice_for(task: str, tuned: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Trust, anchor, fixed weights and familiar, as chosen for a task, or for all tasks."""
    chosen = tuned.get(task, tuned.get("*", {}))
    return {key: chosen[key] for key in ("trust", "anchor", "weights", "familiar") if key in chosen}


def _record(lm: FusedLMEval, task: str, requests: list[Request]) -> list[Response]:
    started = time.monotonic()
    responses = Recorder(lm, task).record(requests)
    seconds = max(time.monotonic() - started, 1e-9)
    tokens = sum(len(response.token_ids) for response in responses)
    said = f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s" if tokens else f"{seconds:.1f} s"
    logger.info("%s: %d requests, %s", task, len(responses), said)
    return responses


def _count_documents(rate: Rate, documents: int, requests: list[Request]) -> Any:
    """Tell the rate of documents, of which each has as many requests as the others."""
    total, done = sum(request.instance.repeats for request in requests), 0

    def tell(finished: int) -> None:
        nonlocal done
        before, done = done, min(done + finished, total)
        rate(done * documents // total - before * documents // total)

    return tell


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=Path, nargs="+", required=True, help="of tasks: .../<task>/documents")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders of all models, named by model")
    parser.add_argument("--shard", type=int, required=True)
    parser.add_argument("--tuned", type=Path, help="what the stage tune chose")
    parser.add_argument("--gate", type=Path, help="the file of a gate")
    parser.add_argument("--output", type=Path, required=True)
    add_protocol(parser)
    run_stage(main, parser, DecodeJob)
