"""Pages out of templates: ``[[track/method/task/metric]]`` is a number of a stored run, ``[[table T]]`` a table."""

from __future__ import annotations

import re
from pathlib import Path

from generate.stored import Facts, StoredRun
from logitfusion.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"
_PLACE = re.compile(r"\[\[(?P<what>[^\[\]|]+)(?:\|(?P<form>\w+))?\]\]")
TABLES = {"fusion": "summary.md", "distill": "distill_summary.md", "clip": "clip_summary.md"}
HEADINGS = {"fusion": "Fusion", "distill": "Distillation", "clip": "Few-shot classification"}


def fill(template: str, run: StoredRun, tables: dict[str, str]) -> str:
    """A template with the run's numbers in their places.

    Args:
        tables: track -> its summary in Markdown.

    Raises:
        UserError: a place names a number that the run does not have.
    """

    def value(place: re.Match[str]) -> str:
        match place["what"].split(" ", 1):
            case ["facts"]:
                return describe(run.facts)
            case ["cost"]:
                return tabulate_cost(run.facts)
            case ["table", track]:
                return tables[track].strip()
        return show(run, place["what"], place["form"] or "interval")

    return _PLACE.sub(value, template)


def show(run: StoredRun, what: str, form: str) -> str:
    """A number of a run, as ``track/method/task/metric`` or, few-shot, ``.../metric@shots``.

    Args:
        form: ``interval`` (0.46 [0.41, 0.52]), ``plain`` (0.46), ``percent`` (46 % [41, 52], or 46 %), ``points``
            (46.1), ``count`` (of the n examples: 46) and ``n``.
    """
    path, _, shots = what.partition("@")
    if path.count("/") != 3:
        raise UserError(f"[[{what}]] names no number; write track/method/task/metric.")
    row = run.find(*path.split("/"), shots=int(shots) if shots else None)
    number, low, high = row["value"], row["ci_low"], row["ci_high"]
    unsure = low == low  # NaN is not
    match form:
        case "interval":
            return f"{number:.2f}" + (f" [{low:.2f}, {high:.2f}]" if unsure else "")
        case "plain":
            return f"{number:.2f}"
        case "percent":
            return f"{number:.0%}".replace("%", " %") + (f" [{100 * low:.0f}, {100 * high:.0f}]" if unsure else "")
        case "points":
            return f"{100 * number:.1f}"
        case "count":
            return f"{number * row['n']:.0f}"
        case "n":
            return f"{row['n']:.0f}"
    raise UserError(f"[[{what}|{form}]]: there is no such form.")


def compose(run: StoredRun, tables: dict[str, str]) -> str:
    """The page of a run: its own template, or one section for each table."""
    template = TEMPLATES / f"{run.facts.run}.md"
    if template.is_file():
        return fill(template.read_text(encoding="utf-8"), run, tables)
    sections = [f"## {HEADINGS[track]}\n\n[[table {track}]]\n" for track in tables]
    plain = "\n".join([f"# Run {run.facts.run}\n\n[[facts]]\n", *sections, "## What it cost\n\n[[cost]]\n"])
    return fill(plain, run, tables)


def describe(facts: Facts) -> str:
    """A sentence on where the numbers come from."""
    return (
        f"Run `{facts.run}` of {facts.date}, config `{facts.config}`, commit `{facts.commit}`, packages of the lock"
        f" file `{facts.lock}`. {describe_time(facts)} This page and the tables behind it"
        f" ([{facts.run}.csv]({facts.run}.csv)) were written by `make results`."
    )


def describe_time(facts: Facts, whose: str = "Its") -> str:
    """How long the run took, by the clock where one call did all of it, else job by job."""
    machine = f" on {facts.cores} cores" if facts.cores else ""
    if facts.seconds is not None:
        return f"{whose} {facts.jobs} jobs took {facts.seconds / 60:.0f} minutes{machine}."
    summed = sum(stage.seconds for stage in facts.stages)
    return f"{whose} {facts.jobs} jobs took {summed / 60:.0f} minutes{machine}, added up; several ran at a time."


def tabulate_cost(facts: Facts) -> str:
    """Jobs, minutes and memory by stage, the longest first."""
    lines = ["| stage | jobs | minutes, added up | most memory of a job, MB |", "| --- | --- | --- | --- |"]
    for stage in sorted(facts.stages, key=lambda stage: -stage.seconds):
        lines.append(f"| {stage.name} | {stage.jobs} | {stage.seconds / 60:.1f} | {stage.memory_mb:.0f} |")
    note = "Measured by Snakemake, job by job; jobs that run beside each other slow each other down."
    return "\n".join(lines) + f"\n\n{note}"
