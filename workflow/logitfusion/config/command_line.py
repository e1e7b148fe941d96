"""What Snakemake's command line does to a config, in sentences: it mixes files, and reads nested values as texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from logitfusion.config.load import check_copy, read_config
from logitfusion.errors import UserError


def check_files(files: Sequence[str | Path], run: str) -> None:
    """Refuse two whole configs, which Snakemake has mixed into one, and a key that it reads only the last one of.

    Args:
        files: those of ``--configfile``, in order.
        run: the name of the run that came of it; a file of another workflow, which this one is a module of, has others.

    Raises:
        UserError: a file is the damaged copy of a config, several files name a run, or one has what our readers
            refuse.
    """
    for file in files:
        check_copy(file)
    named = [file for file in files if read_run(file) is not None]
    if len(named) > 1 and read_run(named[-1]) == run:
        raise UserError(
            f"Snakemake mixes all files of --configfile into one config, and {_join(named)} are each a whole run: give"
            " one of them. (A second file may hold keys that replace the first one's, but for `run`.)"
        )


def explain_command_line(files: Sequence[str | Path], given: Mapping[str, Any]) -> str:
    """What to look at on the command line when a config can't be used: sentences with a blank before them, or nothing.

    Args:
        files: those of ``--configfile``.
        given: the keys of ``--config``.
    """
    words = ""
    if len(files) > 1:
        words += (
            f" (This config is a mixture of {_join(files)}: all words after --configfile are"
            " config files; put targets in front of it, or after `--`.)"
        )
    nested = [key for key, value in given.items() if isinstance(value, (dict, list))]
    if nested:
        words += (
            f" (--config {nested[0]}=...: Snakemake reads values inside of brackets and braces as texts, never as"
            " numbers; write them into a config file.)"
        )
    return words


def read_run(file: str | Path) -> str | None:
    """The run that a config file names; None of one whose values replace another's."""
    if not Path(file).is_file():
        return None  # Snakemake has read it, perhaps from elsewhere
    found = read_config(file)
    return found.get("run") if isinstance(found, dict) else None


def _join(files: Sequence[str | Path]) -> str:
    """Files as the user knows them; Snakemake gives absolute paths."""
    here = Path.cwd()
    names = [str(path.relative_to(here) if path.is_relative_to(here) else path) for path in map(Path, files)]
    return f"{', '.join(names[:-1])} and {names[-1]}"
