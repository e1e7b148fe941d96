"""The wheel: it holds all that the package reads, and its command works where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml
from checkout import ROOT, copy_checkout

from logitfusion import __version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, because setuptools writes beside its sources."""
    folder = copy_checkout(tmp_path_factory.mktemp("source"))
    out = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel; its dependencies are those of this one, to save 6 GB."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("needs uv, which `make setup` installs")
    subprocess.run([uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # without its editable install
    return folder / "bin"


def call(installed: Path, folder: Path, *words: object) -> str:
    """What the installed command prints, in a folder and with a home that are empty."""
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [installed / "logitfusion", *map(str, words)],
        cwd=folder, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "workflow/logitfusion"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    ours = {name.removeprefix("workflow/") for name in listed if (ROOT / name).is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == ours
    assert "logitfusion/py.typed" in names


def test_the_command_works_in_an_empty_folder(installed: Path, tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    assert call(installed, tmp_path, "--version") == f"logitfusion {__version__}\n"
    assert "generate" in call(installed, tmp_path, "--help")
    said = call(installed, tmp_path, "init", "mine", "--output", "mine.yaml")
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["run"] == "mine"
    assert "in a checkout of logitfusion" in said
    assert "complete" in call(installed, tmp_path, "completion", "bash")
    experts = ("--large", tiny_models["large"], "--base", tiny_models["base"], "--expert", tiny_models["expert_a"])
    assert call(installed, tmp_path, "generate", *experts, "--prompt", "Hello", "--max-new-tokens", 3)


def test_it_is_the_wheel_s_own_code_that_works(installed: Path, tmp_path: Path) -> None:
    words = [installed / "python", "-c", "import logitfusion; print(logitfusion.__file__)"]
    done = subprocess.run(words, cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(installed.parent)
