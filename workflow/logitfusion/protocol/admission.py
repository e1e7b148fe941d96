"""Whether a test split may be decoded: only as it was frozen, committed, and not after another configuration."""

from __future__ import annotations

import logging
from pathlib import Path

from logitfusion.config.jobs.protocol import ProtocolJob
from logitfusion.config.run import RunConfig
from logitfusion.errors import UserError
from logitfusion.protocol.frozen import FrozenComparison, FrozenRun, first_difference, freeze_run, read_frozen
from logitfusion.protocol.records import read_decoded, records_folder, remember
from logitfusion.provenance import is_committed

logger = logging.getLogger(__name__)

WAY_OUT = "or set protocol.exploratory: true"


def make_job(run: RunConfig, results: Path = Path("results")) -> ProtocolJob:
    """The protocol of a run's jobs that decode a test split.

    Args:
        run: with a protocol.
        results: the folder of all runs.

    Raises:
        UserError: a file that the config names can't be read.
    """
    comparison = run.protocol.comparison
    return ProtocolJob(
        comparison=comparison,
        run=run.run,
        frozen=run.protocol.frozen,
        records=str(records_folder(comparison, results)),
        digest=freeze_run(run).digest,
        exploratory=run.protocol.exploratory,
    )


def begin_decoding(job: ProtocolJob) -> None:
    """Check that a job may decode its test split, and remember that it does.

    Raises:
        UserError: as ``check``.
    """
    if job.exploratory:
        logger.warning("the test split is decoded as exploratory: its numbers confirm nothing")
    digest = job.digest if job.exploratory else check(job).digest
    remember(job.records, comparison=job.comparison, run=job.run, frozen=digest, exploratory=job.exploratory)


def check(job: ProtocolJob, run: RunConfig | None = None) -> FrozenComparison:
    """Refuse to decode a test split of a comparison that is not as it was frozen.

    Args:
        job: of a run that is not exploratory.
        run: its config, where that is at hand; the key that differs can be named then.

    Returns:
        What was frozen.

    Raises:
        UserError: the file is missing or damaged, of another comparison or without the run; the run differs from what
            is frozen; the file is not committed; or the comparison was decoded as it was frozen before.
    """
    frozen = _read(job)
    former = frozen.runs.get(job.run)
    if former is None:
        raise UserError(
            f"The run {job.run!r} is not among those that {job.frozen} freezes ({', '.join(sorted(frozen.runs))}):"
            f" freeze and commit it before its test split is decoded, {WAY_OUT}."
        )
    if former.digest != job.digest:
        raise UserError(f"{_tell_difference(former, run)} ({job.frozen}); set it back, {WAY_OUT}.")
    _check_commit(job.frozen)
    _check_records(job, frozen)
    return frozen


def _read(job: ProtocolJob) -> FrozenComparison:
    if not Path(job.frozen).is_file():
        raise UserError(
            f"The comparison {job.comparison!r} is not frozen ({job.frozen} does not exist): write it with `logitfusion"
            f" freeze CONFIG` and commit it before a test split is decoded, {WAY_OUT}."
        )
    frozen = read_frozen(job.frozen)
    if frozen.comparison != job.comparison:
        raise UserError(
            f"{job.frozen} freezes the comparison {frozen.comparison!r}, not {job.comparison!r}: name another file in"
            " protocol.frozen."
        )
    return frozen


def _tell_difference(frozen: FrozenRun, run: RunConfig | None) -> str:
    found = None if run is None else first_difference(frozen, freeze_run(run))
    if found is None:
        return "The config is not the one that is frozen"
    if found.key.startswith("files of "):
        return f"The {found.key} hold something else than what is frozen"
    return f"Config key {found.key!r} is {found.second}, and {found.first} is frozen"


def _check_commit(path: str) -> None:
    match is_committed(Path(path)):
        case None:
            logger.warning("%s lies in no git repository, so it can't be checked when it was frozen", path)
        case False:
            raise UserError(
                f"{path} is not committed as it stands: `git add` and `git commit` it before a test split is decoded,"
                f" {WAY_OUT}."
            )


def _check_records(job: ProtocolJob, frozen: FrozenComparison) -> None:
    others = [one for one in read_decoded(job.records) if not one.exploratory and one.frozen != frozen.digest]
    if others:
        raise UserError(
            f"Another configuration of the comparison {job.comparison!r} was decoded on its test splits already (run"
            f" {others[0].run!r}, {others[0].date}, {job.records}): put that one back, {WAY_OUT}."
        )
