"""What a user reads at the end of a call of Snakemake that is out of the ordinary."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkout import copy_checkout, snakemake

pytestmark = pytest.mark.workflow

TASK = "results/smoke/tasks/letters/record.json"
CALL = ("--cores", "1", "--configfile", "config/smoke.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout in which the stage of a task fails."""
    copied = copy_checkout(tmp_path / "checkout")
    (copied / "config/smoke_tasks/letters.jsonl").write_text('{"word": "cut')
    return copied


def test_a_failure_is_told_by_snakemake_where_progress_can_t_be(folder: Path) -> None:
    (folder / "workflow/logitfusion/progress/work.py").write_text("def rough_seconds(*_):\n    raise ValueError\n")
    done = snakemake(folder, *CALL, "--", TASK)
    assert done.returncode == 1
    assert "Progress can't be shown: ValueError()" in done.stderr
    assert "Error in rule task" in done.stderr
    assert "config/smoke_tasks/letters.jsonl, line 1, is not JSON" in done.stderr, "the stage's log"


def test_a_failure_is_as_quiet_as_asked_and_goes_on_unforced(folder: Path) -> None:
    silent = snakemake(folder, *CALL, "--quiet", "all", "--", TASK)
    assert silent.returncode == 1
    assert "reports/smoke/index.html" not in silent.stderr + silent.stdout
    loud = snakemake(folder, *CALL, "--force", "--", TASK).stderr
    assert "FAILED  task (letters): config/smoke_tasks/letters.jsonl, line 1, is not JSON" in loud
    assert "(without -F, -f or -R: they make anew what is finished)" in loud
    assert "What there is: reports/smoke/index.html" in loud
