"""Files of the model hub, at one commit, checked: downloaded with the hub's own client into its own cache.

What the cache has is not downloaded again; without a network, or with HF_HUB_OFFLINE=1, it is all that is used.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from huggingface_hub import HfApi, constants, get_cached_repo_tree, hf_hub_download, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import get_session

from logitfusion.errors import UserError, first_line
from logitfusion.fetch.hub_faults import explain, passes
from logitfusion.fetch.hub_files import Choice, choose_model_files
from logitfusion.fetch.hub_progress import Progress
from logitfusion.files import sha256, write_text
from logitfusion.formats.text import read_text

logger = logging.getLogger(__name__)

Kind = Literal["model", "dataset"]
Result = TypeVar("Result")

COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE = 30.0  # seconds that the hub may take to answer
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before another try
LONGEST_WAIT = 300.0  # seconds that the hub may ask for


@dataclass(frozen=True)
class HubFile:
    """A file in the hub's cache.

    Attributes:
        name: relative to the repository, as the hub writes it.
        path: in the snapshot of the commit.
        size: bytes.
        sha256: of its bytes, in hex: computed here, and equal to what the hub states where it states one (files of
            LFS: weights, tokenizers, parquet).
    """

    name: str
    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class Download:
    """Files of one commit of a repository.

    Attributes:
        kind: model or dataset.
        id: the name that was asked for.
        revision: the commit, branch or tag that was asked for.
        commit: the commit that the files are of (40 hex digits).
        folder: the snapshot in the hub's cache; it may hold more than ``files``.
        files: those that were chosen, whole and checked, by name.
        moved_to: the name that the hub has given the repository since, if it has.
        licence: as the hub states it, if it does.
    """

    kind: Kind
    id: str
    revision: str
    commit: str
    folder: Path
    files: tuple[HubFile, ...]
    moved_to: str | None = None
    licence: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def describe(self) -> dict[str, Any]:
        """What a record keeps: all but where the files are on this machine."""
        told = {name: getattr(self, name) for name in ("kind", "id", "revision", "commit", "moved_to", "licence")}
        files = [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in self.files]
        return {**told, "files": files}


def download(
    kind: Kind, id: str, revision: str, *, commit: str | None = None, choose: Choice = choose_model_files
) -> Download:
    """Download what is needed of a repository, unless the cache has it, and check it.

    Args:
        kind: model or dataset.
        id: owner/name (or a name alone, for those that the hub knows so).
        revision: a commit, a branch or a tag; a branch is resolved once, and all files are of that commit.
        commit: the commit that the revision was resolved to earlier; it is used even if a branch has moved since.
        choose: which files are needed; by default those of a causal language model.

    Raises:
        UserError: whatever keeps the files from being there, in one sentence.
    """
    exactly = f", recorded as commit {commit}" if commit not in (None, revision) else ""
    title = f"The {_called(kind)} {id!r} (revision {revision}{exactly})"
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{id}"
    silence = ask_hub()
    try:
        if silence is not None:
            return _from_cache(kind, id, revision, commit, choose, silence)
        return _from_hub(kind, id, revision, commit, choose)
    except KeyboardInterrupt:
        raise
    except Exception as error:  # the client and what it stands on raise dozens of types
        raise explain(error, title, page) from error


def _called(kind: Kind) -> str:
    return {"model": "model", "dataset": "data set"}[kind]


# ---- the hub ---------------------------------------------------------------------------------------------------------
_silence: str | None = None


def ask_hub(seconds: float = 10) -> str | None:
    """Ask the hub for any answer; without one, its client uses the cache and nothing else, and nobody asks again.

    Asked quickly, because the client would wait and retry for minutes.

    Returns:
        Why the hub can't be asked; None if it can.
    """
    global _silence
    if constants.is_offline_mode():
        return _silence or "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception as error:  # whatever the client's transport raises
        _silence = f"the hub {constants.ENDPOINT} does not answer ({first_line(error)})"
        logger.warning("%s; only what was downloaded earlier is used.", _silence[0].upper() + _silence[1:])
        constants.HF_HUB_OFFLINE = True
        return _silence
    return None


@dataclass(frozen=True)
class _Stated:
    """What the hub states about a file: bytes, and the digest of an LFS file or else the one that git uses."""

    size: int
    sha256: str | None
    git: str | None


def ask_about(kind: Kind, id: str, revision: str) -> Any:
    """The hub's own description of a revision: commit, files with sizes and digests, licence.

    Raises:
        Exception: what the client raises, after some tries.
    """
    return insist(
        lambda: HfApi().repo_info(id, repo_type=kind, revision=revision, files_metadata=True, timeout=PATIENCE), id
    )


def insist(call: Callable[[], Result], what: str, waits: Sequence[float] | None = None) -> Result:
    """Call again, a few times and later each time, while the fault is one that passes."""
    for wait in WAITS if waits is None else waits:
        try:
            return call()
        except Exception as error:
            if not passes(error):
                raise
            wait = max(wait, _asked_wait(error))
            logger.warning("%s: %s; again in %.0f s", what, first_line(error), wait)
            time.sleep(wait)
    return call()


def _asked_wait(error: Exception) -> float:
    """The seconds that the hub asks to wait, within reason."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    found = re.search(r"\bt=(\d+)", headers.get("ratelimit", "")) or re.fullmatch(
        r"(\d+)", headers.get("retry-after", "")
    )
    return min(LONGEST_WAIT, float(found[1])) if found else 0.0


