"""The files that a command line asks for, before the work for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from logitfusion.cli._streams import outlive_reader
from logitfusion.files.outputs import Inputs, check_outputs


def claim_outputs(
    outputs: Mapping[str, Path | None], inputs: Inputs | None = None, *, folders: Collection[str] = ()
) -> None:
    """``check_outputs``; from then on the work for them goes on though nobody may read the standard output any more.

    Raises:
        UserError: names the option that can't be written.
    """
    check_outputs(outputs, inputs, folders=folders)
    if any(path is not None for path in outputs.values()):
        outlive_reader()
