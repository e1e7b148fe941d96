"""Finished runs as docs/results keeps them: ``<run>.csv`` (the tidy table) and ``<run>.json`` (how it was made)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from logitfusion.errors import UserError
from logitfusion.evaluate.table import COLUMNS, DTYPES
from logitfusion.files import read_json, sha256, write_json
from logitfusion.progress.record import latest_jobs, read_records
from logitfusion.tables import read_table, write_table

DOCS = Path(__file__).parents[1]
FOLDER = DOCS / "results"
_KEYS = ("track", "method", "task", "shots", "metric")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The jobs of one kind: how many, their seconds together, and the most memory that one of them held."""

    name: str
    jobs: int
    seconds: float
    memory_mb: float


@dataclass(frozen=True, kw_only=True)
class Facts:
    """How the numbers of a run came to be."""

    run: str
    config: str
    """The digest of the whole config, as in the tidy table."""
    commit: str
    date: str
    lock: str
    """The first digits of the SHA-256 of requirements.lock."""
    cores: int | None
    """Of the machine that its jobs shared, where a record says so."""
    jobs: int
    seconds: float | None
    """From the start of the run to its end, where one call did all of it."""
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class StoredRun:
    """A run's facts and its tidy table; the rows of single seeds are left out where there is one over all."""

    facts: Facts
    table: pd.DataFrame

    def find(self, track: str, method: str, task: str, metric: str, shots: int | None = None) -> pd.Series:
        """The one row of a number.

        Raises:
            UserError: there is none, or more than one.
        """
        wanted = {"track": track, "method": method, "task": task, "metric": metric}
        rows = self.table
        for column, value in wanted.items():
            rows = rows[rows[column] == value]
        rows = rows[rows["shots"].isna()] if shots is None else rows[rows["shots"] == shots]
        if len(rows) != 1:
            at = f" at {shots} shots" if shots is not None else ""
            raise UserError(f"Run {self.facts.run} has {len(rows)} numbers {'/'.join(wanted.values())}{at}, not one.")
        return rows.iloc[0]


def collect(results: Path) -> StoredRun:
    """Read what a finished run left in its folder of results.

    Raises:
        UserError: it is not finished, or a file is damaged.
    """
    table = read_table(results / "metrics.parquet")
    table = table.reindex(columns=list(COLUMNS))  # a run of an earlier version may lack one
    whole = table["seed"].isna()
    table = table[whole | ~whole.groupby([table[key] for key in _KEYS], dropna=False).transform("any")]
    first = table.iloc[0]
    table = pd.concat([table, *map(_steering, _examples(results, table))], ignore_index=True).astype(DTYPES)
    records = read_records(results / "runs")
    complete = next((one for one in records if one.state == "finished" and one.planned == one.total), None)
    facts = Facts(
        run=first["run"],
        config=first["config"],
        commit=first["commit"],
        date=pd.Timestamp((results / "metrics.parquet").stat().st_mtime, unit="s").strftime("%Y-%m-%d"),
        lock=sha256(DOCS.parent / "requirements.lock")[:10],
        cores=records[0].cores if records else None,
        jobs=len(latest_jobs(records)) or len(list((results / "benchmarks").rglob("*.tsv"))),
        seconds=complete and complete.seconds,
        stages=_stages(results / "benchmarks"),
    )
    return StoredRun(facts, table)


def write(run: StoredRun, folder: Path = FOLDER) -> None:
    """Keep a run beside its page."""
    write_json(folder / f"{run.facts.run}.json", asdict(run.facts))
    write_table(run.table.round(6), folder / f"{run.facts.run}.csv")


def read(name: str, folder: Path = FOLDER) -> StoredRun:
    """A run that was kept."""
    value = read_json(folder / f"{name}.json")
    value["stages"] = tuple(Stage(**stage) for stage in value["stages"])
    return StoredRun(Facts(**value), _read_csv(folder / f"{name}.csv"))


def _read_csv(path: Path) -> pd.DataFrame:
    """The tidy table, each column as it was: a commit of digits alone is a text."""
    return pd.read_csv(path, dtype=DTYPES)


def _stages(benchmarks: Path) -> tuple[Stage, ...]:
    """What Snakemake measured of each job, by the folder that it wrote it to."""
    found: dict[str, list[pd.Series]] = {}
    for path in sorted(benchmarks.rglob("*.tsv")):
        parts = path.relative_to(benchmarks).with_suffix("").parts
        name = "/".join(parts[: 2 if parts[0] in ("clip", "distill") else 1])
        found.setdefault(name, []).append(pd.read_csv(path, sep="\t", na_values="-").iloc[0])
    return tuple(
        Stage(
            name=name,
            jobs=len(rows),
            seconds=round(float(sum(row["s"] for row in rows)), 1),
            memory_mb=round(float(pd.Series([row["max_rss"] for row in rows]).max()), 1),
        )
        for name, rows in found.items()
    )


def _examples(results: Path, tidy: pd.DataFrame) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """For each task the fusion track's numbers of it, and its judged examples."""
    tidy = tidy[tidy["track"] == "fusion"]
    found = sorted((results / "evaluation").glob("*.parquet"))
    return [(tidy[tidy["task"] == path.stem], read_table(path)) for path in found]


def _steering(pair: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    """Of texts that several experts may steer: the share whose first token each one steers, and that nobody touches."""
    tidy, examples = pair
    rows = []
    for method, group in examples.groupby("method", sort=False):
        steered = group[group["weights"].map(lambda steps: len(steps) > 0 and len(steps[0]) > 1)]
        if steered.empty:
            continue
        like = tidy[tidy["method"] == method].iloc[0].to_dict() | {"ci_low": None, "ci_high": None, "seconds": None}
        chosen = steered["expert"].map(lambda steps: int(steps[0]))
        for place in range(len(steered["weights"].iloc[0][0])):
            rows.append(like | {"metric": f"first_token_by_{place}", "value": float((chosen == place).mean())})
        alone = steered["weights"].map(lambda steps: all(abs(weight) < 1e-12 for step in steps for weight in step))
        rows.append(like | {"metric": "left_alone", "value": float(alone.mean())})
    return pd.DataFrame(rows, columns=list(COLUMNS))
