"""The file of a gate: readable JSON with a digest, the same for all models, tasks and experts."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Literal

from logitfusion.artefact import parse_artefact, read_artefact, write_artefact
from logitfusion.config.gate import Gate
from logitfusion.config.section import Count, NonNegative, Section
from logitfusion.errors import UserError

VERSION = 1
logger = logging.getLogger(__name__)


class Fitted(Section):
    """How a gate came about."""

    answers: dict[str, Count]
    """Validation examples, by task."""
    ridge: NonNegative
    """That was chosen by cross-validation."""


class GateFile(Section):
    """What the file of a gate holds; what else is in it is for readers."""

    version: Literal[1] = VERSION
    gate: Gate
    fitted: Fitted


def write_gate(path: str | Path, gate: Gate, fitted: Fitted) -> None:
    """Write a gate."""
    write_artefact(path, GateFile(gate=gate, fitted=fitted).dump())


def read_gate(path: str | Path) -> Gate:
    """The gate of a file that ``write_gate`` or the workflow's stage ``tune`` wrote; warns where that used another.

    Raises:
        UserError: it is missing, damaged, of another version, or holds no gate.
    """
    value = read_artefact(path, mend="fit the gate again")
    if "gate" not in value:
        raise UserError(f"{path} holds no gate; name a file that the rule gate was fitted into.")
    if value.get("version") != VERSION:
        raise UserError(f"{path} holds a gate of another version than {VERSION}, which is read here; fit it again.")
    others = [task for task, options in value.get("chosen", {}).items() if {"gate", "weights"} & options.keys()]
    if others:
        _tell(str(path), "all tasks" if others == ["*"] else ", ".join(others))
    held = {name: value[name] for name in GateFile.model_fields if name in value}
    return parse_artefact(path, GateFile, held).gate


@functools.cache  # a command line reads the file before the models, and with them
def _tell(path: str, tasks: str) -> None:
    logger.warning(
        "%s: its gate of all tasks steers here; the run that tuned it had a gate or a fixed weight of its own for %s"
        " (see 'chosen' there).",
        path,
        tasks,
    )
