"""The page of the study: its template's places, filled from the stored comparisons and facts alone.

``[[track/method/task]]`` is a score, ``[[track/method/task/rival]]`` a difference and what it shows, ``[[table T]]`` a
table; few-shot tasks are written with their shots, ``emoji@8``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from logitfusion.errors import UserError
from logitfusion.files import write_text

TEMPLATE = Path(__file__).parent / "templates/study.md"
ABSENT = "*This part of the study was not run.*"
SEEN, UNSEEN = "seen tasks", "unseen tasks"  # the averages of the fusion track
Tables = Mapping[str, pd.DataFrame]
_PLACE = re.compile(r"\[\[(?P<what>[^\[\]]+)\]\]")


def write(facts: dict[str, Any], compared: Tables, path: Path) -> None:
    """Write the page.

    Args:
        facts: of ``study.json``.
        compared: track -> the table of ``logitfusion compare``.

    Raises:
        UserError: a place of the template names a number that the study does not have.
    """
    write_text(path, fill(TEMPLATE.read_text(encoding="utf-8"), facts, compared))


def fill(template: str, facts: dict[str, Any], compared: Tables) -> str:
    """A template with the study's numbers in their places."""

    def value(place: re.Match[str]) -> str:
        what = place["what"]
        if what == "facts":
            return describe(facts)
        if what.startswith("table "):
            track, make = TABLES[what.removeprefix("table ")]
            return make(compared[track]) if track in compared else ABSENT
        return show(compared, what)

    return _PLACE.sub(value, template)


def show(compared: Tables, what: str) -> str:
    """A score as ``track/method/task``, or a difference as ``track/method/task/rival``."""
    track, method, task, *rival = what.split("/")
    if track not in compared:
        return "(not run)"
    rows = _at(compared[track], task)
    rows = rows[(rows["method"] == method) & (rows["rival"].isin(rival) if rival else True)]
    if rows.empty:
        raise UserError(f"[[{what}]]: the study has no such number.")
    return _difference(rows.iloc[0]) if rival else _score(rows.iloc[0])


def count(table: pd.DataFrame, task: str) -> int:
    """The test examples of a task, or of an average of tasks."""
    return int(_at(table, task)["n"].max())


def _at(table: pd.DataFrame, task: str) -> pd.DataFrame:
    name, _, shots = task.partition("@")
    rows = table[table["task"] == name]
    return rows[rows["shots"] == int(shots)] if shots else rows


def describe(facts: dict[str, Any]) -> str:
    """A line for each run: when, from which commit, on what, how long."""
    lines = ["| run | date | commit | config | machine | jobs | minutes, added up |", "| --- " * 7 + "|"]
    for run in facts["runs"]:
        minutes = sum(stage["seconds"] for stage in run["stages"]) / 60
        cells = (run["run"], run["date"], run["commit"], run["config"], _machine(run), run["jobs"], f"{minutes:.0f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    versions = {f"{name} {number}": None for run in facts["runs"] for name, number in run["versions"].items()}
    commands = " and ".join(f"`{command}`" for command in facts["commands"])
    return "\n".join([*lines, "", f"Made by {commands}; {', '.join(versions)}."])


def _machine(run: dict[str, Any]) -> str:
    machine = run["machine"]
    if machine is None:
        return "not recorded"
    return ", ".join([f"{machine['cpus']} CPUs", *dict.fromkeys(machine.get("gpus", ()))])


def _score(row: pd.Series) -> str:
    return _span(row["score"], row["score_low"], row["score_high"])


def _difference(row: pd.Series) -> str:
    return f"{_span(row['difference'], row['low'], row['high'], '+')}, {row['verdict']}"


def _span(value: float, low: float, high: float, sign: str = "") -> str:
    if value != value:  # NaN
        return ""
    return f"{value:{sign}.2f}" + (f" [{low:{sign}.2f}, {high:{sign}.2f}]" if low == low else "")


def _markdown(rows: list[dict[str, str]]) -> str:
    """A table; each row has the same keys, which are its columns."""
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _methods(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["method"]))


