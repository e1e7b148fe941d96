"""A plan as text and as JSON: the jobs and what each needs, downloads, disk, what does not fit and what would."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from logitfusion.plan.hardware import Gpu
from logitfusion.plan.jobs import Assumed, Edit, Job


@dataclass(frozen=True)
class Misfit:
    """A job that does not fit.

    Attributes:
        job: which.
        reason: why, in words.
        remedies: changes of the config after each of which it fits.
    """

    job: Job
    reason: str
    remedies: tuple[Edit, ...]


@dataclass(frozen=True)
class RunPlan:
    """All that is known of a run before anything is downloaded.

    Attributes:
        config: its file.
        jobs: those that compute with models, in the order they run.
        downloads: repository -> bytes; None where they are not known.
        misfits: jobs that do not fit the GPU; none where no GPU is named.
        gpu: the card that was named.
        on_cpu: there is no GPU at all.
        assumed: what the config does not say.
        guessed: tasks whose number of documents is assumed.
    """

    config: str
    jobs: tuple[Job, ...]
    downloads: dict[str, int | None]
    misfits: tuple[Misfit, ...]
    gpu: Gpu | None
    on_cpu: bool
    assumed: Assumed
    guessed: tuple[str, ...] = ()

    @property
    def disk(self) -> float:
        """Bytes that stay in results, of jobs where they are counted, besides the small files of every run."""
        return sum(job.count * (job.cost.disk or 0.0) for job in self.jobs if job.cost is not None)

    @property
    def scratch(self) -> float:
        """Bytes of the largest checkpoints, which are there while their job runs."""
        return max((job.cost.scratch for job in self.jobs if job.cost is not None), default=0.0)


HEAD = ("job", "jobs", "GPUs", "GPU GB", "host GB", "disk GB", "hours", "of the GPU's memory, mostly")


def write_plan(plan: RunPlan) -> str:
    """The plan for a terminal."""
    lines = [f"{plan.config}: {_on(plan)}", ""]
    rows = [_row(job, plan) for job in plan.jobs]
    lines += _table(HEAD if not plan.on_cpu else HEAD[:-1], [row[: len(HEAD) - plan.on_cpu] for row in rows])
    unknown = dict.fromkeys(job.unknown for job in plan.jobs if job.cost is None)
    lines += ["", *unknown] if unknown else []
    lines += ["", *_storage(plan)]
    for misfit in plan.misfits:
        lines += ["", f"{misfit.job.rule} {misfit.job.name} {misfit.reason}. It would fit with", *_remedies(misfit)]
    return "\n".join([*lines, "", *_assumptions(plan)])


def _on(plan: RunPlan) -> str:
    if plan.on_cpu:
        return "without a GPU"
    if plan.gpu is None:
        return "name a card with --gpu to see whether it fits, and how long it takes"
    return f"on {plan.gpu.name} ({plan.gpu.memory / 1e9:.0f} GB a card)"


def _row(job: Job, plan: RunPlan) -> tuple[str, ...]:
    name, count = f"{job.rule} {job.name}", str(job.count)
    cost = job.cost
    if cost is None:
        return (name, count, *["?"] * 5, "")
    host = cost.bytes_without_gpu if plan.on_cpu else cost.host_bytes
    seconds = cost.work.seconds(plan.gpu) if cost.work is not None and plan.gpu is not None else None
    uses = bool(cost.gpu) and not plan.on_cpu
    return (
        name,
        count,
        str(cost.cards) if uses else "-",
        f"{cost.gpu_bytes / 1e9:.1f}" if uses else "-",
        f"{host / 1e9:.1f}",
        "?" if cost.disk is None else f"{cost.disk / 1e9:.1f}",
        _hours(seconds) if cost.gpu else "-",
        _mostly(cost.gpu),
    )


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds / 3600:.1f}" if seconds >= 360 else "<0.1"


def _mostly(parts: Any) -> str:
    """The parts that are a tenth of all or more, at most three, the largest first."""
    total = sum(parts.values())
    large = sorted((part for part in parts.items() if part[1] >= max(total / 10, 5e7)), key=lambda part: -part[1])
    return ", ".join(f"{name} {size / 1e9:.1f}" for name, size in large[:3])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width each; numbers are on the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    right = [0 < place < len(HEAD) - 1 for place in range(len(head))]
    cells = [
        [cell.rjust(width) if side else cell.ljust(width) for cell, width, side in zip(row, widths, right, strict=True)]
        for row in (head, *rows)
    ]
    lines = ["  ".join(row).rstrip() for row in cells]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _storage(plan: RunPlan) -> list[str]:
    known = {name: size for name, size in plan.downloads.items() if size is not None}
    lines = []
    if plan.downloads:
        total = _size(sum(known.values())) if known else "of unknown size"
        lines.append(f"Downloads, besides data: {total}, into HF_HOME, which results refer to")
        width = max(map(len, plan.downloads))
        lines += [
            f"  {name.ljust(width)}  {'?' if size is None else _size(size)}" for name, size in plan.downloads.items()
        ]
    known_jobs = [job for job in plan.jobs if job.cost is not None]
    counted = [job for job in known_jobs if job.cost.disk is not None]
    more = "" if len(known_jobs) == len(plan.jobs) else ", without that of models that are not known yet"
    more += "" if len(counted) == len(known_jobs) else "; the features of pictures are not counted"
    if known_jobs and not counted:
        lines.append("Disk: not known, because the features of pictures are not counted")
    elif known_jobs:
        checkpoints = f"at most {_size(plan.scratch)} for the checkpoints of a job while it runs"
        lines.append(f"Disk: {_size(plan.disk)} in results, and {checkpoints}{more}")
    else:
        lines.append("Disk: not known, because no model is known yet")
    return lines


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _remedies(misfit: Misfit) -> list[str]:
    if not misfit.remedies:
        return ["  no change of the config that was tried; use a larger GPU or a smaller model"]
    return [f"  {', '.join(f'{key}: {_yaml(value)}' for key, value in edit.items())}" for edit in misfit.remedies]


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _assumptions(plan: RunPlan) -> list[str]:
    said = "Hours are those of 40 % of the card's products and half of its bandwidth. A GB is 10^9 bytes."
    if any(job.rule not in ("clip_support", "clip_test") for job in plan.jobs):
        assumed = plan.assumed
        counts = f", {assumed.documents} documents of {', '.join(plan.guessed)} (--documents)" if plan.guessed else ""
        said = (
            f"Assumed, because the data is not there yet: prompts of {assumed.prompt} tokens (--prompt-tokens){counts},"
            f" texts as long as their limits (max_tokens, max_gen_toks). {said}"
        )
    return textwrap.wrap(said, 118)


def as_json(plan: RunPlan) -> dict[str, Any]:
    """The plan for programs: bytes and seconds, all parts."""
    return {
        "config": plan.config,
        "gpu": None if plan.gpu is None else {"name": plan.gpu.name, "memory": plan.gpu.memory},
        "assumed": {
            "prompt_tokens": plan.assumed.prompt,
            "documents": plan.assumed.documents,
            "of": list(plan.guessed),
        },
        "jobs": [_job_as_json(job, plan) for job in plan.jobs],
        "downloads": plan.downloads,
        "disk": plan.disk,
        "scratch": plan.scratch,
        "misfits": [
            {
                "rule": one.job.rule,
                "name": one.job.name,
                "reason": one.reason,
                "remedies": list(map(dict, one.remedies)),
            }
            for one in plan.misfits
        ],
    }


def _job_as_json(job: Job, plan: RunPlan) -> dict[str, Any]:
    facts: dict[str, Any] = {"rule": job.rule, "name": job.name, "jobs": job.count}
    cost = job.cost
    if cost is None:
        return facts | {"unknown": job.unknown}
    seconds = cost.work.seconds(plan.gpu) if cost.work is not None and plan.gpu is not None else None
    return facts | {
        "gpus": 0 if plan.on_cpu or not cost.gpu else cost.cards,
        "gpu_parts": dict(cost.gpu),
        "gpu_bytes": cost.gpu_bytes,
        "host_bytes": cost.bytes_without_gpu if plan.on_cpu else cost.host_bytes,
        "disk": cost.disk,
        "scratch": cost.scratch,
        "seconds": seconds,
    }
