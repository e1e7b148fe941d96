"""One finished run of every track, made once, of which each test copies what it breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from calls import CONFIG, TARGETS, call, copy_run, write_config
from checkout import copy_checkout


def cut_down(config: dict[str, Any]) -> None:
    """One model, one task, one expert, one student, one data set; trainings write a checkpoint at every step."""
    often = {"steps": 30, "checkpoint_minutes": 1e-4}
    config["run"] = "faults"
    config["models"] = {"large": config["models"]["large"]}
    del config["tasks"]["letters"], config["clip"]["datasets"]["dark"]
    config["experts"] = {"ceiling": config["experts"]["ceiling"] | often}
    config["fusion"] |= {
        "base": "large", "shards": 1, "methods": {"large": {"model": "large"}, "ceiling": {"model": "ceiling"}},
    }  # fmt: skip
    config["distill"] |= {
        "student": "large", "seeds": [0], "baseline": "gld", "teachers": {"twin": {"model": "large"}},
        "cache": {"k": 8, "shards": 1, "batch_size": 4},
        "methods": {"gld": {"teachers": ["twin"], "uld": 0.3, "gld": 0.2, "k": 8}},
    }  # fmt: skip
    config["distill"]["training"] |= often
    config["clip"] |= {"shots": [1], "seeds": [0]}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run; to be copied, never changed."""
    folder = copy_checkout(tmp_path_factory.mktemp("finished") / "checkout")
    write_config(folder, "faults.yaml", cut_down)
    code, said = call(folder, *TARGETS, *CONFIG)
    assert code == 0, said[-6000:]
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return copy_run(finished, tmp_path / "checkout")
