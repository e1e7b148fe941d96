"""Methods against rivals over several runs of one config: paired over examples and trainings, corrected by Holm.

Methods, intervals and their assumptions are those of ``crossed``; ratios have Fieller's intervals. All comparisons of a
track (of few-shot CLIP: at one number of shots) are one table, which Holm's correction is over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from logitfusion.errors import UserError
from logitfusion.evaluate.corrections import correct_holm
from logitfusion.evaluate.crossed import Crossed, Observations
from logitfusion.evaluate.ratios import ratio_interval
from logitfusion.evaluate.repeated import RepeatedTask, repeated_tasks
from logitfusion.evaluate.run_tables import RunTables, check_comparable

Verdict = Literal["higher", "lower", "no difference shown", "no interval"]
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Score:
    """A method on one task, or on average over several; NaN where a number means nothing or can't be told.

    Attributes:
        track: ``fusion``, ``distill`` or ``clip``.
        shots: support images a class, of few-shot CLIP.
        better: which way is better of the metric.
        n: examples.
        runs, seeds: that were repeated: runs, and seeds within each.
        score, score_low, score_high: the mean, with its interval over examples and trainings.
        score_ratio, ratio_low, ratio_high: ``score / ceiling``.
        gap_closure, closure_low, closure_high: ``(score - base) / (ceiling - base)``.
    """

    track: str
    task: str
    shots: int | None
    method: str
    metric: str
    better: str
    n: int
    runs: int
    seeds: int
    score: float
    score_low: float = math.nan
    score_high: float = math.nan
    score_ratio: float = math.nan
    ratio_low: float = math.nan
    ratio_high: float = math.nan
    gap_closure: float = math.nan
    closure_low: float = math.nan
    closure_high: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A method less a rival, paired.

    Attributes:
        difference, low, high: the mean, with its interval over examples and trainings.
        joint_low, joint_high: an interval that holds together with those of all other comparisons (Bonferroni).
        p_value, p_holm: of no difference, over examples and trainings; corrected by Holm.
        verdict: what that shows at the confidence; which way is better says ``better``.
        p_examples, p_examples_holm, verdict_of_these: the same over examples alone, of the trainings as they are.
        smallest: the least true difference that would be shown with the asked power, whatever the other comparisons.
        smallest_of_these: the same over examples alone.
        comparisons: of the table.
    """

    track: str
    task: str
    shots: int | None
    method: str
    rival: str
    difference: float
    low: float = math.nan
    high: float = math.nan
    joint_low: float = math.nan
    joint_high: float = math.nan
    p_value: float = math.nan
    p_holm: float = math.nan
    verdict: Verdict = "no interval"
    p_examples: float = math.nan
    p_examples_holm: float = math.nan
    verdict_of_these: Verdict = "no interval"
    smallest: float = math.nan
    smallest_of_these: float = math.nan
    comparisons: int = 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All scores and differences.

    Attributes:
        confidence: of intervals and verdicts.
        power: of the smallest differences.
    """

    scores: tuple[Score, ...]
    differences: tuple[Difference, ...]
    confidence: float
    power: float

    def table(self) -> pd.DataFrame:
        """One row a track, task, method and rival; methods that are compared with none have a row without a rival."""
        key = ["track", "task", "shots", "method"]
        scores = pd.DataFrame(map(asdict, self.scores)).astype({"shots": "Int64"})
        differences = pd.DataFrame(map(asdict, self.differences), columns=list(Difference.__dataclass_fields__))
        differences = differences.astype({"shots": "Int64", "comparisons": "Int64"})
        table = scores.merge(differences, on=key, how="left", sort=False)
        return table.assign(confidence=self.confidence, power=self.power)


def compare_runs(
    runs: Sequence[RunTables],
    *,
    baselines: Sequence[str] = (),
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    power: float = POWER,
) -> Comparison:
    """Compare methods with rivals; the order of runs, methods and documents changes no number.

    Args:
        runs: of one config with other seeds, or a single one.
        baselines: the rivals; by default the best fixed weight, the untouched large model and the paper's rule, the
            students' baseline, and those of few-shot CLIP.
        methods: that are compared with them; by default all but ceilings and models that were not trained here.
        tasks: that are compared, averages among them; by default all. All three are to be chosen before the numbers
            are seen: the fewer comparisons, the smaller the differences that can be shown.
        power: with which ``Difference.smallest`` would be shown.

    Raises:
        UserError: the runs are not the same comparison, or have no method or task of such a name.
    """
    if not runs:
        raise UserError("There is no run to compare.")
    check_comparable(runs)
    found, confidence = repeated_tasks(runs), runs[0].config.evaluate.confidence
    _refuse_unknown("method", [*baselines, *methods], [name for task in found for name in task.values])
    _refuse_unknown("task", tasks, [task.task for task in found])
    chosen = [task for task in found if not tasks or task.task in tasks]
    families: dict[tuple[str, int | None], list[tuple[Difference, Crossed | None]]] = {}
    for task in chosen:
        families.setdefault((task.track, task.shots), []).extend(_differences(task, baselines, methods))
    return Comparison(
        scores=tuple(score for task in chosen for score in _scores(task, 1 - confidence)),
        differences=tuple(one for family in families.values() for one in _judge(family, 1 - confidence, power)),
        confidence=confidence,
        power=power,
    )


def _refuse_unknown(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"These runs have no {what} {name!r}; known are {', '.join(dict.fromkeys(known))}.")


def _scores(task: RepeatedTask, level: float) -> Iterator[Score]:
    common = {
        name: getattr(task, name) for name in ("track", "task", "shots", "metric", "better", "n", "runs", "seeds")
    }
    for method, value in task.values.items():
        score, observed = Score(method=method, score=value, **common), task.observed.get(method)
        if observed is not None:
            low, high = Crossed.of(observed).interval(level)
            ends = (max(low, 0.0), min(high, 1.0)) if observed.shares else (low, high)
            score = replace(score, score_low=ends[0], score_high=ends[1], **_ratios(task, method, observed, level))
        yield score


def _ratios(task: RepeatedTask, method: str, observed: Observations, level: float) -> dict[str, float]:
    """Score ratio and gap closure with their intervals, where they mean something."""
    base, ceiling = (task.observed.get(end) for end in task.ends)
    found: dict[str, float] = {}
    if ceiling is None or method in task.ends:
        return found
    if task.better == "higher":
        found |= zip(("score_ratio", "ratio_low", "ratio_high"), ratio_interval(observed, ceiling, level), strict=True)
    if base is not None:
        gap = (observed - base, ceiling - base) if task.better == "higher" else (base - observed, base - ceiling)
        found |= zip(("gap_closure", "closure_low", "closure_high"), ratio_interval(*gap, level), strict=True)
    return found


def _differences(
    task: RepeatedTask, baselines: Sequence[str], methods: Sequence[str]
) -> Iterator[tuple[Difference, Crossed | None]]:
    """Each pair once: of two rivals, the later one is compared with the earlier."""
    rivals, compared = (
        [name for name in dict.fromkeys(names) if name in task.values]
        for names in (baselines or task.rivals, methods or task.compared)
    )
    for method in compared:
        for place, rival in enumerate(rivals):
            turned = rival in compared and method in rivals[:place]
            if method == rival or turned:
                continue
            there = method in task.observed and rival in task.observed
            yield (
                Difference(
                    track=task.track, task=task.task, shots=task.shots, method=method, rival=rival,
                    difference=task.values[method] - task.values[rival],
                ),
                Crossed.of(task.observed[method] - task.observed[rival]) if there else None,
            )  # fmt: skip


def _judge(family: Sequence[tuple[Difference, Crossed | None]], level: float, power: float) -> Iterator[Difference]:
    """The differences of one table, corrected for their number."""
    p_values = np.array([math.nan if crossed is None else crossed.p_value for _, crossed in family])
    p_examples = np.array([math.nan if crossed is None else crossed.p_examples for _, crossed in family])
    count = int(np.isfinite(p_values).sum())
    corrected = zip(p_values, correct_holm(p_values), p_examples, correct_holm(p_examples), strict=True)
    for (one, crossed), (p_value, p_holm, p_of_these, p_of_these_holm) in zip(family, corrected, strict=True):
        if crossed is None or math.isnan(p_value):
            yield replace(one, comparisons=count)
            continue
        (low, high), (joint_low, joint_high) = crossed.interval(level), crossed.interval(level / count)
        yield replace(
            one, low=low, high=high, joint_low=joint_low, joint_high=joint_high,
            p_value=p_value, p_holm=p_holm, verdict=_say(one.difference, p_holm, level),
            p_examples=p_of_these, p_examples_holm=p_of_these_holm,
            verdict_of_these=_say(one.difference, p_of_these_holm, level),
            smallest=crossed.smallest_difference(level / count, power),
            smallest_of_these=crossed.of_these().smallest_difference(level / count, power),
            comparisons=count,
        )  # fmt: skip


def _say(difference: float, p_value: float, level: float) -> Verdict:
    if math.isnan(p_value):
        return "no interval"
    if not p_value < level:
        return "no difference shown"
    return "higher" if difference > 0 else "lower"
