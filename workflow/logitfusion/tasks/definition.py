"""Versioned task definitions: the YAML files of ``library/`` or the same mapping written in a config."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from logitfusion.errors import UserError

LIBRARY = Path(__file__).with_name("library")


def load_definition(name: str) -> dict[str, Any]:
    """The definition ``library/<name>.yaml``.

    Raises:
        UserError: there is no such definition; the message suggests the nearest name.
    """
    known = sorted(path.stem for path in LIBRARY.glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
        raise UserError(f"There is no task definition {name!r}: {hint}")
    return yaml.safe_load((LIBRARY / f"{name}.yaml").read_text(encoding="utf-8"))
