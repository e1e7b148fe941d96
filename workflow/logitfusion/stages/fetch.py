"""List all that a run downloads: what, from where, at which commit, how large; and say which branches have moved."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from logitfusion.artefact import read_artefact
from logitfusion.fetch.revisions import warn_if_moved
from logitfusion.files import sha256, write_json
from logitfusion.integrity import RECORD
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, _: dict[str, Any]) -> None:
    found = [
        *(_package(path) for path in arguments.packages),
        *(_model(path) for path in arguments.models),
        *(part for path in arguments.data for part in _data(path)),
        *(part for path in arguments.encoders for part in _encoder(path)),
    ]
    write_json(arguments.output, {"downloads": found})
    logger.info("%d downloads, %.1f MB", len(found), sum(part["bytes"] for part in found) / 1e6)
    for path in sorted(arguments.revisions.glob("*.json")):
        warn_if_moved(path)


def _listed(name: str, use: str, told: dict[str, Any], files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    known = {key: told.get(key) for key in ("kind", "id", "revision", "commit", "licence")}
    return {"name": name, "use": use, **known, "bytes": sum(file["size"] for file in files), "files": list(files)}


def _package(path: Path) -> dict[str, Any]:
    file = {"name": path.name, "size": path.stat().st_size, "sha256": sha256(path)}
    return _listed(path.stem, "package", {"kind": "package", "id": path.name}, [file])


def _model(folder: Path) -> dict[str, Any]:
    record = read_artefact(folder / RECORD)
    told = {"kind": "model", **record["config"], "commit": record["commit"], "licence": record["licence"]}
    files = [{key: file[key] for key in ("name", "size", "sha256")} for file in record["files"]]
    return _listed(folder.name, "model", told, files)


def _data(path: Path) -> Iterator[dict[str, Any]]:
    """The data sets of a task, each once, whatever its leaves read of it."""
    told = [part["rows"]["download"] for part in read_artefact(path)["parts"]]
    for commit in dict.fromkeys((one["id"], one["commit"]) for one in told):
        mine = [one for one in told if (one["id"], one["commit"]) == commit]
        files = {file["name"]: file for one in mine for file in one["files"]}
        yield _listed(path.stem, "task", mine[0], list(files.values()))


def _encoder(path: Path) -> Iterator[dict[str, Any]]:
    for told in read_artefact(path)["downloads"]:
        yield _listed(path.stem, "encoder", told, told["files"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, nargs="*", default=[], help="downloaded packages")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="folders of models of the hub")
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="records of data sets of the hub")
    parser.add_argument("--encoders", type=Path, nargs="*", default=[], help="records of encoders")
    parser.add_argument("--revisions", type=Path, required=True, help="folder of the commits that branches were")
    parser.add_argument("--output", type=Path, required=True, help="downloads.json")
    run_stage(main, parser)
