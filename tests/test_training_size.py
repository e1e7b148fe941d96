"""Training at size: epochs, processes and their batches, layers that are computed again, precisions, counted bytes."""

from __future__ import annotations

import errno
import importlib.util
import json
import math
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.distributed import checkpoint as parts
from training_worker import EXAMPLES, SETTINGS, count_bytes, train
from transformers import Trainer

from logitfusion.config.distill import StudentTraining
from logitfusion.config.errors import explain
from logitfusion.config.experts import TrainedExpert
from logitfusion.config.models import RandomModel
from logitfusion.config.section import Section
from logitfusion.config.training import PLACEMENT, HealRecipe, LoRA, Recipe
from logitfusion.errors import UserError
from logitfusion.models.load import load_model, load_tokenizer
from logitfusion.models.source import make_random
from logitfusion.training import heal as heal_module
from logitfusion.training import loop
from logitfusion.training import weights as weights_module
from logitfusion.training.batches import micro_batch, order_rows
from logitfusion.training.checkpoints import Mark, find_checkpoint, mark_checkpoints
from logitfusion.training.finetune import finetune
from logitfusion.training.memory import FROZEN, TRAINED
from logitfusion.training.weights import as_saved, load_trainee, refuse_quantisation

EXPERT = {"base": "small", "tasks": ["sums"]}


