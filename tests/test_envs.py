"""The conda environments are the lock's versions."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_environments_are_in_step_with_the_lock(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("export", ROOT / "envs/export.py")
    export = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(export)
    export.export(tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.glob("*.yaml")}
    kept = {path.name: path.read_text() for path in (ROOT / "envs").glob("*.yaml")}
    assert made == kept, "run `make envs`"


def test_the_lock_names_no_address() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()
