"""A record of a run, made up: what tests of progress and of records begin with."""

from __future__ import annotations

from dataclasses import replace

from logitfusion.progress.record import Machine, RunRecord

MACHINE = Machine(2, 8.0, "Linux x86_64")


def record(planned: int = 1, **changes: object) -> RunRecord:
    """A call that runs, with some of its fields changed."""
    empty = RunRecord(
        run="r", started="2026-01-02T03:04:05+00:00", seconds=0.0, state="running", machine=MACHINE, cores=2,
        executor="local", snakemake="9", commit="c", total=planned, planned=planned,
    )  # fmt: skip
    return replace(empty, **changes)
