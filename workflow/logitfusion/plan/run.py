"""The plan of a whole run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from logitfusion.config.models import HubModel
from logitfusion.config.run import RunConfig
from logitfusion.plan.clip import clip_jobs, encoder_downloads
from logitfusion.plan.counted import Counted, Models
from logitfusion.plan.hardware import Gpu
from logitfusion.plan.jobs import Assumed, Job
from logitfusion.plan.models import count_models, refuse_other_vocabularies
from logitfusion.plan.planner import Planner
from logitfusion.plan.remedies import find_remedies
from logitfusion.plan.report import Misfit, RunPlan
from logitfusion.plan.saved import count_saved
from logitfusion.plan.tasks import TaskSize, read_tasks
from logitfusion.plan.training import Activations, Forward

RESULTS = Path("results")  # where an earlier run has made models and tasks


def plan_run(
    run: RunConfig,
    config: str,
    *,
    gpu: Gpu | None = None,
    on_cpu: bool = False,
    assumed: Assumed | None = None,
    metadata: Path | None = None,
) -> RunPlan:
    """What a run will need.

    Args:
        run: its config.
        config: the config's name, for messages.
        gpu: the card of every job; None: no job is held against one.
        on_cpu: there is none.
        assumed: what the config does not say; its ``cards`` are all that there are.
        metadata: a folder that describes models of the hub; without it the hub is asked.

    Raises:
        UserError: what is known to be wrong with the models before anything is downloaded.
    """
    assumed = replace(assumed or Assumed(), on_cpu=on_cpu)
    tasks = read_tasks(run, metadata, RESULTS, assumed.documents)
    models = count_models(run, metadata, RESULTS)
    refuse_other_vocabularies(run, models)
    jobs = list_jobs(run, models, assumed, tasks)
    large = [] if gpu is None else [job for job in jobs if not fits(job, gpu, assumed)]
    misfits = [
        _explain(run, job, gpu, assumed, lambda changed: list_jobs(changed, models, assumed, tasks)) for job in large
    ]
    guessed = tuple(name for name, size in tasks.items() if not size.certain)
    return RunPlan(config, tuple(jobs), _downloads(run, models), tuple(misfits), gpu, on_cpu, assumed, guessed)


def list_jobs(run: RunConfig, models: Models, assumed: Assumed, tasks: Mapping[str, TaskSize]) -> list[Job]:
    """All jobs that compute, those of the few-shot track last."""
    planner = Planner(run, models, assumed, trace_kept, tasks.__getitem__)
    return planner.jobs() + ([*clip_jobs(run)] if run.clip else [])


def trace_kept(model: Counted, forward: Forward, tokens: int) -> Activations:
    """What autograd keeps, by running the architecture itself."""
    return count_saved(model.config, forward, tokens)


def fits(job: Job, gpu: Gpu, assumed: Assumed) -> bool:
    """Whether a job fits such cards; one that is not known is not said to be too large."""
    cost = job.cost
    return cost is None or not cost.gpu or (cost.gpu_bytes <= gpu.memory and cost.cards <= assumed.cards)


def _explain(
    run: RunConfig, job: Job, gpu: Gpu, assumed: Assumed, list_again: Callable[[RunConfig], list[Job]]
) -> Misfit:
    if job.cost.cards > assumed.cards:
        reason = f"asks for {job.cost.cards} GPUs, and there are {assumed.cards}"
    else:
        reason = f"needs {job.cost.gpu_bytes / 1e9:.1f} GB of a card's {gpu.memory / 1e9:.0f}"

    def again(changed: RunConfig) -> Job:
        return next(one for one in list_again(changed) if one.key == job.key)

    remedies = find_remedies(run, job, lambda one: fits(one, gpu, assumed), again)
    return Misfit(job, reason, tuple(remedies))


def _downloads(run: RunConfig, models: Models) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for name, model in models.counted.items():
        entry = run.models[name]
        if isinstance(entry, HubModel) and model.checkpoint is not None:
            found[entry.id] = model.checkpoint.bytes or None
    return found | (encoder_downloads(run) if run.clip else {})
