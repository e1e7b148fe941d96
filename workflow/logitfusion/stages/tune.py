"""Choose on validation examples how far a method trusts its solved weights, or fit its gate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from logitfusion.artefact import write_artefact
from logitfusion.config.gate import Gate
from logitfusion.config.jobs.fusion import TuneJob
from logitfusion.config.tasks import Split
from logitfusion.fusion import FusedLM
from logitfusion.fusion.gate.choice import fit_gate
from logitfusion.fusion.gate.evidence import Evidence, collect
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.fusion.tuning import Candidate, as_rows, choose, tune
from logitfusion.fusion.ways import as_rows as rows_of_ways
from logitfusion.fusion.ways import choose as choose_way
from logitfusion.models.load import use_threads
from logitfusion.progress.pace import Rate
from logitfusion.stages._models import Fusions
from logitfusion.stages._stage import logger, run_stage
from logitfusion.stages._validation import measure_ways
from logitfusion.tasks.documents import OpenedTask, open_documents

SPLIT: Split = "validation"


def main(arguments: argparse.Namespace, job: TuneJob) -> None:
    logger.info("tuning on %d tasks on %d threads", len(job.tasks), use_threads())
    fusions = Fusions(arguments.models, job.loading, {task: entry.models for task, entry in job.tasks.items()})
    opened = _open_tasks(arguments.documents, job)
    rate = Rate("all tasks", "examples", sum(len(task.documents) for task in opened.values()))
    fits = job.options.rule == "gate"
    options = job.options.model_copy(update={"gate": Gate.constant(1.0)}) if fits else job.options
    found: dict[str, Any] = {}
    gaps: dict[str, list[float]] = {}
    for name, task in opened.items():
        lm = fusions.open(name, options)
        examples = _make_examples(task, job, lm)
        prompts, completions = [prompt for prompt, _ in examples], [completion for _, completion in examples]
        given = {"stop": find_stops(task), "batch_size": job.batch_size, "on_batch": rate}
        if fits:
            found[name] = collect(lm, prompts, completions, **given)
        else:
            ways = {"trusts": job.tune.trusts, "anchors": job.tune.anchors}
            found[name] = tune(lm, prompts, completions, **ways, **given)
        if job.tune.steered_share is not None:
            gaps[name] = lm.likelihood_gap(prompts, batch_size=job.batch_size)
        logger.info("%s: %d examples", name, len(examples))
    write_artefact(arguments.output, _fit(job, opened, fusions, found, gaps) if fits else _choose(job, found, gaps))


def _open_tasks(folders: list[Path], job: TuneJob) -> dict[str, OpenedTask]:
    named = {path.parent.name: path for path in folders}
    return {
        task: open_documents(
            named[task],
            split=SPLIT,
            num_fewshot=entry.num_fewshot,
            generation_kwargs=entry.generation_kwargs,
        )
        for task, entry in job.tasks.items()
    }


def _make_examples(task: OpenedTask, job: TuneJob, lm: FusedLM) -> list[tuple[str, str]]:
    """Prompts as they are decoded, and the completions that are right."""
    if job.prompting.template == "plain":
        return task.make_examples()
    model = FusedLMEval(lm)
    return task.make_examples(
        model.apply_chat_template,
        system=job.prompting.system,
        fewshot_as_multiturn=job.prompting.fewshot_as_multiturn,
        opening=model.opening,
    )


def find_stops(task: OpenedTask) -> list[str]:
    """The strings that end a text of any of its subtasks."""
    found: list[str] = []
    for subtask in task.loaded["tasks"].values():
        until = (subtask.config.generation_kwargs or {}).get("until") or ()
        found += [until] if isinstance(until, str) else until
    return list(dict.fromkeys(found))


def _choose(job: TuneJob, candidates: dict[str, list[Candidate]], gaps: dict[str, list[float]]) -> dict[str, Any]:
    """Trust and anchor of each task, or of all (``*``) where they share them, and every candidate."""
    chosen = [as_rows([choose([candidates[task] for task in group])])[0] for group in job.groups]
    return {
        "chosen": _by_group(job, chosen, gaps),
        "candidates": {task: as_rows(rows) for task, rows in candidates.items()},
    }


def _fit(
    job: TuneJob,
    opened: dict[str, OpenedTask],
    fusions: Fusions,
    evidence: dict[str, Evidence],
    gaps: dict[str, list[float]],
) -> dict[str, Any]:
    """The gate of all tasks, what is used on each, and what it was compared with."""
    fitted = fit_gate(evidence, split=SPLIT, groups=job.groups, tune=job.tune)
    compared = fitted.ways
    if job.tune.criterion == "metric":
        compared = [
            measure_ways(ways, {task: opened[task] for task in group}, fusions, job)
            for group, ways in zip(job.groups, compared, strict=True)
        ]
    return fitted.file.dump() | {
        "chosen": _by_group(job, [choose_way(ways).options for ways in compared], gaps),
        "candidates": {", ".join(group): rows_of_ways(ways) for group, ways in zip(job.groups, compared, strict=True)},
    }


def _by_group(job: TuneJob, chosen: list[dict[str, Any]], gaps: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """What was chosen, by task; and from which likelihood gap on its prompts are left to the large model."""
    found = {}
    for group, entry in zip(job.groups, chosen, strict=True):
        seen = [value for task in group for value in gaps.get(task, [])]
        if seen:
            entry = entry | {"familiar": float(np.quantile(seen, job.tune.steered_share))}
        found[group[0] if len(job.groups) > 1 else "*"] = entry
        logger.info("%s: %s", ", ".join(group), entry)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=Path, nargs="+", required=True, help="of tasks: .../<task>/documents")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders of all models, named by model")
    parser.add_argument("--output", type=Path, required=True)
    run_stage(main, parser, TuneJob)
