"""Configs with one odd thing in them: refused in a sentence, or a config that is written and read as the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from checkout import ROOT
from command_calls import call, is_strict_json
from odd_configs import draw_change, draw_number
from outcomes import Case
from sizes import inputs

from logitfusion.config.load import load_config, resolve_config
from logitfusion.config.run import RunConfig

Watch = Callable[..., None]
CONFIGS = [
    "config/smoke.yaml",
    "config/config.yaml",
    "config/study/fusion.yaml",
    "config/study/distill.yaml",
    "config/study/fewshot.yaml",
]


def read_all(name: str) -> dict[str, Any]:
    """A config with all defaults written out, so that each key is there to be changed."""
    return load_config(ROOT / name).dump()


def is_whole(run: RunConfig) -> bool:
    """Whether all that it holds can be written as JSON, and is the same when it is read again."""
    text = json.dumps(run.dump())
    return is_strict_json(text) and resolve_config(json.loads(text)).dump() == run.dump()


@inputs(15, 500)
@pytest.mark.parametrize("change", [draw_number, draw_change])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_config(
    name: str, change: Callable[..., tuple[str, str]], inputs: int, tmp_path: Path, watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(ROOT)
    config, path = read_all(name), tmp_path / "odd.yaml"

    def read(text: str) -> RunConfig:
        path.write_text(text, encoding="utf-8")
        return load_config(path)

    def make(number: int) -> Case:
        words, text = change(config, Random(f"{name} {number}"))
        return Case(f"{name} {number}: {words}", lambda: read(text), is_whole)

    watch((make(number) for number in range(inputs)), seconds=5)


@inputs(2, 60)
def test_a_plan_of_an_odd_config(inputs: int, tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is planned too, however many layers it asks for, or refused."""
    monkeypatch.chdir(ROOT)
    config, path = yaml.safe_load((ROOT / "config/smoke.yaml").read_text()), tmp_path / "odd.yaml"
    for track in ("clip", "distill"):  # each takes its time
        del config[track]

    def plan(text: str) -> str:
        path.write_text(text, encoding="utf-8")
        call(["plan", path, "--gpu", "none", "--json", tmp_path / "plan.json"])
        return (tmp_path / "plan.json").read_text().replace("\n", " ")

    def make(number: int) -> Case:
        words, text = draw_number(config, Random(f"plan {number}"))
        return Case(f"{number}: {words}", lambda: plan(text), is_strict_json)

    watch((make(number) for number in range(inputs)), seconds=60)
