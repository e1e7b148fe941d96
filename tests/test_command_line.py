"""Snakemake's command line and the config: its traps end in sentences that name them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from checkout import ROOT, copy_checkout, snakemake

from logitfusion.config.command_line import check_files, explain_command_line
from logitfusion.config.load import read_config
from logitfusion.errors import UserError


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_two_runs_are_not_mixed_without_a_word(tmp_path: Path) -> None:
    one, other = write(tmp_path, "one.yaml", "run: one"), write(tmp_path, "other.yaml", "run: other")
    with pytest.raises(UserError, match=r"one.yaml and .*other.yaml are each a whole run"):
        check_files([one, other], "other")
    for fine in ([one], [], [one, write(tmp_path, "keys.yaml", "seed: 1")], [one, tmp_path / "gone.yaml"]):
        check_files(fine, "one")
    check_files([one, other], "a module's own")


def test_a_key_that_is_there_twice_is_not_passed_over(tmp_path: Path) -> None:
    """Snakemake takes the last one."""
    with pytest.raises(UserError, match=r"twice.yaml, line 3, has the key 'seed' a second time"):
        check_files([write(tmp_path, "twice.yaml", "run: one\nseed: 1\nseed: 2\n")], "one")


def test_a_config_may_be_json_with_tabs(tmp_path: Path) -> None:
    """YAML has no tabs there, and reads 1e-05 as a text; Snakemake reads it as JSON, as we write it."""
    config = {"run": "one", "models": {"one": {"source": "random"}}, "experts": {"two": {"learning_rate": 1e-05}}}
    file = write(tmp_path, "tabs.json", json.dumps(config, indent="\t"))
    check_files([file], "one")
    assert read_config(file) == config


def test_what_can_not_be_used_is_explained_by_the_command_line() -> None:
    assert explain_command_line(["a.yaml"], {"run": "x", "seed": 1}) == ""
    assert "after `--`" in explain_command_line(["a.yaml", "results/x/record.json"], {})
    assert "--config fusion=" in explain_command_line(["a.yaml"], {"fusion": {"batch_size": "8"}})


@pytest.mark.workflow
def test_snakemake_says_so(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path)
    write(folder, "target.json", '{"made": 1}')
    swallowed = ("--configfile", "config/smoke.yaml", "target.json", "--config", "fusion={batch_size: 8}")
    done = snakemake(folder, "--list-rules", *swallowed)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "unknown key 'made'" in said
    assert "a mixture of config/smoke.yaml and target.json" in said
    assert "--config fusion=" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("home", "moved"), [("writable", False), ("file/home", True)])
def test_make_has_a_place_for_snakemake_s_cache(home: str, moved: bool, tmp_path: Path) -> None:
    (tmp_path / "writable").mkdir()
    (tmp_path / "file").touch()
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MAKE"))}
    done = subprocess.run(
        ["make", "-n", "start-test"],
        cwd=ROOT, env=variables | {"HOME": str(tmp_path / home)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (f'XDG_CACHE_HOME="{ROOT}/.snakemake/cache"' in done.stdout) == moved
