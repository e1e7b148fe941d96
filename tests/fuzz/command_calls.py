"""The command line, called in this process, which is fast, or as a process of its own, as a user would."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from logitfusion import cli
from logitfusion.errors import UserError

ROOT = Path(__file__).parents[2]


class CommandError(Exception):
    """The command ended in another way than by its answer or by one sentence as its last line."""


def call(argv: Sequence[object], stdin: bytes = b"") -> str:
    """What the command prints on its standard output.

    Raises:
        UserError: its last line is a sentence.
        CommandError: it ended in no such way.
    """
    out, errors = io.StringIO(), io.StringIO()
    given = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), mock.patch.object(sys, "stdin", given):
        try:
            code = cli.main([str(word) for word in argv])
        except SystemExit as stopped:  # argparse's own way
            code = stopped.code
    return _answer(code, out.getvalue(), errors.getvalue())


def spawn(argv: Sequence[object], stdin: bytes = b"", seconds: float = 600.0) -> str:
    """The same of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "logitfusion", *map(str, argv)],
        input=stdin,
        capture_output=True,
        timeout=seconds,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "workflow"), "HF_HUB_OFFLINE": "1"},
    )
    return _answer(done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace"))


def _answer(code: Any, out: str, errors: str) -> str:
    last = errors.rstrip("\n").rpartition("\n")[2]
    if "Traceback (most recent call last)" in errors:
        raise CommandError(f"a traceback: {last}")
    if code == 0:
        return out
    if code == 1 and last.startswith("logitfusion: "):
        raise UserError(last.removeprefix("logitfusion: "))
    if code == 2 and ": error: " in last:
        raise UserError(f"{last.partition(': error: ')[2].rstrip('.')}.")
    raise CommandError(f"exit code {code}, last line {last!r}")


def is_strict_json(text: str) -> bool:
    """Whether each line is JSON as other programs read it, without NaN and Infinity."""
    try:
        for line in text.splitlines():
            json.loads(line, parse_constant=_refuse)
    except ValueError:
        return False
    return True


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
