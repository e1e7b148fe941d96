"""Slices of the config for texts to learn from."""

from __future__ import annotations

from logitfusion.config.run import RunConfig
from logitfusion.config.section import Section, Some
from logitfusion.config.texts import HubRows, HubTexts, TextTask


class TextsDataJob(Section):
    """Download the data sets that a task's texts are from."""

    sources: Some[HubRows]
    """In the order of the task's texts."""


def text_tasks(run: RunConfig) -> dict[str, TextTask]:
    """The tasks that are texts, used or not; the whole entry is the slice of the stage that makes them."""
    return {name: task for name, task in run.tasks.items() if isinstance(task, TextTask)}


def fetched_texts(run: RunConfig) -> dict[str, TextsDataJob]:
    """The tasks, used or not, with texts of the hub -> what there is to download."""
    parts = {
        name: [part for part in task.texts if isinstance(part, HubTexts)] for name, task in text_tasks(run).items()
    }
    return {name: TextsDataJob(sources=tuple(part.hub_rows for part in mine)) for name, mine in parts.items() if mine}
