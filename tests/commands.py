"""The command line, called as a user would."""

from __future__ import annotations

import pytest

from logitfusion import cli


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """What the command prints, having done what it was asked."""
    code = cli.main([str(part) for part in argv])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def refuse(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one sentence in which the command refuses."""
    assert cli.main([str(part) for part in argv]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (sentence,) = [line for line in printed.err.split("\n") if line and "\r" not in line]  # that is a progress bar
    assert sentence.startswith("logitfusion: ")
    return sentence
