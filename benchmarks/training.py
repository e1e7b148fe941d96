"""Training an expert at the papers' sizes: tokens a second, and memory against what `logitfusion plan` says.

Random weights in bf16, made on the device, and LoRA on all linear layers, with and without gradient checkpointing, by
the code that the workflow trains with. `make bench-training` runs it on a GPU; `--dry-run` trains tiny models of the
same structure, on any machine.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from decoding.floor import Speed, measure_speed
from decoding.sizes import LLAMA_7B, LLAMA_13B, RANK, Shape, make_model
from decoding.tables import as_markdown
from logitfusion.config.training import LoRA, Recipe
from logitfusion.files import write_json, write_text
from logitfusion.models.device_maps import choose_device
from logitfusion.models.load import count_bytes
from logitfusion.models.tiny import tiny_tokenizer
from logitfusion.plan.cost import Cost
from logitfusion.plan.measure import measure
from logitfusion.plan.saved import count_saved
from logitfusion.plan.training import Forward, Plan, train_cost
from logitfusion.training.finetune import CompletionTrainer, finetune
from peak import most_bytes
from timing import describe_machine, synchronise, use_all_threads

SHAPES = {"llama-7b": LLAMA_7B, "llama-13b": LLAMA_13B}
WARM = 2  # first steps, which are not timed
LOGITS = 10.0  # bytes of a logit of the loss, as the plan of an expert counts them


def bench_training(name: str, shape: Shape, recipe: Recipe, device: torch.device, speed: Speed) -> dict[str, Any]:
    """One training of adapters on texts of ``max_tokens`` tokens."""
    lora, starts = LoRA(rank=RANK, alpha=2 * RANK), []
    model = make_model(shape, device, torch.bfloat16, seed=0)
    weights = count_bytes(model)
    prompt = "a" * (recipe.max_tokens // 4)
    example = {"prompt": prompt, "completion": "b" * (recipe.max_tokens - len(prompt) - 1)}  # and the end of text

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            finetune(
                model, tiny_tokenizer(), [example] * recipe.batch_size, recipe,
                lora=lora, checkpoints=Path(folder), fingerprint="", name=name,
            )  # fmt: skip

    with _noting_steps(starts, device):
        peak = weights + most_bytes(run, device)
    cost = predict(shape, recipe, lora)
    tokens = recipe.batch_size * recipe.max_tokens
    seconds = [later - earlier for earlier, later in zip(starts[WARM:-1], starts[WARM + 1 :], strict=True)]
    return {
        "training": f"{name}, LoRA of rank {RANK}{', checkpointed' if recipe.gradient_checkpointing else ''}",
        "batch": recipe.batch_size,
        "tokens": recipe.max_tokens,
        "tokens a second": [tokens / value for value in seconds],
        "floor tokens a second": recipe.steps * tokens * speed.operations / cost.work.flops,
        "bytes": weights,
        "peak bytes": peak,
        "predicted bytes": sum(cost.gpu.values()),
    }


def predict(shape: Shape, recipe: Recipe, lora: LoRA) -> Cost:
    """What the plan says of such a training."""
    facts = shape.config().to_dict()
    forward = Forward(dtype="bfloat16", autocast=recipe.precision == "bf16", lora=lora)
    plan = Plan(
        rows=recipe.micro_batch, tokens=recipe.max_tokens, sequences=recipe.steps * recipe.batch_size,
        rank=lora.rank, frozen="bfloat16", checkpointed=recipe.gradient_checkpointing, logits=LOGITS,
    )  # fmt: skip
    return train_cost(measure(shape.config()), count_saved(facts, forward, recipe.max_tokens), plan)


@contextmanager
def _noting_steps(starts: list[float], device: torch.device) -> Iterator[None]:
    """Note when every step begins."""
    compute = CompletionTrainer.compute_loss

    def noting(self: CompletionTrainer, *arguments: Any, **options: Any) -> torch.Tensor:
        synchronise(device)
        starts.append(time.perf_counter())
        return compute(self, *arguments, **options)

    CompletionTrainer.compute_loss = noting
    try:
        yield
    finally:
        CompletionTrainer.compute_loss = compute


def main() -> None:
    arguments = parse()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    use_all_threads()
    device = choose_device()
    speed = measure_speed(device, torch.bfloat16)
    report: dict[str, Any] = {"machine": describe_machine(device), "rounds": arguments.steps, "speed": asdict(speed)}
    report |= {"training": [], "left out": []}
    for name in arguments.shapes:
        shape = SHAPES[name].shrunk(SHAPES[name].vocabulary) if arguments.dry_run else SHAPES[name]
        for checkpointed in (False, True):
            recipe = Recipe(
                steps=WARM + arguments.steps + 1, batch_size=arguments.batch, micro_batch=arguments.batch,
                max_tokens=arguments.tokens, precision="bf16", gradient_checkpointing=checkpointed, seed=0,
            )  # fmt: skip
            try:
                row = bench_training(name, shape, recipe, device, speed)
                report["training"].append(row)
                print(f"{row['training']}: done", flush=True)
            except torch.OutOfMemoryError:
                words = "with" if checkpointed else "without"
                report["left out"].append(f"{name} {words} checkpointing does not fit into the device's memory.")
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    write_json(arguments.output, report)
    write_text(arguments.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["llama-7b"])
    parser.add_argument("--batch", type=int, default=8, help="texts of a step")
    parser.add_argument("--tokens", type=int, default=512, help="of each text")
    parser.add_argument("--steps", type=int, default=5, help="that are timed")
    parser.add_argument("--dry-run", action="store_true", help="tiny models of the same structure, two steps")
    parser.add_argument("--output", type=Path, default=Path("results/bench/training.json"))
    arguments = parser.parse_args()
    if arguments.dry_run:
        arguments.batch, arguments.tokens, arguments.steps = 2, 32, 2
    return arguments


if __name__ == "__main__":
    main()
