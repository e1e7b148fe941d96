"""What of a config would make a job fit: every change is tried by counting again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from pydantic import ValidationError

from logitfusion.config.run import RunConfig
from logitfusion.errors import UserError
from logitfusion.plan.jobs import Edit, Job

# Changes that are tried together, and remedies that are shown.
_TOGETHER, _SHOWN = 3, 4


def find_remedies(
    run: RunConfig, job: Job, fits: Callable[[Job], bool], again: Callable[[RunConfig], Job]
) -> list[Edit]:
    """The smallest sets of changes after which a job fits; of those that differ in a number, the mildest.

    Args:
        run: the config.
        job: that does not fit.
        fits: whether a job does.
        again: the job under another config.
    """
    found: list[Edit] = []
    for edits in _sets(job.edits):
        joined = {key: value for edit in edits for key, value in edit.items()}
        if any(_contains(joined, known) for known in found):
            continue
        changed = edit_run(run, joined)
        if changed is not None and fits(again(changed)):
            found.append(joined)
        if len(found) == _SHOWN:
            break
    return found


def _sets(edits: Sequence[Edit]) -> Iterator[tuple[Edit, ...]]:
    """One change, then two, then three that are of different keys."""
    for count in range(1, _TOGETHER + 1):
        for some in itertools.combinations(edits, count):
            keys = [key for edit in some for key in edit]
            if len(set(keys)) == len(keys):
                yield some


def _contains(edit: Edit, known: Edit) -> bool:
    """Whether a remedy changes all the keys that a known one does: it would only be a stronger form of that."""
    return known.keys() <= edit.keys()


def edit_run(run: RunConfig, edit: Edit) -> RunConfig | None:
    """The config with other values at some keys; None where it refuses them."""
    values = run.dump()
    for key, value in edit.items():
        *path, last = key.split(".")
        inner = values
        for name in path:
            inner = inner[name]
        inner[last] = value
    try:
        return RunConfig.model_validate(values)
    except (UserError, ValidationError):
        return None
