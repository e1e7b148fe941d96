"""What remembers that a test split was decoded: a file for each run of a comparison, written once, beside the results.

Nobody is stopped who deletes it: it protects from oneself.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from logitfusion.artefact import read_artefact, write_artefact
from logitfusion.config.section import Section, Sha256
from logitfusion.provenance import find_commit


class DecodedRun(Section):
    """A run whose test split was decoded."""

    comparison: str
    run: str
    frozen: Sha256
    """What was decoded: the digest of the comparison, or of the run alone where nothing was frozen."""
    exploratory: bool
    date: str
    """When the first job of it began (UTC)."""
    commit: str
    """Of the code."""


def records_folder(comparison: str, results: Path = Path("results")) -> Path:
    """Where a comparison's runs are remembered; no run has such a name."""
    return results / f"{comparison}.decoded"


def remember(folder: str | Path, *, comparison: str, run: str, frozen: str, exploratory: bool) -> None:
    """Write that a run is being decoded, unless it is written already."""
    path = Path(folder) / f"{run}{'.exploratory' if exploratory else ''}.json"
    if path.exists():
        return
    date = datetime.now(UTC).isoformat(timespec="seconds")
    record = DecodedRun(
        comparison=comparison, run=run, frozen=frozen, exploratory=exploratory, date=date, commit=find_commit()
    )
    write_artefact(path, record.dump())


def read_decoded(folder: str | Path) -> list[DecodedRun]:
    """The runs that were decoded, the first one first.

    Raises:
        UserError: a record is damaged.
    """
    mend = "put the former file back: it remembers that a test split was decoded"
    found = [read_artefact(path, DecodedRun, mend=mend) for path in Path(folder).glob("*.json")]
    return sorted(found, key=lambda record: (record.date, record.run))
