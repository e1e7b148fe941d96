"""What a project keeps in step by itself: versions, hooks, CI, the catalog's file, subjects of commits, completion."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT
from commands import run

from logitfusion import __version__
from logitfusion.cli import COMMANDS

SUBJECT = runpy.run_path(str(ROOT / ".ci/check-subject"))


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = read("CITATION.cff")
    assert project["version"] == __version__ == citation["version"]
    assert citation["title"].startswith(project["name"])
    assert date.fromisoformat(citation["date-released"]) >= date(2025, 1, 1)


def test_hooks_are_of_the_environment_alone() -> None:
    for repository in read(".pre-commit-config.yaml")["repos"]:
        assert repository["repo"] == "local", "no address is asked for hooks"
        for hook in repository["hooks"]:
            program = hook["entry"].split()[0]
            assert hook["language"] == "system"
            assert os.access(ROOT / program, os.X_OK) or shutil.which(Path(program).name), program


def made_by(text: str) -> set[str]:
    return set(re.findall(r"^\s*-? *(?:run: )?make ([a-z-]+)$", text, re.MULTILINE))


def test_ci_calls_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    workflows = {path.name: path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml")}
    assert made_by(workflows["test.yml"]) == {"lint", "docs", "test"}
    assert made_by((ROOT / ".ci/run").read_text()) == {"lint", "docs", "test", "slurm-test"}
    assert "make lint docs test " in (ROOT / "CONTRIBUTING.md").read_text(), "what CI runs"
    (matrix,) = re.findall(r"target: \[(.+)\]", workflows["runs.yml"])
    assert set(matrix.split(", ")) >= {target for target in targets if target.endswith("-test")}, "the long tests"
    asked = set(matrix.split(", ")) | set().union(*map(made_by, workflows.values()))
    assert asked <= targets
    for text in workflows.values():
        commands = re.findall(r"- run: (.+)", text)
        assert all(command.startswith("make ") for command in commands), "nothing but what works on every machine"


def test_the_catalog_finds_the_workflow_and_how_it_is_used() -> None:
    """It reads these keys, and wants workflow/Snakefile, .smk files and config/README.md."""
    usage = read(".snakemake-workflow-catalog.yml")["usage"]
    assert usage.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["mandatory-flags"].keys() == {"desc", "flags"}
    assert usage["software-stack-deployment"] == {"conda": True, "singularity": False, "singularity+conda": False}
    assert usage["report"] is True
    profile = usage["mandatory-flags"]["flags"].split()[1]
    assert (ROOT / profile / "profile.yaml").is_file()
    (included,) = re.findall(r'^include: "(.+)"$', (ROOT / "workflow/Snakefile").read_text(), re.MULTILINE)
    assert (ROOT / "workflow" / included).resolve() == ROOT / "Snakefile"
    assert (ROOT / "config/README.md").is_file()


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_issue_forms_ask_for_something(name: str) -> None:
    form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"]
    assert form["description"]
    assert any(field.get("validations", {}).get("required") for field in form["body"])


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("x" * 72 + "\n\nwhy", None),
        ("x" * 73, "73 characters"),
        ("what\nwhy", "second line"),
        ("# only a comment\n", "no subject"),
        ("what\n# a comment of git's own\n", None),
    ],
)
def test_a_subject_is_short_and_apart(message: str, words: str | None) -> None:
    fault = SUBJECT["find_fault"](message)
    assert (fault is None) if words is None else (words in fault)


def test_the_last_commits_have_short_subjects() -> None:
    words = ["git", "log", "--no-merges", "-100", "--format=%s"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("no history: not a clone")
    assert [subject for subject in done.stdout.splitlines() if len(subject) > SUBJECT["LONGEST"]] == []


# What bash does when Tab is pressed after these words.
TAB = """
eval "$(cat {script})"
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_logitfusion
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "logitfusion"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda text: path.write_text(text))
        from logitfusion import cli

        assert cli.main(["completion", "bash"]) == 0
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("logitfusion ge", {"generate"}),
        ("logitfusion ''", set(COMMANDS)),
        ("logitfusion init --track d", {"distill"}),
        ("logitfusion generate --spec", {"--speculative"}),
        ("logitfusion fewshot pr", {"predict"}),
        ("logitfusion completion z", {"zsh"}),
        ("logitfusion generate --nothing-like-this", {""}),
    ],
)
def test_bash_completes(words: str, found: set[str], script: Path) -> None:
    text = TAB.format(script=script, words=words)
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)
    completed = set(done.stdout.splitlines())
    assert completed >= found if words.endswith("''") else completed == found, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "tcsh", "fish"])
def test_other_shells_have_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "completion", shell)
    assert all(command in printed for command in COMMANDS)