def _cell(table: pd.DataFrame, method: str, show_row: Callable[[pd.Series], str], rival: str | None = None) -> str:
    rows = table[table["method"] == method]
    rows = rows if rival is None else rows[rows["rival"] == rival]
    return "" if rows.empty else show_row(rows.iloc[0])


def _closure(row: pd.Series) -> str:
    return _span(row["gap_closure"], row["closure_low"], row["closure_high"])


def tabulate_averages(table: pd.DataFrame) -> str:
    """Fusion over the seen and the unseen tasks: score, gap closure, and differences to the rivals."""
    seen, unseen = _at(table, SEEN), _at(table, UNSEEN)
    rivals = list(dict.fromkeys(seen["rival"].dropna()))
    return _markdown(
        [
            {"method": method, SEEN: _cell(seen, method, _score), "gap closure": _cell(seen, method, _closure)}
            | {f"less {rival}": _cell(seen, method, _difference, rival) for rival in rivals}
            | {UNSEEN: _cell(unseen, method, _score), "less large, unseen": _cell(unseen, method, _difference, "large")}
            for method in _methods(table)
            if method in set(seen["method"])
        ]
    )


def tabulate_goals(table: pd.DataFrame) -> str:
    """Each difference, whether it is shown over trainings and over examples alone, and what could have been shown."""
    return _markdown(
        [
            {
                "tasks": row["task"], "method": row["method"], "less": row["rival"],
                "difference": _span(row["difference"], row["low"], row["high"], "+"), "shown": row["verdict"],
                "of these trainings": row["verdict_of_these"], "smallest": f"{row['smallest']:.2f}",
            }
            for _, row in table.dropna(subset=["rival"]).iterrows()
        ]
    )  # fmt: skip


def tabulate_tasks(table: pd.DataFrame) -> str:
    """Every method's score on every task."""
    tasks = list(dict.fromkeys(table["task"]))
    return _markdown(
        [
            {"method": method} | {task: _cell(_at(table, task), method, _score) for task in tasks}
            for method in _methods(table)
        ]
    )


def tabulate_graph(table: pd.DataFrame) -> str:
    """Each method with the graph term less the same without it."""
    tasks = list(dict.fromkeys(table["task"]))
    pairs = {method: method.partition("gld")[0].rstrip("_") or "sft" for method in _methods(table) if "gld" in method}
    return _markdown(
        [
            {"method": method, "less": plain}
            | {task: _cell(_at(table, task), method, _difference, plain) for task in tasks}
            for method, plain in pairs.items()
        ]
    )


def tabulate_shots(table: pd.DataFrame) -> str:
    """Few-shot accuracy of every method on every set, at the fewest and the most shots."""
    places = [(task, shots) for task in dict.fromkeys(table["task"]) for shots in (1, 4, 16)]
    kept = [f"{task}@{shots}" for task, shots in places if not _at(table, f"{task}@{shots}").empty]
    return _markdown(
        [
            {"method": method} | {place: f"{100 * _value(table, place, method):.1f}" for place in kept}
            for method in _methods(table)
        ]
    )


def _value(table: pd.DataFrame, place: str, method: str) -> float:
    rows = _at(table, place)
    return float(rows[rows["method"] == method]["score"].iloc[0])


# Name of a table -> its track, and what makes it.
TABLES: dict[str, tuple[str, Callable[[pd.DataFrame], str]]] = {
    "goals": ("goals", tabulate_goals),
    "averages": ("fusion", tabulate_averages),
    "tasks": ("fusion", tabulate_tasks),
    "students": ("distill", tabulate_tasks),
    "graph": ("distill", tabulate_graph),
    "converged students": ("converged", tabulate_tasks),
    "converged graph": ("converged", tabulate_graph),
    "shots": ("clip", tabulate_shots),
}
