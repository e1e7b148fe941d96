"""Files that the project wrote, read again; and their digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError


def read_json(path: str | Path) -> Any:
    """Read JSON; a missing or broken file is a ``UserError`` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); delete it and run again.") from None


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Read one JSON object a line; a missing or broken file is a ``UserError`` that names it."""
    rows, number = [], 0
    try:
        with Path(path).open(encoding="utf-8") as file:
            for line in file:
                number += 1
                if line.strip():
                    rows.append(json.loads(line))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}, is not JSON ({error.msg}); delete the file and run again.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}, after line {number}, is not UTF-8 text; save it as UTF-8 and run again.") from None
    return rows


def name_output(path: str | Path) -> str:
    """What to delete of a broken file to have it made anew: the file, or the whole folder if a stage wrote that."""
    folder = Path(path).parent
    return f"the folder {folder}" if any((folder / name).exists() for name in ("record.json", "stage.json")) else "it"


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