def _from_hub(kind: Kind, id: str, revision: str, commit: str | None, choose: Choice) -> Download:
    info = ask_about(kind, id, revision if commit is None else commit)
    stated = {
        file.rfilename: _Stated(file.size or 0, file.lfs.sha256 if file.lfs else None, file.blob_id)
        for file in info.siblings or ()
    }
    there = _repository(kind, id) / "snapshots" / info.sha
    get = functools.partial(hf_hub_download, id, repo_type=kind, revision=info.sha)
    told = Progress(id)

    def fetch(name: str) -> Path:
        return Path(insist(lambda: get(filename=name, tqdm_class=told.bar), f"{id}, {name}", WAITS[:2]))

    names = choose(list(stated), fetch)
    absent = [name for name in names if not (there / name).exists()]
    if absent:
        total = sum(stated[name].size for name in absent)
        _check_space(total)
        logger.info("%s: %d files, %.1f MB, commit %s", id, len(absent), total / 1e6, info.sha)
        told.begin(total)
    else:
        logger.info("%s: all of commit %s is in the cache; its bytes are checked", id, info.sha)
    files = tuple(_checked(name, fetch(name), stated[name]) for name in names)
    _note(kind, id, None if commit else revision, info.sha, names)
    moved, licence = _new_name(kind, id, info.id), getattr(info.card_data, "license", None)
    return Download(kind, id, revision, info.sha, there, files, moved, licence if isinstance(licence, str) else None)


def _note(kind: Kind, id: str, revision: str | None, commit: str, names: Sequence[str]) -> None:
    """Leave in the cache what is needed without a network: which files the commit has, and which commit a name was."""
    with suppress(OSError, UserError):  # a shared cache that can only be read
        if revision is not None and not COMMIT.fullmatch(revision):
            write_text(_repository(kind, id) / "refs" / revision, commit)
        if names:
            exactly, silent = [glob.escape(name) for name in names], Progress("").bar
            insist(
                lambda: snapshot_download(
                    id, repo_type=kind, revision=commit, allow_patterns=exactly, tqdm_class=silent
                ),
                id,
            )


@functools.cache  # said once
def _new_name(kind: Kind, id: str, now: str) -> str | None:
    """The name that the hub has given a repository since, if it has."""
    if now == id:
        return None
    logger.warning("the %s %s is called %s on the hub now; write that name", _called(kind), id, now)
    return now


