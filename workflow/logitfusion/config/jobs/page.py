"""Slice of the config for the page that a reader opens first: all of it, because the page shows it."""

from __future__ import annotations

from typing import Any

from logitfusion.config.jobs.report import fewshot_report, fusion_report, students_track
from logitfusion.config.methods import method_tasks, used_models
from logitfusion.config.run import RunConfig
from logitfusion.config.section import Section
from logitfusion.config.tracks import FewShotReport, FusionReport, StudentsTrack


class PageJob(Section):
    """Write the page of a run."""

    given: dict[str, Any]
    """The whole config without the values that were left at their defaults."""
    fusion: FusionReport | None
    """The order of methods is the config's, which ``given`` has lost."""
    distill: StudentsTrack | None
    clip: FewShotReport | None

    @property
    def run(self) -> RunConfig:
        """The config, which knows of every value whether it was given."""
        return RunConfig.model_validate(self.given)


def page_job(run: RunConfig) -> PageJob:
    """The whole config and its tracks."""
    return PageJob(
        given=run.dump(exclude_unset=True),
        fusion=fusion_report(run) if run.fusion else None,
        distill=students_track(run) if run.distill else None,
        clip=fewshot_report(run) if run.clip else None,
    )


def used_tasks(run: RunConfig) -> list[str]:
    """The tasks that a track decodes or a used model was trained on, in the config's order."""
    found = set(run.distill.tasks) if run.distill else set()
    if run.fusion:
        found |= {task for method in run.fusion.methods for task in method_tasks(run, method)}
    for name in used_models(run):
        entry = run.models.get(name) or run.experts[name]
        found |= set(getattr(getattr(entry, "heal", None) or entry, "tasks", ()))
    return [task for task in run.tasks if task in found]


def cached_teachers(run: RunConfig) -> list[str]:
    """The teachers with a cache that a method learns from, in the config's order."""
    methods = run.distill.methods.values() if run.distill else ()
    named = {teacher for method in methods for teacher in method.teachers}
    teachers = run.distill.teachers.items() if run.distill else ()
    return [name for name, teacher in teachers if name in named and not teacher.online]
