"""What each track is spoken of by: decided by the config before there is any number, never by what came out best.

A track is told by the paper's method and by our default, where the config has them, against its baselines. A config
that has neither is told by its first method that is no baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.methods import fitted_methods, fixed_rival, paper_rules, seen_tasks, solved_methods
from logitfusion.config.names import fewshot_method
from logitfusion.config.run import RunConfig
from logitfusion.evaluate.corrections import correct_holm
from logitfusion.evaluate.fusion import SEEN
from logitfusion.evaluate.names import is_share_of_right, say_metric
from logitfusion.evaluate.students import ALL_TASKS
from logitfusion.report.index.facts import Facts
from logitfusion.report.index.words import Better
from logitfusion.report.page import compared

Row = Mapping[str, Any]  # of the tidy table, by column
Rows = dict[tuple[str, str, str], Row]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How one track is told.

    Attributes:
        track: its name in the tidy table.
        title: for people.
        rows: its rows of the tidy table, for few-shot CLIP those with the most shots.
        baseline: the method that differences are to; None where the config names none.
        metric: of the differences to it.
        rivals: further metrics of differences -> the method that they are to, and what that is.
        spoken: method -> what it is.
        references: methods that bound the others, told for orientation: the ceiling, teachers.
        tasks: the task (or average) that the sentence is about, then the others.
        methods: all methods, in the config's order.
        digits: after the point, by how many answers there are.
    """

    track: str
    title: str
    rows: pd.DataFrame
    baseline: str | None
    metric: str
    rivals: dict[str, tuple[str, str]] = field(default_factory=dict)
    spoken: dict[str, str]
    references: dict[str, str] = field(default_factory=dict)
    tasks: list[str]
    methods: list[str]
    digits: int = 2

    @property
    def is_exploratory(self) -> bool:
        """Whether a test split was decoded that the config's protocol had not frozen."""
        return "protocol" in self.rows and bool((self.rows["protocol"] == "exploratory").any())

    @cached_property
    def found(self) -> Rows:
        """Its rows by what they are of, differences with ``p_holm``."""
        return index_rows(correct_differences(self.rows))

    @cached_property
    def scores(self) -> dict[tuple[str, str], Row]:
        """The scores that methods are compared by."""
        return {(row["method"], row["task"]): row for row in compared(self.rows).to_dict("records")}

    @cached_property
    def metrics(self) -> dict[str, str]:
        """Task -> the metric that methods are compared by."""
        return {task: row["metric"] for (_, task), row in self.scores.items()}

    def describe(self, task: str) -> str:
        """What the scores of a task are: ``share of right answers``, or the metric by name."""
        metric = self.metrics.get(task, "score")
        parts = [one for one in self.metrics.values() if one != "score"] if metric == "score" else [metric]
        if all(map(is_share_of_right, parts)):
            return "share of right answers"
        return "mean score" if metric == "score" else say_metric(metric)

    def better(self, task: str) -> Better:
        """Which way is better on a task."""
        return next((row["better"] for (_, of), row in self.scores.items() if of == task), "higher")

    def score(self, method: str, task: str) -> Row | None:
        """The score that methods are compared by, with its interval if it has one."""
        return self.scores.get((method, task))

    def difference(self, method: str, task: str, metric: str | None = None) -> Row | None:
        """A paired difference, to the baseline where no other metric is named."""
        return self.found.get((method, task, metric or self.metric))


