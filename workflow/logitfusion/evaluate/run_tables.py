"""What finished runs left behind, and whether several of them measure the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from logitfusion.config.differences import find_differences
from logitfusion.config.run import RunConfig
from logitfusion.errors import UserError
from logitfusion.evaluate.scores import JudgedTask

DOCUMENT = ["subtask", "id"]
IMAGE = ["set", "id"]


@dataclass(frozen=True, kw_only=True)
class RunTables:
    """A finished run.

    Attributes:
        config: as it was run; its ``run`` is the run's name.
        digest: of the config, as in the tidy table.
        commit: of the code that made the numbers.
        fusion: task -> its judged documents.
        students: task -> those of the distillation.
        fewshot: data set -> ``method shots seed set id label correct``, one row an answer.
    """

    config: RunConfig
    digest: str
    commit: str
    fusion: Mapping[str, JudgedTask] = field(default_factory=dict)
    students: Mapping[str, JudgedTask] = field(default_factory=dict)
    fewshot: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def check_comparable(runs: Sequence[RunTables]) -> None:
    """Refuse runs that are not one comparison, repeated with other seeds.

    Raises:
        UserError: names the key of the configs, or the document, that differs; or the seed that was used twice.
    """
    first, *others = runs
    seeds = {first.config.seed: first.config.run}
    for other in others:
        seed, name = other.config.seed, other.config.run
        if seed in seeds:
            raise UserError(
                f"The runs {seeds[seed]!r} and {name!r} have the same seed {seed}, so they are one training; give every"
                " run a seed of its own."
            )
        seeds[seed] = name
        _check_configs(first.config, other.config)
        for one, same in zip(_documents(first), _documents(other), strict=True):
            _check_documents(first, other, one, same)


def _check_configs(first: RunConfig, other: RunConfig) -> None:
    """The same values, but for what repetitions differ in: the name, the page, and the seed wherever it was filled in.

    The order of keys does not count, that of lists does.
    """
    seeds = json.dumps(first.seed), json.dumps(other.seed)
    for key, ours, theirs in find_differences(first.dump(), other.dump()):
        filled = key.rpartition(".")[2] == "seed" and (ours, theirs) == seeds
        if not filled and key != "run" and key.partition(".")[0] != "report":
            raise UserError(
                f"The runs {first.run!r} and {other.run!r} are not the same comparison: {key} is {ours} in the first"
                f" and {theirs} in the other; only 'run' and 'seed' may differ."
            )


def _documents(run: RunTables) -> Iterator[tuple[str, pd.Series]]:
    """Each measured task with what was asked: the prompt or label of each document, by its number."""
    for track, judged in (("fusion", run.fusion), ("distill", run.students)):
        for task in sorted(judged):
            yield f"{track} task {task!r}", _asked(judged[task].examples, DOCUMENT, "prompt")
    for name in sorted(run.fewshot):
        yield f"data set {name!r}", _asked(run.fewshot[name], IMAGE, "label")


def _asked(table: pd.DataFrame, identity: list[str], asked: str) -> pd.Series:
    return table.drop_duplicates(identity).set_index(identity)[asked].sort_index()


def _check_documents(
    first: RunTables, other: RunTables, ours: tuple[str, pd.Series], theirs: tuple[str, pd.Series]
) -> None:
    (name, one), (_, same) = ours, theirs
    names = f"{first.config.run!r} and {other.config.run!r}"
    if alone := sorted(set(one.index) ^ set(same.index)):
        raise UserError(
            f"The runs {names} have other documents in {name}: only one has {_say_document(alone[0])}"
            f" ({len(alone)} such); give the task a split_seed and equal sizes."
        )
    differing = one.index[(one != same.loc[one.index]).to_numpy()]
    if len(differing):
        raise UserError(
            f"The runs {names} ask something else in {name}: {_say_document(differing[0])} differs ({len(differing)}"
            " such); its data must be the same in all runs."
        )


def _say_document(identity: tuple[Any, Any]) -> str:
    return f"document {identity[1]} of {identity[0]!r}"
