"""Merge the shards of all methods on one task and judge every generation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from logitfusion.config.jobs.fusion import JudgeJob
from logitfusion.evaluate.judged import judge_generations
from logitfusion.files import read_jsonl
from logitfusion.stages._stage import logger, run_stage
from logitfusion.tables import write_table


def main(arguments: argparse.Namespace, job: JudgeJob) -> None:
    generations: dict[str, list[dict[str, Any]]] = {method: [] for method in job.methods}
    for path in arguments.shards:
        generations[path.parent.name] += [row for row in read_jsonl(path) if row["task"] == arguments.task]
    table = judge_generations(read_jsonl(arguments.examples), generations, job.answer)
    write_table(table, arguments.output)
    for method, group in table.groupby("method", sort=False):
        logger.info(
            "%s: %.3f right, %.3f without an answer", method, group["correct"].mean(), group["format_failure"].mean()
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--examples", type=Path, required=True, help="the task's split that was decoded")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help=".../<method>/<shard>.jsonl")
    parser.add_argument("--output", type=Path, required=True)
    run_stage(main, parser, JudgeJob)
