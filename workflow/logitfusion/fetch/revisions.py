"""The commit that a branch was resolved to stays a run's commit, whatever the hub does to the branch later.

A small file for each repository and revision, in ``results/<run>/revisions``, is what a lock file is to packages.
"""

from __future__ import annotations

import logging
from pathlib import Path

from logitfusion.artefact import read_artefact, write_artefact
from logitfusion.config.section import HubId, Revision, Section
from logitfusion.fetch.hub import COMMIT, Download, Kind, ask_about, ask_hub, download
from logitfusion.fetch.hub_files import Choice, choose_model_files

logger = logging.getLogger(__name__)


class RecordedCommit(Section):
    """What a revision of a repository was when a run first downloaded it."""

    kind: Kind
    id: HubId
    revision: Revision
    commit: Revision


def _read(path: Path) -> RecordedCommit:
    return read_artefact(path, RecordedCommit)


def download_recorded(
    kind: Kind, id: str, revision: str, folder: str | Path | None, *, choose: Choice = choose_model_files
) -> Download:
    """Download the commit that was recorded for a revision in ``folder`` (if one is given); record it if none was.

    A branch that has moved since is a warning that says how to follow it.

    Raises:
        UserError: see ``download``.
    """
    if folder is None or COMMIT.fullmatch(revision):
        return download(kind, id, revision, choose=choose)
    path = recorded_path(folder, kind, id, revision)
    commit = _read(path).commit if path.is_file() else None
    found = download(kind, id, revision, commit=commit, choose=choose)
    if commit is None:
        write_artefact(path, RecordedCommit(kind=kind, id=id, revision=revision, commit=found.commit).dump())
    else:
        warn_if_moved(path)
    return found


def recorded_path(folder: str | Path, kind: Kind, id: str, revision: str) -> Path:
    """Where the commit of a revision is recorded."""
    return Path(folder) / f"{kind}--{id}--{revision}.json".replace("/", "--")


def warn_if_moved(path: Path) -> None:
    """Warn if a recorded revision is another commit by now; without a network nothing is said."""
    recorded = _read(path)
    if ask_hub() is not None:
        return
    try:
        now = ask_about(recorded.kind, recorded.id, recorded.revision).sha
    except Exception as error:  # the commit is there, so whatever the client raises is no reason to fail
        logger.warning("whether %s has moved is not known (%s)", recorded.id, type(error).__name__)
        return
    if now != recorded.commit:
        logger.warning(
            "%s of %s has moved on the hub, from %s to %s; this run stays with the former. To follow it, write the"
            " latter as the revision in the config, or delete %s and what was made of it.",
            recorded.revision,
            recorded.id,
            recorded.commit,
            now,
            path,
        )
