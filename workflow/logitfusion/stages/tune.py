"""Choose on validation examples how far a method trusts its solved weights, or fit its gate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from logitfusion.artefact import write_artefact
from logitfusion.config.gate import Gate
from logitfusion.config.jobs.fusion import TuneJob
from logitfusion.config.tasks import Split
from logitfusion.fusion import FusedLM
from logitfusion.fusion.gate.choice import fit_gate
from logitfusion.fusion.gate.evidence import Evidence, collect
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.fusion.tuning import Candidate, as_rows, choose, make_ways, tune
from logitfusion.fusion.ways import Way, told
from logitfusion.fusion.ways import as_rows as rows_of_ways
from logitfusion.fusion.ways import choose as choose_way
from logitfusion.models.load import use_threads
from logitfusion.progress.pace import Rate
from logitfusion.stages._models import Fusions
from logitfusion.stages._stage import logger, run_stage
from logitfusion.stages._validation import Validation
from logitfusion.tasks.documents import OpenedTask, open_documents

SPLIT: Split = "validation"


def main(arguments: argparse.Namespace, job: TuneJob) -> None:
    logger.info("tuning on %d tasks on %d threads", len(job.tasks), use_threads())
    fusions = Fusions(arguments.models, job.loading, [entry.models for entry in job.tasks.values()])
    opened = _open_tasks(arguments.documents, job)
    rate = Rate("all tasks", "examples", sum(len(task.documents) for task in opened.values()))
    fits = job.options.rule == "gate"
    options = job.options.model_copy(update={"gate": Gate.constant(1.0)}) if fits else job.options
    found: dict[str, Any] = {}
    gaps: dict[str, list[float]] = {}
    for name, task in opened.items():
        fusions.memory.clear()
        lm = fusions.open(job.tasks[name].models, options)
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
    finish = _fit if fits else _choose
    write_artefact(arguments.output, finish(job, Validation(opened, fusions, job, gaps), found))


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


def _choose(job: TuneJob, validation: Validation, tried: dict[str, list[Candidate]]) -> dict[str, Any]:
    """Trust and anchor of each task, or of all (``*``) where they share them, and every candidate."""
    candidates = {task: as_rows(one) for task, one in tried.items()}
    if job.tune.criterion == "likelihood":
        chosen = [as_rows([choose([tried[task] for task in group])])[0] for group in job.groups]
        return {"chosen": _by_group(job, validation, chosen), "candidates": candidates}
    ways = [make_ways({task: tried[task] for task in group}) for group in job.groups]
    chosen, compared = _compare(job, validation, ways)
    return {"chosen": _by_group(job, validation, chosen), "candidates": candidates, "ways": compared}


def _fit(job: TuneJob, validation: Validation, evidence: dict[str, Evidence]) -> dict[str, Any]:
    """The gate of all tasks, what is used on each, and what it was compared with."""
    fitted = fit_gate(evidence, split=SPLIT, groups=job.groups, tune=job.tune)
    chosen, compared = _compare(job, validation, fitted.ways)
    return fitted.file.dump() | {"chosen": _by_group(job, validation, chosen), "ways": compared}


def _compare(
    job: TuneJob, validation: Validation, ways: list[list[Way]]
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """The options that each group of tasks takes, and how all its ways do."""
    if job.tune.criterion == "metric":
        ways = [validation.measure(group, some) for group, some in zip(job.groups, ways, strict=True)]
    named = {", ".join(group): rows_of_ways(some) for group, some in zip(job.groups, ways, strict=True)}
    return [choose_way(some).options for some in ways], named


def _by_group(job: TuneJob, validation: Validation, chosen: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was chosen, by task; and from which likelihood gap on its prompts are left to the large model."""
    found = {}
    for group, entry in zip(job.groups, chosen, strict=True):
        entry = entry | validation.find_familiar(group)
        found[group[0] if len(job.groups) > 1 else "*"] = entry
        logger.info("%s: %s", ", ".join(group), told(entry))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=Path, nargs="+", required=True, help="of tasks: .../<task>/documents")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders of all models, named by model")
    parser.add_argument("--output", type=Path, required=True)
    run_stage(main, parser, TuneJob)
