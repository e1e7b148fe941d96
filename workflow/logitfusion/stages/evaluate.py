"""Merge the shards of all methods on one task, and let lm-evaluation-harness judge them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from logitfusion.artefact import read_rows
from logitfusion.config.jobs.fusion import JudgeJob
from logitfusion.evaluate.harness import evaluate_responses
from logitfusion.evaluate.judged import judge_examples, mark_correct
from logitfusion.evaluate.responses import Response
from logitfusion.evaluate.scores import HarnessScore, JudgedTask, name_metric
from logitfusion.stages._stage import logger, run_stage
from logitfusion.tasks.documents import open_documents


def main(arguments: argparse.Namespace, job: JudgeJob) -> None:
    task = open_documents(arguments.documents, split=job.split, num_fewshot=0, metric=job.metric)  # prompts are past
    responses = _read_responses(arguments.shards, arguments.task, job)
    metric = name_metric(*task.metric)
    tables: list[pd.DataFrame] = []
    scores: dict[str, list[HarnessScore]] = {}
    for method, said in responses.items():
        evaluation = evaluate_responses(task, said, f"method {method!r}")
        scores[method] = evaluation.scores
        tables.append(judge_examples(task, method, said, evaluation))
        found = (f"{one.metric} {one.value:.4g}" for one in evaluation.scores if one.subtask is None)
        logger.info("%s: %s", method, ", ".join(found))
    examples = pd.concat(tables, ignore_index=True)
    examples = mark_correct(examples, metric)
    JudgedTask(examples, metric, scores).write(arguments.output, arguments.scores)


def _read_responses(shards: list[Path], task: str, job: JudgeJob) -> dict[str, list[Response]]:
    """Method -> what it said on one task."""
    responses: dict[str, list[Response]] = {method: [] for method in job.methods}
    for row in (row for path in shards for row in read_rows(path, Response)):
        if row.task == task and row.method in responses:
            responses[row.method].append(row)
    return responses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--documents", type=Path, required=True, help="of the task: .../<task>/documents")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="of answers")
    parser.add_argument("--output", type=Path, required=True, help="the table of documents")
    parser.add_argument("--scores", type=Path, required=True, help="the harness's numbers (JSON)")
    run_stage(main, parser, JudgeJob)
