"""Decode one shard of tasks' documents with some methods, which share their models' passes over the prompts."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
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
from logitfusion.stages._answers import KeptAnswers, Part
from logitfusion.stages._models import Fusions
from logitfusion.stages._protocol import add_protocol, keep_protocol
from logitfusion.stages._stage import logger, run_stage
from logitfusion.tasks.documents import OpenedTask, open_documents


def main(arguments: argparse.Namespace, job: DecodeJob) -> None:
    keep_protocol(arguments)
    tuned = {path.stem: path for path in arguments.tuned}
    parts = [
        Part(method, task, entry, resolve_options(entry.options, task, tuned.get(method)))
        for method, entry in job.methods.items()
        for task in entry.tasks
    ]
    logger.info("decoding with %d methods on %d threads", len(job.methods), use_threads())
    kept = KeptAnswers(arguments.output, job, arguments.shard, models=arguments.models, documents=arguments.documents)
    write_rows(arguments.output, map(vars, _decode_all(arguments, job, parts, kept)))
    kept.drop_others()


def resolve_options(options: FusionOptions, task: str, tuned: Path | None) -> FusionOptions:
    """How a method steers a task: with what the stage tune chose for it, and the gate that it fitted."""
    chosen = choice_for(task, read_artefact(tuned)["chosen"]) if tuned else {}
    fitted = {"gate": str(tuned)} if tuned and options.rule == "gate" and options.gate is None else {}
    return read_options(FusionOptions, dict(options) | fitted | chosen)


def choice_for(task: str, tuned: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Trust, anchor, fixed weights, gate and familiar, as chosen for a task, or for all tasks."""
    chosen = tuned.get(task, tuned.get("*", {}))
    return {key: chosen[key] for key in ("trust", "anchor", "weights", "gate", "familiar") if key in chosen}


def _decode_all(
    arguments: argparse.Namespace, job: DecodeJob, parts: Sequence[Part], kept: KeptAnswers
) -> Iterator[Response]:
    """The answers of all parts, those of earlier calls included."""
    said = {part: kept.find(part) for part in parts}
    waiting = [part for part, answers in said.items() if answers is None]
    fusions = Fusions(arguments.models, job.loading, [part.models for part in waiting])
    folders = {path.parent.name: path for path in arguments.documents}
    opened = {part: _open(folders[part.task], job, part) for part in waiting}
    mine = {part: shard_range(len(task.documents), arguments.shard, job.shards) for part, task in opened.items()}
    rate = Rate("all methods", "documents", sum(map(len, mine.values())))
    before = None
    for part in order_parts(waiting):
        if part.task != before:
            fusions.memory.clear()
            before = part.task
        said[part] = _decode(fusions, opened[part], part, mine[part], rate)
        kept.keep(part, said[part])
    yield from (response for answers in said.values() for response in answers)


def order_parts(parts: Sequence[Part]) -> list[Part]:
    """Task by task, first the method with most models, then always the one that shares most with the last.

    What none of them needs next is not kept in memory, so of two the one goes first that has the same model to lead it.
    """
    ordered: list[Part] = []
    for task in dict.fromkeys(part.task for part in parts):
        waiting = sorted((part for part in parts if part.task == task), key=lambda part: -len(part.models))
        last = waiting[0]
        while waiting:
            last = max(waiting, key=lambda part: _share(part.models, last.models))
            waiting.remove(last)
            ordered.append(last)
    return ordered


def _share(models: Sequence[str], others: Sequence[str]) -> tuple[int, bool]:
    return len({*models} & {*others}), models[0] == others[0]


def _open(folder: Path, job: DecodeJob, part: Part) -> OpenedTask:
    entry = part.entry.tasks[part.task]
    return open_documents(
        folder, split=job.split, num_fewshot=entry.num_fewshot, generation_kwargs=entry.generation_kwargs
    )


def _decode(fusions: Fusions, task: OpenedTask, part: Part, chosen: range, rate: Rate) -> list[Response]:
    """The answers of one method to some documents of a task."""
    if not chosen:
        return []
    decoding = part.entry.decoding
    lm = FusedLMEval(
        fusions.open(part.models, part.options),
        batch_size=decoding.batch_size,
        speculative=decoding.speculative and len(part.models) > 1,
        seed=decoding.seed + chosen.start,
    )
    requests = build_requests(task, chosen, part.entry.prompting, lm)
    lm.on_batch = _count_documents(rate, len(chosen), requests)
    started = time.monotonic()
    responses = Recorder(lm, part.task, part.method).record(requests)
    _tell(part, responses, time.monotonic() - started)
    return responses


def _tell(part: Part, responses: list[Response], seconds: float) -> None:
    tokens = sum(len(response.token_ids) for response in responses)
    said = f"{tokens} tokens in {seconds:.1f} s" if tokens else f"{seconds:.1f} s"
    logger.info("%s on %s: %d requests, %s", part.method, part.task, len(responses), said)


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
    parser.add_argument("--tuned", type=Path, nargs="*", default=[], help="what tune chose: .../<method>.json")
    parser.add_argument("--gates", type=Path, nargs="*", default=[], help="files that options of methods name")
    parser.add_argument("--output", type=Path, required=True)
    add_protocol(parser)
    run_stage(main, parser, DecodeJob)
