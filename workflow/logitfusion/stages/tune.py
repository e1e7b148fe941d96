"""Choose on validation examples how far a method trusts its solved weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from logitfusion.config.jobs.fusion import TuneJob
from logitfusion.files import read_jsonl, write_json
from logitfusion.fusion import FusedLM
from logitfusion.fusion.ends import folder_ends
from logitfusion.fusion.tuning import Candidate, as_rows, choose, tune
from logitfusion.models.load import use_threads
from logitfusion.models.vocabulary import load_shared_tokenizer
from logitfusion.progress.pace import Rate
from logitfusion.stages._models import Models
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, job: TuneJob) -> None:
    logger.info("tuning on %d tasks on %d threads", len(job.models), use_threads())
    folders = {path.name: path for path in arguments.models}
    splits = {path.parent.name: path for path in arguments.examples}
    rows = {task: read_jsonl(splits[task]) for task in job.models}
    rate = Rate("all tasks", "examples", sum(map(len, rows.values())))
    models = Models(folders, job.loading)
    candidates: dict[str, list[Candidate]] = {}
    gaps: dict[str, list[float]] = {}
    for task, names in job.models.items():
        tokenizer, entries = load_shared_tokenizer([folders[name] for name in names])
        ends = folder_ends(folders[name] for name in names)
        lm = FusedLM(*models.open(names), tokenizer=tokenizer, entries=entries, options=job.options, ends=ends)
        candidates[task] = tune(
            lm,
            [row["prompt"] for row in rows[task]],
            [row["completion"] for row in rows[task]],
            trusts=job.tune.trusts,
            anchors=job.tune.anchors,
            stop=job.stop[task],
            batch_size=job.batch_size,
            on_batch=rate,
        )
        if job.tune.steered_share is not None:
            gaps[task] = lm.likelihood_gap([row["prompt"] for row in rows[task]], batch_size=job.batch_size)
        logger.info("%s: %d examples, %d candidates", task, len(rows[task]), len(candidates[task]))
    write_json(arguments.output, _chosen(job, candidates, gaps))


def _chosen(job: TuneJob, candidates: dict[str, list[Candidate]], gaps: dict[str, list[float]]) -> dict[str, Any]:
    """The choice of each task, or of all (``*``) where they share one, and every candidate."""
    chosen = {}
    for group in job.groups:
        best = choose([candidates[task] for task in group])
        entry = as_rows([best])[0]
        seen = [value for task in group for value in gaps.get(task, [])]
        if seen:
            entry["familiar"] = float(np.quantile(seen, job.tune.steered_share))
        chosen[group[0] if len(job.groups) > 1 else "*"] = entry
        logger.info("%s: %s", ", ".join(group), entry)
    return {"chosen": chosen, "candidates": {task: as_rows(rows) for task, rows in candidates.items()}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=Path, nargs="+", required=True, help="splits: .../<task>/validation.jsonl")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders of all models, named by model")
    parser.add_argument("--output", type=Path, required=True)
    run_stage(main, parser, TuneJob)