def weights(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


# ---- the config ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "entry", "words"),
    [
        (Recipe, {"steps": 3, "epochs": 2.0}, "'epochs' needs either steps or epochs; leave one of them out"),
        (Recipe, {"steps": None}, "'epochs' needs either steps or epochs"),
        (Recipe, {"processes": 3}, r"'processes' is 3, which doesn't divide batch_size \(32\); make that a multiple"),
        (HealRecipe, {"sharded": True}, "'sharded' needs several processes .*; raise processes"),
        (TrainedExpert, EXPERT | {"quantisation": "nf4"}, "'quantisation' is nf4, .*; set method: lora"),
        (StudentTraining, {"quantisation": "int3"}, "'quantisation' must be one of none, nf4, and is 'int3'"),
        (
            StudentTraining,
            {"quantisation": "nf4", "method": "lora", "sharded": True, "processes": 2},
            "'sharded' can't be parted, because weights in 4 bits are whole in every process",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(kind: type[Section], entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(entry)
    with pytest.raises(UserError, match=rf"Config key {words}.*\.$"):
        raise UserError(explain(caught.value))


def test_a_job_reads_epochs_as_they_were_written() -> None:
    expert = TrainedExpert.model_validate(EXPERT | {"epochs": 1.5})
    assert expert.steps is None
    assert TrainedExpert.model_validate_json(expert.model_dump_json()) == expert
    assert expert.length == "1.5 epochs"


@pytest.mark.parametrize("epochs", [0.5, 1.0, 2.25])
def test_epochs_are_the_steps_that_they_stand_for(tiny_models: dict[str, Path], tmp_path: Path, epochs: float) -> None:
    steps = math.ceil(epochs * len(EXAMPLES) / SETTINGS["batch_size"])
    model, curve = train("full", tiny_models["base"], tmp_path / "a", epochs=epochs, steps=None)
    other, losses = train("full", tiny_models["base"], tmp_path / "b", steps=steps)
    assert curve == losses
    assert_equal(weights(model), weights(other))


@pytest.mark.parametrize(("epochs", "steps"), [(1.1, 11), (2.2, 22), (0.07, 1), (1.11, 12)])
def test_epochs_count_as_they_are_written(epochs: float, steps: int) -> None:
    """1.1 * 100 is more than 110 in binary."""
    assert Recipe(epochs=epochs, batch_size=10).count_steps(100) == steps


def test_where_it_computes_decides_nothing_of_a_training() -> None:
    """What checkpoints are recognised by."""
    here = TrainedExpert.model_validate(EXPERT)
    there = TrainedExpert.model_validate(EXPERT | {"processes": 4, "sharded": True, "gradient_checkpointing": True})
    assert here.dump(exclude=PLACEMENT) == there.dump(exclude=PLACEMENT)
    assert here.dump() != there.dump()


# ---- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 6, 12])
def test_a_step_has_the_same_rows_in_any_number_of_processes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    recipe = Recipe(**SETTINGS | {"batch_size": 12, "micro_batch": 4})
    rows = [{"id": number, "input_ids": [0] * (1 + number % 7)} for number in range(31)]

    def steps() -> list[list[int]]:
        ordered = [row["id"] for row in order_rows(rows, recipe)]
        assert len(ordered) == recipe.steps * recipe.batch_size
        return [sorted(ordered[start : start + 12]) for start in range(0, len(ordered), 12)]

    alone = steps()
    monkeypatch.setenv("WORLD_SIZE", str(count))
    assert steps() == alone
    assert 12 // count % micro_batch(recipe, count) == 0


@pytest.mark.parametrize(("count", "words"), [(1, None), (2, None), (4, "4 processes compare 8 texts at a time")])
def test_healing_says_where_processes_cut_what_is_compared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, count: int, words: str | None
) -> None:
    """Its means and variances are those of a micro-batch."""
    monkeypatch.setenv("WORLD_SIZE", str(count))
    heal_module.warn_of_cut_batches(HealRecipe(batch_size=32, micro_batch=16))
    assert (words in caplog.text) if words else not caplog.messages


# ---- layers that are computed again -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "lora", "heal"])
def test_gradient_checkpointing_changes_no_bit(tiny_models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Dropout included, whose numbers are drawn again."""
    options = {"dropout": 0.3} if kind == "lora" else {}
    model, curve = train(kind, tiny_models["base"], tmp_path / "a", gradient_checkpointing=True, **options)
    other, losses = train(kind, tiny_models["base"], tmp_path / "b", **options)
    assert model.is_gradient_checkpointing
    assert curve == losses
    assert_equal(weights(model), weights(other))


# ---- precisions ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base in bf16."""
    folder = tmp_path_factory.mktemp("half")
    load_model(tiny_models["base"], dtype=torch.bfloat16).save_pretrained(folder)
    load_tokenizer(tiny_models["base"]).save_pretrained(folder)
    return folder


class CountedError(Exception):
    """Stops a training once its bytes are counted."""


@pytest.mark.parametrize("base", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoRA(rank=4)], ids=["full", "lora"])
def test_bytes_of_a_training_are_those_of_the_table(
    tiny_models: dict[str, Path],
    half: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
    lora: LoRA | None,
) -> None:
    """Tensors of model, gradients and optimizer, counted between a step's gradient and its end."""
    found: dict[str, int] = {}

    def count(self: Any, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any) -> None:
        found.update(count_bytes(model, optimizer))
        raise CountedError

    monkeypatch.setattr(loop.Progress, "on_optimizer_step", count, raising=False)
    recipe = Recipe(**SETTINGS)
    folder = tiny_models["base"] if base == "float32" else half
    with pytest.raises(CountedError):
        finetune(
            load_trainee(folder, recipe), load_tokenizer(folder), EXAMPLES, recipe,
            lora=lora, checkpoints=tmp_path, fingerprint="x", name="test",
        )  # fmt: skip
    assert found["weights"] == TRAINED.weights * found["trained"] + FROZEN[base].weights * found["frozen"]
    assert found["gradients"] == TRAINED.gradients * found["trained"]
    assert found["moments"] == TRAINED.moments * found["trained"]
    assert (found["frozen"] == 0) == (lora is None)


def test_a_trained_model_has_the_precision_of_its_base(half: Path, tmp_path: Path) -> None:
    model, _ = train("full", half, tmp_path / "full")
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    adapted, _ = train("lora", half, tmp_path / "lora")
    dtypes = {value.requires_grad: value.dtype for value in adapted.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


def test_the_log_says_how_it_is_trained(half: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="logitfusion")
    train("lora", half, tmp_path, steps=1, gradient_checkpointing=True, attention="eager")
    (line,) = [line for line in caplog.messages if "AdamW" in line]
    for words in ("adapters in fp32 beside frozen weights in bfloat16", "one process", "checkpointing on", "eager"):
        assert words in line


def test_a_weight_that_half_precision_does_not_hold_is_refused() -> None:
    layer = torch.nn.Linear(1, 1)
    layer.weight.data.fill_(1e6)
    with pytest.raises(UserError, match="test: a trained weight is too large for float16"):
        as_saved(layer, torch.float16, "test")


def test_four_bits_of_an_adapter_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    monkeypatch.setattr("logitfusion.training.weights.refuse_quantisation", lambda kind: None)
    expert = TrainedExpert.model_validate(EXPERT | {"method": "lora", "quantisation": "nf4"})
    with pytest.raises(UserError, match=r"nf4 reads whole models, and .* is an adapter"):
        load_trainee(tmp_path, expert)


@pytest.mark.parametrize(("installed", "words"), [(False, "needs the package bitsandbytes"), (True, "needs an NVIDIA")])
def test_four_bits_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool, words: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refuse_quantisation("none")
    expert = TrainedExpert.model_validate(EXPERT | {"method": "lora", "quantisation": "nf4"})
    with pytest.raises(UserError, match=words):
        load_trainee(tmp_path / "absent", expert)


# ---- checkpoints --------------------------------------------------------------------------------------------------


def parted_checkpoint(folder: Path, step: int) -> Path:
    """As accelerate writes them: a folder of parts, with a table, for the model and for its optimizer."""
    checkpoint = folder / f"checkpoint-{step}"
    for name in ("pytorch_model_fsdp_0", "optimizer_0"):
        parts.save({"a": torch.zeros(64), "b": torch.ones(32)}, checkpoint_id=checkpoint / name, no_dist=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    return checkpoint


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("damage", ["cut", "absent", "zeros"])
@pytest.mark.parametrize("part", ["pytorch_model_fsdp_0", "optimizer_0"])
def test_parts_that_lost_something_are_passed_over(tmp_path: Path, part: str, damage: str, name: str) -> None:
    mark = Mark("same", processes=2, sharded=True)
    mark_checkpoints(tmp_path, mark)
    whole, broken = parted_checkpoint(tmp_path, 2), parted_checkpoint(tmp_path, 4)
    file = broken / part / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "zeros":
        file.write_bytes(bytes(file.stat().st_size))
    else:
        file.unlink()
    assert find_checkpoint(tmp_path, mark) == whole


def test_a_process_whose_random_numbers_are_not_there_has_not_finished(tmp_path: Path) -> None:
    mark = Mark("same", processes=2, random=True)
    mark_checkpoints(tmp_path, mark)
    checkpoint = tmp_path / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    for process in range(2):
        torch.save({}, checkpoint / f"rng_state_{process}.pth")
    assert find_checkpoint(tmp_path, mark) == checkpoint
    (checkpoint / "rng_state_1.pth").unlink()
    assert find_checkpoint(tmp_path, mark) is None


def test_checkpoints_of_a_damaged_mark_are_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark = Mark("same")
    mark_checkpoints(tmp_path, mark)
    (tmp_path / "checkpoint-2").mkdir()
    file = tmp_path / "fingerprint.json"
    file.write_bytes(file.read_bytes().replace(b"same", b"sane"))
    assert find_checkpoint(tmp_path, mark) is None
    assert f"The checkpoints in {tmp_path} are of an unknown training and are left out" in caplog.text
    caplog.clear()
    assert find_checkpoint(tmp_path / "new", mark) is None
    assert not caplog.text


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_whether_random_numbers_are_drawn_is_noted(
    tiny_models: dict[str, Path], tmp_path: Path, dropout: float
) -> None:
    train("lora", tiny_models["base"], tmp_path, dropout=dropout, steps=2, checkpoint_minutes=1e-9)
    assert json.loads((tmp_path / "fingerprint.json").read_text())["random"] == (dropout > 0)
    more = Mark("same", processes=2)
    if dropout:
        with pytest.raises(UserError, match=r"began in 1 processes.*set processes: 1 again, or delete"):
            find_checkpoint(tmp_path, more)
    else:
        assert find_checkpoint(tmp_path, more) is not None
    mark_checkpoints(tmp_path, Mark("same"))  # by a call that has drawn nothing yet
    assert json.loads((tmp_path / "fingerprint.json").read_text())["random"] == (dropout > 0)


def test_a_full_disk_is_a_sentence_where_parts_are_written(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch raises of all processes together is no Exception."""

    def fill(*_: Any, **__: Any) -> None:
        failure = OSError(errno.ENOSPC, "No space left on device")
        raise parts.CheckpointException("write", {1: (failure, traceback.StackSummary())})

    monkeypatch.setattr(Trainer, "_save_checkpoint", fill)
    with pytest.raises(UserError, match=r"A checkpoint could not be written to .*: no space left on the disk"):
        train("full", tiny_models["base"], tmp_path, steps=2, checkpoint_minutes=1e-9)


def test_a_whole_checkpoint_is_not_parted(tmp_path: Path) -> None:
    mark_checkpoints(tmp_path, Mark("same", processes=2, sharded=True))
    checkpoint = parted_checkpoint(tmp_path, 2)
    with pytest.raises(UserError, match="began with sharded and can't go on without it; set sharded: true again"):
        find_checkpoint(tmp_path, Mark("same", processes=2))
    assert checkpoint.is_dir()


# ---- four bits ----------------------------------------------------------------------------------------------------


def test_adapters_are_trained_beside_four_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bitsandbytes is installed, which computes on CPUs too, slowly."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(weights_module, "refuse_quantisation", lambda kind: None)
    base = tmp_path / "base"
    make_random(RandomModel(source="random", hidden_size=64, layers=1, seed=1), base)
    expert = TrainedExpert.model_validate(
        EXPERT | SETTINGS | {"method": "lora", "quantisation": "nf4", "precision": "bf16", "steps": 20}
    )
    model = load_trainee(base, expert)
    assert {str(value.dtype) for value in model.parameters()} == {"torch.uint8", "torch.bfloat16"}
    trained, curve = finetune(
        model, load_tokenizer(base), EXAMPLES, expert.part(Recipe),
        lora=LoRA(rank=4, alpha=8.0), checkpoints=tmp_path / "checkpoints", fingerprint="x", name="test",
    )  # fmt: skip
    assert {value.dtype for value in trained.parameters() if value.requires_grad} == {torch.float32}
    assert curve[-1]["loss"] < 0.9 * curve[0]["loss"]
