"""Trains a student by a DistillationTrainer in the processes that a launcher started: see test_distill_trainer.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from logitfusion.distill import DistillationConfig, DistillationTrainer

ROWS = [{"prompt": f"Count to {n}:", "response": " " + " ".join(map(str, range(10, 12 + n % 5)))} for n in range(14)]
SETTINGS: dict[str, Any] = {
    "uld": 0.2, "gld": 0.1, "kl": 0.3, "k": 5, "learning_rate": 5e-3, "num_train_epochs": 2, "logging_steps": 1,
    "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "dataloader_pin_memory": False,
}  # fmt: skip
OTHERS = ("teachers", "peft_config", "callbacks", "measure", "eval_dataset")


def make_trainer(folder: Path, output: Path, **changes: Any) -> DistillationTrainer:
    """Of the student in ``folder`` with its twin as a teacher, who reads online."""
    others = {name: changes.pop(name) for name in OTHERS if name in changes}
    return DistillationTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "student", dtype=torch.float32),
        args=DistillationConfig(output_dir=str(output), **SETTINGS | changes),
        train_dataset=ROWS[:9],
        processing_class=AutoTokenizer.from_pretrained(folder / "student"),
        **{"teachers": {"twin": folder / "twin"}, "eval_dataset": ROWS[-5:]} | others,
    )


def train(folder: Path, output: Path, **changes: Any) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """The trained weights, and all that was logged."""
    trainer = make_trainer(folder, output, **changes)
    trainer.train()
    trainer.evaluate()
    return {name: value.detach() for name, value in trainer.model.state_dict().items()}, trainer.state.log_history


if __name__ == "__main__":
    folder, output = map(Path, sys.argv[1:])
    found = train(folder, output / "trainer", per_device_train_batch_size=2, per_device_eval_batch_size=2)
    if torch.distributed.get_rank() == 0:
        torch.save(found, output / "two.pt")
    torch.distributed.destroy_process_group()
