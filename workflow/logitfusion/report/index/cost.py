"""What it cost: time, memory, tokens a second and bytes of caches, by stage and by method."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from logitfusion.progress.duration import format_duration, format_memory
from logitfusion.report.index.comparisons import make_comparisons
from logitfusion.report.index.facts import Facts
from logitfusion.report.index.grids import Cell, Column, Grid, plain_cell, show_grid
from logitfusion.report.index.measurements import Measurement, read_jobs, read_measurements, say_sharing
from logitfusion.report.index.page import PageSection, read_asset
from logitfusion.report.index.words import escape

Key = TypeVar("Key")
Item = TypeVar("Item")
SECONDS = Column("time", "lower", "wall time of all its jobs, added")
MEMORY = Column("peak memory", "lower", "the largest job's resident memory")


def cost_section(facts: Facts) -> PageSection:
    """By stage, by method, decoding speed, caches."""
    measured = read_measurements(facts)
    grids = [_by_stage(measured), _by_method(facts, measured), _speed(facts), _caches(facts)]
    titles = ("By stage", "By method", "Decoding speed", "Caches of teachers")
    body = [
        f"<article><h3>{escape(title)}</h3>{show_grid(grid)}</article>"
        for title, grid in zip(titles, grids, strict=True)
        if grid.rows
    ]
    none = '<p class="note">Nothing was measured: there are no benchmarks of this run.</p>'
    return PageSection("cost", "Cost", "\n".join(body) or none, style=read_asset("cost.css"))


def _by_stage(measured: list[Measurement]) -> Grid:
    groups = _group(measured, lambda one: one.stage)
    longest = max((sum(one.seconds for one in group) for group in groups.values()), default=1.0)
    rows = [[Cell(stage), *_cost_cells(group, longest)] for stage, group in groups.items()]
    rows.sort(key=lambda row: -(row[2].value or 0))
    total = format_duration(sum(one.seconds for one in measured)) if measured else ""
    note = (
        f"Snakemake's benchmarks of each job: {total} of jobs in all, which overlap where the machine runs several at"
        " once, and are then slower than alone. Cores: CPU time over wall time; below 1, a job waited."
    )
    columns = [Column("stage"), Column("jobs"), SECONDS, Column("longest job", "lower"), MEMORY, Column("cores busy")]
    return Grid("cost-stages", "Cost by stage", columns, rows, note)


def _by_method(facts: Facts, measured: list[Measurement]) -> Grid:
    groups: dict[tuple[str, str, str], list[Measurement]] = {}
    for comparison in make_comparisons(facts):
        for method in comparison.methods:
            mine = [one for one in measured if method in one.names and _is_of(one, comparison.track)]
            for stage, group in _group(mine, lambda one: one.stage).items():
                groups[method, comparison.title, stage] = group
    longest = max((sum(one.seconds for one in group) for group in groups.values()), default=1.0)
    jobs = read_jobs(facts)
    rows = [
        [*map(Cell, key), *_cost_cells(group, longest), Cell(say_sharing(jobs, key[0]))]
        for key, group in groups.items()
    ]
    columns = [Column("method"), Column("track", filtered=True), Column("stage", filtered=True), Column("jobs")]
    columns += [SECONDS, Column("longest job", "lower"), MEMORY, Column("cores busy"), Column("machine")]
    note = "Machine: whether other jobs ran at the same time (shared), by the records of the calls."
    return Grid("cost-methods", "Cost by method", columns, rows, note)


def _is_of(one: Measurement, track: str) -> bool:
    """Whether a job is one of a track's methods: making the models that have the same names is not."""
    first = one.stage.partition("/")[0]
    return first == track or (track == "fusion" and first == "tuning")


def _cost_cells(group: list[Measurement], longest: float) -> list[Cell]:
    seconds = sum(one.seconds for one in group)
    memory = max((one.memory_mb for one in group if one.memory_mb is not None), default=None)
    cpu = sum(one.cpu_seconds or 0.0 for one in group)
    return [
        plain_cell(float(len(group)), ".0f"),
        Cell(format_duration(seconds), value=seconds, bar=_share(seconds, longest)),
        Cell(format_duration(max(one.seconds for one in group)), value=max(one.seconds for one in group)),
        Cell() if memory is None else Cell(format_memory(memory), value=memory),
        plain_cell(cpu / seconds if seconds else None, ".1f"),
    ]


def _share(value: float, largest: float) -> float | None:
    return value / largest if largest > 0 else None


def _speed(facts: Facts) -> Grid:
    """Tokens a second of every fusion method, by task, each next to the large model alone."""
    table, jobs = facts.track("fusion"), read_jobs(facts)
    rows = []
    if len(table):
        speeds = table[table["metric"] == "tokens_per_second"]
        base = speeds[speeds["method"] == facts.run.evaluate.base].set_index("task")["value"]
        times = table[table["seconds"].notna()].groupby(["method", "task"])["seconds"].first()
        fastest = speeds["value"].max()
        for row in speeds.itertuples():
            ratio = row.value / base[row.task] if row.task in base.index else None
            speed = Cell(f"{row.value:.0f}", value=row.value, bar=_share(row.value, fastest))
            seconds = times.get((row.method, row.task))
            time = Cell() if seconds is None else Cell(format_duration(seconds), value=seconds)
            machine = Cell(say_sharing(jobs, row.task, "decode"))
            rows.append([Cell(row.method), Cell(row.task), time, speed, plain_cell(ratio), machine])
    columns = [Column("method"), Column("task", filtered=True), Column("time", "lower", "of all answers")]
    columns += [Column("tokens/s", "higher")]
    columns += [Column(f"times {facts.run.evaluate.base}", "higher"), Column("machine")]
    note = (
        "Tokens of all answers over the seconds that decoding them took, models already loaded; a pass over prompts"
        " that several methods share counts for each. Machine: shared means that another job ran at the same time, so"
        " the number is lower than alone; make bench-fusion measures alone."
    )
    return Grid("cost-speed", "Decoding speed", columns, rows, note)


def _caches(facts: Facts) -> Grid:
    rows = []
    for teacher, paths in _group(
        [path for path in facts.files.caches if path.exists()], lambda path: path.parent.name
    ).items():
        size = sum(path.stat().st_size for path in paths)
        rows.append([Cell(teacher), plain_cell(float(len(paths)), ".0f"), Cell(_say_bytes(size), value=float(size))])
    columns = [Column("teacher"), Column("shards"), Column("bytes", "lower")]
    return Grid("cost-caches", "Caches of teachers", columns, rows, "Top-k logits on disk, read by every student.")


def _say_bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _group(items: list[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