def _check_space(needed: int) -> None:
    """Refuse what the disk of the cache can't hold or be written to, before anything large is downloaded."""
    if not needed:
        return
    place = Path(constants.HF_HUB_CACHE).absolute()
    above = next(path for path in (place, *place.parents) if path.exists())
    if not os.access(above, os.W_OK):
        raise UserError(f"can't be stored: {above} can't be written; set HF_HOME to a folder that can")
    free = shutil.disk_usage(above).free
    if free < needed:
        raise UserError(
            f"needs {needed / 1e9:.1f} GB, and the disk of {place} has {free / 1e9:.1f} GB left; free some, or set"
            " HF_HOME to a folder of another disk"
        )


# ---- the cache -------------------------------------------------------------------------------------------------------
def _repository(kind: Kind, id: str) -> Path:
    """The folder of a repository in the hub's cache."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=id, repo_type=kind)


def _from_cache(kind: Kind, id: str, revision: str, commit: str | None, choose: Choice, silence: str) -> Download:
    """The same from what was downloaded earlier."""
    commit = commit or _cached_commit(_repository(kind, id), revision)
    folder = _repository(kind, id) / "snapshots" / str(commit)
    # Snakemake believes that a data set is there as long as its record is.
    forced = " --forcerun fetch_data" if kind == "dataset" else ""
    mend = f"download it where there is a network (snakemake --until fetch{forced}), with the same HF_HOME"
    elsewhere = f"and {silence}; {mend}"
    if commit is None or not folder.is_dir():
        raise UserError(f"is not in the cache {constants.HF_HUB_CACHE}, {elsewhere}")
    stated = _cached_listing(kind, id, commit, folder)

    def find(name: str) -> Path:
        if not (folder / name).is_file():
            raise UserError(f"is not whole in the cache {constants.HF_HUB_CACHE} (without {name}), {elsewhere}")
        return folder / name

    files = tuple(_checked(name, find(name), stated.get(name), mend) for name in choose(list(stated), find))
    return Download(kind, id, revision, commit, folder, files)


def _cached_listing(kind: Kind, id: str, commit: str, folder: Path) -> dict[str, _Stated]:
    """All files of a commit and what the hub stated about them, if the cache has that; else those that are there."""
    try:
        tree = get_cached_repo_tree(id, repo_type=kind, revision=commit)
        return {file.path: _Stated(file.size, file.lfs.sha256 if file.lfs else None, file.blob_id) for file in tree}
    except CachedRepoTreeNotFoundError:  # another program downloaded them, one by one
        stated = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest = path.resolve().name  # the cache calls a file by it: SHA-256 of LFS files, else git's
            lfs, git = re.fullmatch(r"[0-9a-f]{64}", digest), COMMIT.fullmatch(digest)
            name = str(path.relative_to(folder))
            stated[name] = _Stated(path.stat().st_size, digest if lfs else None, digest if git else None)
        return stated


def _cached_commit(repository: Path, revision: str) -> str | None:
    if COMMIT.fullmatch(revision):
        return revision
    try:
        return read_text(repository / "refs" / revision, largest=4096).strip()
    except UserError:
        return None


def _checked(name: str, path: Path, stated: _Stated | None, mend: str = "run the same again") -> HubFile:
    """A file whose bytes are those that the hub states; what is wrong is deleted, so that it is fetched again."""
    found = sha256(path)
    if stated is None:
        right = True
    elif stated.sha256 is not None:
        right = found == stated.sha256
    else:
        right = stated.git is None or _git_digest(path) == stated.git
    if not right:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise UserError(
            f"has another {name} on this disk than on the hub (a broken download or disk); it was deleted, so {mend}"
        )
    return HubFile(name, path, path.stat().st_size, found)


def _git_digest(path: Path) -> str:
    """The name that git gives a file's bytes."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
