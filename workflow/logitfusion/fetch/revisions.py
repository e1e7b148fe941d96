"""The commit that a branch was resolved to stays a run's commit, whatever the hub does to the branch later.

A small file for each repository and revision, in ``results/<run>/revisions``, is what a lock file is to packages.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from logitfusion.fetch.hub import COMMIT, Download, Kind, ask_about, ask_hub, download
from logitfusion.fetch.hub_files import Choice, choose_model_files
from logitfusion.files import read_json, write_json

logger = logging.getLogger(__name__)


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
    commit = read_json(path)["commit"] if path.is_file() else None
    found = download(kind, id, revision, commit=commit, choose=choose)
    if commit is None:
        write_json(path, {"kind": kind, "id": id, "revision": revision, "commit": found.commit})
    else:
        warn_if_moved(path)
    return found


def recorded_path(folder: str | Path, kind: Kind, id: str, revision: str) -> Path:
    """Where the commit of a revision is recorded."""
    return Path(folder) / f"{kind}--{id}--{revision}.json".replace("/", "--")


def warn_if_moved(path: Path) -> None:
    """Warn if a recorded revision is another commit by now; without a network nothing is said."""
    recorded: dict[str, Any] = read_json(path)
    if ask_hub() is not None:
        return
    try:
        now = ask_about(recorded["kind"], recorded["id"], recorded["revision"]).sha
    except Exception as error:  # the commit is there, so whatever the client raises is no reason to fail
        logger.warning("whether %s has moved is not known (%s)", recorded["id"], type(error).__name__)
        return
    if now != recorded["commit"]:
        logger.warning(
            "%s of %s has moved on the hub, from %s to %s; this run stays with the former. To follow it, write the"
            " latter as the revision in the config, or delete %s and what was made of it.",
            recorded["revision"],
            recorded["id"],
            recorded["commit"],
            now,
            path,
        )
