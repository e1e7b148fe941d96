"""Write the conda environments: Python from conda, everything else at the exact versions of requirements.lock.

Run it with `make envs` after the lock changed; tests/test_envs.py fails while they differ.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYTHON = "3.11"

# What the stages that compute import, and what the others do; what these packages need in turn is in their metadata.
# Snakemake makes an environment for each file, and torch is most of 6 GB, so there are no more of them than these two.
ENVIRONMENTS = {
    "torch": [
        "accelerate",
        "ftfy",
        "gguf",
        "jinja2",
        "lm-eval",
        "numpy",
        "open-clip-torch",
        "pandas",
        "peft",
        "pillow",
        "pyarrow",
        "pydantic",
        "pyyaml",
        "safetensors",
        "scikit-learn",
        "timm",
        "tokenizers",
        "torch",
        "torchvision",
        "transformers",
    ],
    "light": [
        "datasets",
        "ftfy",
        "itables",
        "jinja2",
        "lm-eval",
        "matplotlib",
        "numpy",
        "pandas",
        "pillow",
        "pyarrow",
        "pydantic",
        "pyyaml",
        "reasoning-gym",
    ],
}
MARKERS = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "sys_platform": "linux"}


def locked_versions() -> dict[str, str]:
    """Package -> version in the lock, for the conda environments' Python on Linux."""
    versions = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            requirement = Requirement(line.removesuffix("\\").strip())
            if requirement.marker is None or requirement.marker.evaluate(MARKERS):
                versions[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return versions


def closure(names: list[str], locked: dict[str, str]) -> set[str]:
    """The packages and all they need, as far as the lock knows them."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or name not in locked:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate(MARKERS | {"extra": extra}) for extra in extras):
                waiting.append(needed)
    return found


def environment(names: list[str], locked: dict[str, str]) -> str:
    """The YAML of one environment."""
    pins = "".join(f"      - {name}=={locked[name]}\n" for name in sorted(closure(names, locked)))
    return (
        "# Made by `make envs` from requirements.lock; don't edit.\n"
        f"channels: [conda-forge]\ndependencies:\n  - python={PYTHON}\n  - pip\n  - pip:\n{pins}"
    )


def export(folder: Path) -> None:
    """Write all environments into a folder."""
    locked = locked_versions()
    for name, names in ENVIRONMENTS.items():
        (folder / f"{name}.yaml").write_text(environment(names, locked))


if __name__ == "__main__":
    export(ROOT / "envs")
