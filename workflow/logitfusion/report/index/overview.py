"""Ten seconds: what ran, on which models, and what came out."""

from __future__ import annotations

from datetime import UTC, datetime

from logitfusion.config.jobs.protocol import tested_tracks
from logitfusion.config.jobs.report import metrics_job
from logitfusion.config.run import RunConfig
from logitfusion.files import sha256
from logitfusion.progress.duration import format_duration
from logitfusion.progress.record import RunRecord, read_records
from logitfusion.provenance import find_commit
from logitfusion.report.index.comparisons import Comparison, make_comparisons
from logitfusion.report.index.facts import Facts
from logitfusion.report.index.forest import choose_scale, draw_forest
from logitfusion.report.index.models import describe_sources, list_models, say_size
from logitfusion.report.index.page import PageSection, read_asset
from logitfusion.report.index.problems import find_problems
from logitfusion.report.index.verdicts import tell_other_tasks, tell_references, warn_of_no_width, write_verdicts
from logitfusion.report.index.words import counted, escape, listed


def overview_section(facts: Facts) -> PageSection:
    """The first section: what ran, problems if any, verdicts with their differences, models."""
    comparisons = make_comparisons(facts)
    body = [
        _show_run(facts),
        _show_problems(facts),
        *map(_show_track, comparisons),
        "<h3>Models</h3>",
        _show_models(facts),
    ]
    return PageSection("overview", "Overview", "\n".join(body), style=read_asset("overview.css"))


def _show_problems(facts: Facts) -> str:
    found = find_problems(facts)
    if not found:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in found)
    return f'<div class="problem" role="note"><strong>Not as it should be</strong><ul>{items}</ul></div>'


def _show_track(comparison: Comparison) -> str:
    """Verdicts with the plot that they are read from; the other tasks' plots fold."""
    head = f'<article class="track"><h3>{escape(comparison.title)}</h3>'
    if comparison.rows.empty:
        return f'{head}<p class="problem">There are no numbers of this track.</p></article>'
    verdicts = write_verdicts(comparison)
    sentences = "".join(f'<p class="verdict">{_stress(sentence)}</p>' for sentence in verdicts)
    others = [warn_of_no_width(comparison, method) for method in comparison.spoken] + [tell_references(comparison)]
    others += [tell_other_tasks(comparison, method) for method in list(comparison.spoken)[:1]]
    sentences += "".join(f'<p class="note">{escape(sentence)}</p>' for sentence in others if sentence)
    if comparison.baseline is None:
        return (
            f"{head}{sentences}<p class=note>The config names no baseline, so no differences are shown.</p></article>"
        )
    first, *more = [draw_forest(comparison, task, choose_scale(comparison, task)) for task in comparison.tasks]
    folded = "".join(more)
    details = (
        f"<details><summary>The same on each of: {escape(listed(comparison.tasks[1:]))}</summary>{folded}</details>"
    )
    return f"{head}{sentences}{first}{details if folded else ''}</article>"


def _stress(sentence: str) -> str:
    """The method's name in bold; the judgement too."""
    name, _, rest = escape(sentence).partition(" ")
    for words in ("no difference shown", "worse"):
        rest = rest.replace(f": {words}", f": <strong>{words}</strong>")
    return f"<strong>{name}</strong> {rest}"


def _show_run(facts: Facts) -> str:
    pairs = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in _run_facts(facts).items())
    return f'<dl class="facts">{pairs}</dl>'


def _run_facts(facts: Facts) -> dict[str, str]:
    run, files = facts.run, facts.files
    records = read_records(files.runs) if files.runs is not None else []
    seeds = {"all": [run.seed]}
    if run.distill:
        seeds["students"] = list(run.distill.seeds)
    if run.clip:
        seeds["few-shot"] = list(run.clip.seeds)
    found = {
        "models": "; ".join(describe_sources(facts)),
        "jobs": _say_jobs(records[0]) if records else "no record of the call",
        "machine": _say_machine(records[0]) if records else "",
        "date": _say_date(facts, records),
        "commit": _say_commit(facts),
        "config": metrics_job(run).config,
        "protocol": _say_protocol(run),
        "lock": sha256(files.lock)[:12] if files.lock is not None and files.lock.exists() else "not found",
        "seeds": "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in seeds.items()),
    }
    return {name: text for name, text in found.items() if text}


def _say_protocol(run: RunConfig) -> str:
    """Whether test splits were decoded as they had been frozen; empty where nothing was to be."""
    if run.protocol is None or not tested_tracks(run):
        return ""
    words = "exploratory: test splits may have been seen before anything was chosen"
    if not run.protocol.exploratory:
        words = f"confirmatory: test splits were decoded as frozen in {run.protocol.frozen}"
    return f"comparison {run.protocol.comparison}, {words}"


def _say_jobs(record: RunRecord) -> str:
    """``95 of 95 jobs, 19 min, 2 cores``; this page's own job counts, because the page is there."""
    own = sum(job.rule == "index" and job.state == "running" for job in record.jobs)
    cores = f", {counted(record.cores, 'core')}" if record.cores else f", on {record.executor}"
    text = f"{record.done + own} of {record.total} jobs, {format_duration(record.seconds)}{cores}"
    if record.planned < record.total:
        text += f" (this call ran {record.finished + own} of them; the others were there)"
    return text + (f"; {record.failed} failed" if record.failed else "")


def _say_machine(record: RunRecord) -> str:
    machine = record.machine
    return f"{machine.system}, {counted(machine.cpus, 'CPU')}, {machine.memory_gb:.0f} GB"


def _say_date(facts: Facts, records: list[RunRecord]) -> str:
    if records:
        return f"{records[0].started[:16].replace('T', ' ')} UTC"
    if not facts.files.metrics.exists():
        return ""
    return f"{datetime.fromtimestamp(facts.files.metrics.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC"


def _say_commit(facts: Facts) -> str:
    """The code's commit now, and that of the numbers where it is another."""
    now = find_commit()
    made = list(dict.fromkeys(facts.metrics["commit"])) if len(facts.metrics) else []
    return now if made in ([], [now]) else f"{listed(made)} (numbers), {now} (page)"


def _show_models(facts: Facts) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(row.name)}</th><td data-label="what it is">{escape(row.real)}</td>'
        f'<td data-label="parameters" class="number">{say_size(row.parameters)}</td>'
        f'<td data-label="role">{"<br>".join(map(escape, row.roles))}</td></tr>'
        for row in list_models(facts)
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("name", "what it is", "parameters", "role"))
    return f'<table class="plain cards" aria-label="Models"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
