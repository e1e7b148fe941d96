"""Where an encoder's folder says what it holds; read before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from logitfusion.artefact import read_artefact
from logitfusion.errors import UserError
from logitfusion.files import read_json

ENTRY = "entry.json"  # in an encoder's folder of the workflow: how ``load_clip`` opens it


def find_in_folder(folder: str | Path) -> dict[str, Any]:
    """The entry of ``load_clip`` for the CLIP of a folder: of the workflow or ``build_clip``, or of transformers.

    Raises:
        UserError: the folder holds none.
    """
    return _find(Path(folder), passed=())


def _find(folder: Path, passed: tuple[Path, ...]) -> dict[str, Any]:
    """The same; ``passed`` are the folders whose entries led here."""
    if folder.resolve() in passed:
        raise UserError(f"{folder / ENTRY} leads back to itself; delete its folder and run again.")
    if (folder / "open_clip_config.json").is_file():
        return {"source": "built", "path": str(folder)}
    if (folder / ENTRY).is_file():  # nothing but where its weights are
        return _follow(folder / ENTRY, (*passed, folder.resolve()))
    kind = _model_type(folder)
    if kind == "clip":
        return {"source": "transformers", "path": str(folder)}
    if kind is not None:
        raise UserError(
            f"The folder {folder} holds a model of the type {kind!r}, not a CLIP; of transformers' models, those of the"
            " type clip are read."
        )
    raise UserError(
        f"The folder {folder} holds no CLIP; name one with an open_clip_config.json (results/<run>/clip/encoder, say),"
        " or with the config.json of one of transformers' CLIPs."
    )


def _follow(file: Path, passed: tuple[Path, ...]) -> dict[str, Any]:
    """What a run's folder names: weights, or the folder of a CLIP."""
    entry = read_artefact(file)
    if not isinstance(entry.get("source"), str):
        raise UserError(f"{file} does not say where a CLIP is; delete its folder and run again.")
    place = Path(str(entry.get("path", "")))
    if entry["source"] != "path" or not place.is_dir():
        return entry
    return _find(place, passed)


def _model_type(folder: Path) -> str | None:
    """What a folder of transformers says that it holds, if it is one."""
    if not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    return kind if isinstance(kind, str) else None
