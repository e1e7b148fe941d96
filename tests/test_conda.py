"""``make conda-test``: stages in conda's environments make what they make in the environment of ``make setup``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import copy_checkout, snakemake, write_small_config
from packaging.version import Version

OLDEST = Version("24.7.1")  # of Snakemake 9
# Trained, merged and distilled weights: in both environments, with and without torch, in a few minutes.
TARGETS = ["results/smoke/experts/merged", "results/smoke/distill/students/gld.0"]

# A conda as far as Snakemake calls it: its environments are the Python that runs the tests.
STAND_IN = """\
#!/bin/sh
case "$*" in
    "--version") echo "conda {version}" ;;
    "info --json") echo '{{"conda_prefix": "{prefix}", "platform": "linux-64"}}' ;;
    "config --get channel_priority --json") echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
    "env create "*) for last; do :; done; mkdir -p "$last/bin"; ln -s {python} "$last/bin/python" ;;
    "clean "*) ;;
    *) echo "conda $* is not understood" >&2; exit 1 ;;
esac
"""
ACTIVATE = 'PATH="$1/bin:$PATH"; echo "$1" >> {prefix}/activated\n'


def why_not(version: str | None) -> str | None:
    """Why a conda (what ``conda --version`` says; None: there is none) can't be used, or None."""
    if version is None:
        return f"no conda was found in PATH; conda {OLDEST} or newer is needed (Miniforge has one)"
    found = re.search(r"\d+\.\d+\.\d+", version)
    if found is None or Version(found[0]) < OLDEST:
        return f"{version.strip() or 'conda without a version'} was found; {OLDEST} or newer is needed"
    return None


def ask_version() -> str | None:
    if shutil.which("conda") is None:
        return None
    return subprocess.run(["conda", "--version"], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    ("version", "words"),
    [(None, "no conda was found"), ("conda 24.5.0", "conda 24.5.0 was found"), ("", "without a version")],
)
def test_a_conda_that_can_not_be_used_is_named(version: str | None, words: str) -> None:
    assert words in why_not(version)
    assert str(OLDEST) in why_not(version)


@pytest.mark.parametrize("version", ["conda 24.7.1", "conda 26.7.0\n"])
def test_a_conda_that_is_new_enough_is_used(version: str) -> None:
    assert why_not(version) is None


def weights(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for target in TARGETS
        for path in sorted((folder / target).rglob("*.safetensors"))
    }


def run_in(folder: Path, *options: str, programs: Path | None = None) -> dict[str, bytes]:
    """The weights that a run of its own makes."""
    copy_checkout(folder)
    config = write_small_config(folder)
    done = snakemake(folder, *TARGETS, "--configfile", config, "--cores", "2", *options, programs=programs)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    found = weights(folder)
    assert {name.split("/")[2] for name in found} == {"experts", "distill"}
    return found


@pytest.mark.conda
@pytest.mark.skipif(why_not(ask_version()) is not None, reason=str(why_not(ask_version())))
def test_weights_are_those_of_this_environment(tmp_path: Path) -> None:
    ours = run_in(tmp_path / "here")
    assert run_in(tmp_path / "conda", "--sdm", "conda", "--conda-prefix", str(tmp_path / "environments")) == ours


@pytest.mark.conda
def test_every_stage_asks_conda_for_its_environment(tmp_path: Path) -> None:
    """With a stand-in, which needs no network: what Snakemake calls, and that stages run where it says."""
    bin_folder = tmp_path / "prefix/bin"
    bin_folder.mkdir(parents=True)
    python = tmp_path / "python"  # a link would be taken for one that is in no virtual environment
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (bin_folder / "conda").write_text(STAND_IN.format(version=OLDEST, prefix=bin_folder.parent, python=python))
    (bin_folder / "activate").write_text(ACTIVATE.format(prefix=bin_folder.parent))
    for path in (python, bin_folder / "conda"):
        path.chmod(0o755)
    run_in(tmp_path / "conda", "--sdm", "conda", programs=bin_folder)
    used = (bin_folder.parent / "activated").read_text().split()
    assert len(set(used)) == 2, "one with torch, one without"
    assert all(Path(place).is_relative_to(tmp_path / "conda/.snakemake/conda") for place in used)
    assert os.path.lexists(f"{used[0]}/bin/python")
