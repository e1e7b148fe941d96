"""The fuzz suite: odd inputs of every kind, seeded, bounded, counted by what became of them.

A test makes cases and has them judged by ``watch``; a few of each run in ``make test``, many in ``make fuzz-test``,
which prints the numbers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from command_calls import call
from command_lines import command_lines, write_inputs, write_pictures_and_encoders
from outcomes import SECONDS, Case, Outcome, count, judge_all, list_faults

PROPERTY = "fuzz"


@pytest.fixture
def watch(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Judges cases, counts them for the summary, and fails the test by the faults among them."""

    def run(cases: Iterable[Case], seconds: float = SECONDS) -> None:
        judged = judge_all(cases, seconds)
        kind = request.node.originalname.removeprefix("test_")
        request.node.user_properties.append((PROPERTY, json.dumps([kind, count(judged)])))
        assert judged, "no case was made"
        faults = list_faults(judged)
        assert not faults, faults

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Path:
    """A folder with all that the command lines read, and a head."""
    folder = tmp_path_factory.mktemp("lines")
    write_inputs(folder)
    write_pictures_and_encoders(folder)
    call(command_lines(folder, tiny_models)["fewshot fit"])
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line a kind of input, and their sum."""
    rows: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, text in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
                if name == PROPERTY:
                    kind, counts = json.loads(text)
                    rows[kind] = rows.get(kind, Counter()) + Counter(counts)
    if rows:
        rows["all"] = sum(rows.values(), Counter())
        terminalreporter.section("inputs and what became of them")
        terminalreporter.write_line(f"{'':70} {'inputs':>9}" + "".join(f"{one:>11}" for one in Outcome))
        for kind, counts in rows.items():
            numbers = "".join(f"{counts[one]:>11,}" for one in Outcome)
            terminalreporter.write_line(f"{kind.replace('_', ' '):70} {counts.total():>9,}{numbers}")