def correct_differences(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ``p_holm``: of all methods that one metric compares on one task, a plot or a column of a table."""
    if table.empty or "p_value" not in table:  # made before there were p-values
        return table
    corrected = table.groupby(["task", "metric"])["p_value"].transform(lambda values: correct_holm(values.to_numpy()))
    return table.assign(p_holm=corrected)


def index_rows(table: pd.DataFrame) -> Rows:
    """Method, task and metric -> the row of the tidy table; of several, that of all seeds, which has the interval."""
    found: Rows = {}
    for row in table.to_dict("records"):
        key = (row["method"], row["task"], row["metric"])
        if key not in found or (pd.isna(found[key]["ci_low"]) and not pd.isna(row["ci_low"])):
            found[key] = row
    return found


def make_comparisons(facts: Facts) -> list[Comparison]:
    """Every track of the config, in the order of the page."""
    run = facts.run
    tracks = (("fusion", run.fusion, _fusion), ("distill", run.distill, _distill), ("clip", run.clip, _clip))
    return [make(facts, facts.track(name)) for name, section, make in tracks if section is not None]


def _fusion(facts: Facts, rows: pd.DataFrame) -> Comparison:
    run = facts.run
    rival, base = fixed_rival(run), run.evaluate.base
    seen = seen_tasks(run)
    found = _tasks(rows, [*seen, *(task for task in run.tasks if task not in seen)])
    ceiling = {run.evaluate.ceiling: "the ceiling"} if run.evaluate.ceiling in run.fusion.methods else {}
    words = "the best fixed weight on validation" if rival and getattr(run.fusion.methods[rival], "tune", None) else ""
    return Comparison(
        track="fusion",
        title="Fusion",
        rows=rows,
        baseline=base if base in run.fusion.methods else None,
        metric="gain",
        rivals={f"gain_over_{rival}": (rival, words or "a fixed weight")} if rival else {},
        spoken=_speak_of(_fusion_roles(run), list(run.fusion.methods), {base, rival, *ceiling}),
        references=ceiling,
        tasks=_first(found, SEEN if SEEN in found else None),
        methods=list(facts.job.fusion.methods),
    )


def _fusion_roles(run: RunConfig) -> dict[str, str]:
    single, several = paper_rules(run)
    default = FusionOptions().selection
    ours = [
        name for name, entry in solved_methods(run).items() if len(entry.experts) > 1 and entry.selection == default
    ]
    gates = {len(run.fusion.methods[name].experts) > 1: name for name in reversed(fitted_methods(run))}
    roles = {
        single: "the paper's rule, each task with its own expert",
        several: "the paper's rule, all experts at every task",
        next(iter(ours), None): "our default, all experts at every task",
        gates.get(False): "a learned gate, each task with its own expert",
        gates.get(True): "a learned gate, all experts at every task",
    }
    return {name: role for name, role in roles.items() if name is not None}


def _distill(facts: Facts, rows: pd.DataFrame) -> Comparison:
    run = facts.run
    methods, baseline = run.distill.methods, run.distill.baseline
    roles = {}
    for name, entry in methods.items():
        if entry.gld > 0:
            nodes = "nodes are vocabulary entries" if entry.nodes == "vocab" else "nodes are ranks, as drawn"
            teachers = "one teacher" if len(entry.teachers) == 1 else f"{len(entry.teachers)} teachers"
            roles.setdefault((entry.nodes, len(entry.teachers)), (name, f"the paper's graph loss, {nodes}, {teachers}"))
    vocab = {name: role for (nodes, _), (name, role) in roles.items() if nodes == "vocab"}
    tasks = _tasks(rows, run.distill.tasks)
    return Comparison(
        track="distill",
        title="Distillation",
        rows=rows,
        baseline=baseline if baseline in methods else None,
        metric="gain",
        spoken=_speak_of(vocab or dict(roles.values()), list(methods), {baseline}),
        references={run.distill.student: "the student before"}
        | {teacher.model: f"teacher {name}" for name, teacher in run.distill.teachers.items()},
        tasks=_first(tasks, ALL_TASKS if ALL_TASKS in tasks else None),
        methods=list(facts.job.distill.trials),
    )


def _clip(facts: Facts, rows: pd.DataFrame) -> Comparison:
    run, track = facts.run, facts.job.clip
    found = {name: fewshot_method(run.clip, name)[0].name for name in run.clip.methods}
    known = {"amu": "the paper's method", "amu_classes": "our default for few classes"}
    roles: dict[str, str] = {}
    for name, method in found.items():
        if method in known and known[method] not in roles.values():
            roles[name] = known[method]
    baselines = list(track.baselines)
    rows = rows[rows["shots"] == track.shots[-1]] if len(rows) else rows
    return Comparison(
        track="clip",
        title="Few-shot CLIP",
        rows=rows,
        baseline=baselines[0] if baselines else None,
        metric=f"gain_over_{baselines[0]}" if baselines else "",
        rivals={f"gain_over_{name}": (name, "") for name in baselines[1:]},
        spoken=_speak_of(roles, list(track.methods), set(baselines)),
        tasks=_tasks(rows, [task for tasks in track.sets.values() for task in tasks]),
        methods=list(track.methods),
        digits=3,
    )


def _speak_of(roles: dict[str, str], methods: list[str], ends: set[str | None]) -> dict[str, str]:
    """The methods with roles in the config's order; where there are none, the first method that is no baseline."""
    others = [name for name in methods if name not in ends]
    return {name: roles[name] for name in methods if name in roles} or dict.fromkeys(others[:1], "the first method")


def _tasks(rows: pd.DataFrame, order: list[str] | tuple[str, ...]) -> list[str]:
    """The tasks of a table in the config's order, averages last; those of the config where there is no table."""
    if rows.empty:
        return list(order)
    there = list(dict.fromkeys(rows["task"]))
    return [task for task in order if task in there] + [task for task in there if task not in order]


def _first(tasks: list[str], first: str | None) -> list[str]:
    return tasks if first is None else [first, *(task for task in tasks if task != first)]
