"""Where an encoder's folder says what it holds; read before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from logitfusion.errors import UserError
from logitfusion.files import read_json

ENTRY = "entry.json"  # in an encoder's folder of the workflow: how ``load_clip`` opens it


def find_in_folder(folder: str | Path) -> dict[str, Any]:
    """The entry of ``load_clip`` for the CLIP of a folder: of the workflow or ``build_clip``, or of transformers.

    Raises:
        UserError: the folder holds none.
    """
    folder = Path(folder)
    if (folder / "open_clip_config.json").is_file():
        return {"source": "built", "path": str(folder)}
    if (folder / ENTRY).is_file():  # nothing but where its weights are
        entry = read_json(folder / ENTRY)
        return find_in_folder(entry["path"]) if entry["source"] == "path" and Path(entry["path"]).is_dir() else entry
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


def _model_type(folder: Path) -> str | None:
    """What a folder of transformers says that it holds, if it is one."""
    if not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    return kind if isinstance(kind, str) else None
