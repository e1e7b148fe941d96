"""Training in two processes, by gloo: losses and weights of one process; killed, resumed, refused.

A GPU runs the same code; only the names of the devices differ.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import training_worker
from torch import Tensor
from transformers import AutoModelForCausalLM

from logitfusion.artefact import write_artefact
from logitfusion.config.models import RandomModel
from logitfusion.models.source import make_random
from logitfusion.training.memory import FROZEN, TRAINED

ROOT = Path(__file__).parents[1]
OFTEN = {"checkpoint_minutes": 1e-9}
Result = tuple[dict[str, Tensor], list[float]]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny model whose embeddings are tied, in fp32 and in bf16."""
    root = tmp_path_factory.mktemp("bases")
    make_random(RandomModel(source="random", hidden_size=16, layers=2, seed=1), root / "fp32")
    shutil.copytree(root / "fp32", root / "bf16")
    AutoModelForCausalLM.from_pretrained(root / "fp32", dtype=torch.bfloat16).save_pretrained(root / "bf16")
    return {path.name: str(path) for path in root.iterdir()}


def cases(bases: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Trainings that begin and end; the copies are first, because accelerate goes on parting once it has begun."""
    fp32, bf16 = ({"base": bases[name]} for name in ("fp32", "bf16"))
    return {
        "copies": {"kind": "full", **fp32},
        "copies packed": {"kind": "full", "packing": 64, **fp32},
        "copies heal": {"kind": "heal", **fp32},
        "parted": {"kind": "full", "sharded": True, **fp32, **OFTEN},
        "parted checkpointed": {"kind": "full", "sharded": True, "gradient_checkpointing": True, **fp32},
        "parted lora": {"kind": "lora", "sharded": True, **bf16},
        "parted heal": {"kind": "heal", "sharded": True, **fp32},
        "parted student": {"kind": "student", "sharded": True, **fp32},
    }


def launch(output: Path, entries: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """All entries in two processes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "2"}
    entries = [{"processes": 2, **entry} for entry in entries]
    launcher = ["logitfusion.stages._torchrun", "--standalone", "--nproc-per-node", "2"]
    worker = [str(ROOT / "tests/training_worker.py"), "--output", str(output), "--config", json.dumps(entries)]
    return subprocess.run(
        [sys.executable, "-m", *launcher, *worker], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def broken(bases: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where two processes trained every case, and the last one was killed; and what they said."""
    output = tmp_path_factory.mktemp("two")
    killed = {"name": "killed", "killed": True} | cases(bases)["parted"]
    done = launch(output, [{"name": name} | case for name, case in cases(bases).items()] + [killed])
    assert done.returncode == 1, done.stderr
    return output, done.stderr


@pytest.fixture(scope="module")
def resumed(broken: tuple[Path, str], bases: dict[str, str]) -> tuple[Path, str]:
    """The killed one again, and one that one process began."""
    output, _ = broken
    mark = {"fingerprint": "same", "processes": 1, "sharded": False, "random": True}
    shutil.copytree(output / "killed.checkpoints", output / "random.checkpoints")
    write_artefact(output / "random.checkpoints/fingerprint.json", mark | {"sharded": True})
    parted = cases(bases)["parted"]
    done = launch(output, [{"name": "killed"} | parted, {"name": "random"} | parted])
    assert done.returncode == 1, done.stderr
    return output, done.stderr


def one_process(case: dict[str, Any], folder: Path) -> Result:
    alone = {key: value for key, value in case.items() if key != "sharded"}
    kind, base = alone.pop("kind"), Path(alone.pop("base"))
    model, curve = training_worker.train(kind, base, folder, **alone)
    return dict(model.state_dict()), [row["loss"] for row in curve]


@pytest.mark.parametrize("name", cases(dict.fromkeys(("fp32", "bf16"), "")))
def test_two_processes_have_the_losses_and_weights_of_one(
    broken: tuple[Path, str], bases: dict[str, str], tmp_path: Path, name: str
) -> None:
    """But for the order of sums."""
    found, losses = torch.load(broken[0] / f"{name}.pt")
    expected, alone = one_process(cases(bases)[name], tmp_path)
    assert losses == pytest.approx(alone, rel=1e-5)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        # AdamW divides by the size of a gradient, so that the rounding of one near 0 counts.
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "frozen"), [("parted", "float32"), ("parted lora", "bfloat16")])
def test_each_process_keeps_its_part_of_the_bytes(broken: tuple[Path, str], name: str, frozen: str) -> None:
    """Of the table in training/memory.py, together all of it, each about half."""
    counts = [json.loads((broken[0] / f"{name}.{rank}.json").read_text()) for rank in range(2)]
    trained, still = counts[0]["trained"], counts[0]["frozen"]
    expected = {
        "weights": TRAINED.weights * trained + FROZEN[frozen].weights * still,
        "gradients": TRAINED.gradients * trained,
        "moments": TRAINED.moments * trained,
    }
    for part, size in expected.items():
        assert sum(count[part] for count in counts) == size
        assert all(count[part] < 0.6 * size for count in counts)


def test_a_killed_process_is_a_sentence(broken: tuple[Path, str]) -> None:
    assert "Process 0 of 2 (from 0) was ended by SIGKILL" in broken[1].splitlines()[-1]
    assert "Traceback" not in broken[1]


def test_a_killed_training_ends_like_an_uninterrupted_one(resumed: tuple[Path, str]) -> None:
    output, said = resumed
    assert "test: resuming from checkpoint-3" in said
    found, losses = torch.load(output / "killed.pt")
    expected, uninterrupted = torch.load(output / "parted.pt")
    assert losses == uninterrupted
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_other_random_numbers_are_refused(resumed: tuple[Path, str]) -> None:
    """Two processes would draw others than the one that began; the checkpoints stay."""
    output, said = resumed
    assert "began in 1 processes, which draw random numbers" in said.splitlines()[-1]
    assert "set processes: 1 again" in said.splitlines()[-1]
    assert said.count("ERROR") == 1
    assert (output / "random.checkpoints/checkpoint-3").is_dir()
