"""Trains several models one after the other in the processes that a launcher started, like a stage: see its test.

The config is a list of cases. A case that is killed kills the first process right after a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor
from transformers import PreTrainedModel

from logitfusion.config.objective import Objective
from logitfusion.config.training import HealRecipe, LoRA, Recipe
from logitfusion.distill.encoding import encode_texts
from logitfusion.distill.training import distill
from logitfusion.models.load import load_model, load_tokenizer
from logitfusion.stages._stage import run_stage
from logitfusion.training import loop
from logitfusion.training.batches import is_main_process
from logitfusion.training.finetune import finetune
from logitfusion.training.heal import heal
from logitfusion.training.sharding import local
from logitfusion.training.weights import load_trainee

EXAMPLES = [{"prompt": f"Count to {n}:", "completion": " " + " ".join("123456"[: 2 + n % 5])} for n in range(13)]
SETTINGS: dict[str, Any] = {
    "steps": 5, "batch_size": 8, "micro_batch": 2, "learning_rate": 5e-3, "max_tokens": 64, "precision": "fp32",
    "seed": 0,
}  # fmt: skip
Trained = tuple[PreTrainedModel, list[dict[str, float]]]


def train(kind: str, base: Path, checkpoints: Path, dropout: float = 0.0, **settings: Any) -> Trained:
    """Train all weights, adapters, or a student that heals or is distilled; the adapters are merged."""
    recipe = (HealRecipe if kind == "heal" else Recipe)(**SETTINGS | settings)
    common: dict[str, Any] = {"checkpoints": checkpoints, "fingerprint": "same"}
    tokenizer, model = load_tokenizer(base), load_trainee(base, recipe)
    if kind == "heal":
        teacher = load_model(base)
        with torch.no_grad():
            for value in model.parameters():
                value *= 1.1
        return heal(model, teacher, tokenizer, [row["prompt"] for row in EXAMPLES], recipe, **common)
    if kind == "student":  # evaluated after its last step, which no backward follows
        texts = encode_texts(tokenizer, [(row["prompt"], row["completion"]) for row in EXAMPLES])
        evaluation = {"held_out": texts[:3], "eval_strategy": "steps", "eval_steps": recipe.steps}
        return distill(model, tokenizer, texts, {}, Objective(), recipe, lora=None, name="test", **common, **evaluation)
    lora = LoRA(rank=2, alpha=4.0, dropout=dropout) if kind == "lora" else None
    return finetune(model, tokenizer, EXAMPLES, recipe, lora=lora, name="test", **common)


def count_bytes(model: Any, optimizer: Any) -> dict[str, int]:
    """Of this process's tensors between a step's gradient and its end, and all parameters, trained and frozen."""

    def size(tensors: list[Tensor]) -> int:
        return sum(value.numel() * value.element_size() for value in map(local, tensors))

    trained = [value for value in model.parameters() if value.requires_grad]
    return {
        "weights": size(list(model.parameters())),
        "gradients": size([value.grad for value in trained]),
        "moments": size([state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]),
        "trained": sum(value.numel() for value in trained),
        "frozen": sum(value.numel() for value in model.parameters() if not value.requires_grad),
    }


class Counted(loop.Progress):
    """Progress of a training that keeps what it has counted."""

    found: ClassVar[dict[str, int]] = {}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any) -> None:
        self.found.update(count_bytes(model, optimizer))


class Killed(Counted):
    """Progress of a training whose first process is killed."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3 and is_main_process():
            os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: argparse.Namespace, cases: list[dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    loop.Progress = Counted
    for case in cases:
        name, kind, base = (case.pop(key) for key in ("name", "kind", "base"))
        if case.pop("killed", False):
            loop.Progress = Killed
        if AcceleratorState._shared_state:  # a stage trains once
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
        model, curve = train(kind, Path(base), arguments.output / f"{name}.checkpoints", **case)
        (arguments.output / f"{name}.{os.environ['RANK']}.json").write_text(json.dumps(Counted.found))
        if is_main_process():
            torch.save((dict(model.state_dict()), [row["loss"] for row in curve]), arguments.output / f"{name}.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    run_stage(main, parser, list[dict[str, Any]])
