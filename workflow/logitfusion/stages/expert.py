"""Train an expert (or a ceiling) on tasks, or merge trained ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.config.experts import Expert, MergedExpert, TrainedExpert
from logitfusion.config.training import PLACEMENT, Recipe
from logitfusion.files import remove
from logitfusion.models.load import load_tokenizer, use_threads
from logitfusion.models.merge import merge_experts
from logitfusion.models.precision import choose_dtype
from logitfusion.provenance import fingerprint
from logitfusion.stages._stage import logger, run_stage
from logitfusion.stages._texts import read_rows
from logitfusion.training.batches import is_main_process
from logitfusion.training.finetune import finetune
from logitfusion.training.folder import write_trained
from logitfusion.training.weights import as_saved, load_trainee


def main(arguments: argparse.Namespace, expert: TrainedExpert | MergedExpert) -> None:
    use_threads()
    tokenizer = load_tokenizer(arguments.base)
    curve: list[dict[str, float]] = []
    if isinstance(expert, MergedExpert):
        merged = merge_experts(arguments.base, arguments.parts, expert.scale)
        model = as_saved(merged, choose_dtype(arguments.base), arguments.name)
    else:
        examples = read_rows(arguments.text)
        model, curve = finetune(
            load_trainee(arguments.base, expert),
            tokenizer,
            examples,
            expert.part(Recipe),
            lora=expert.lora if expert.method == "lora" else None,
            checkpoints=arguments.checkpoints,
            fingerprint=fingerprint(expert.dump(exclude=PLACEMENT), [arguments.base, *arguments.text]),
            name=arguments.name,
        )
    if not is_main_process():
        return
    write_trained(arguments.output, model, tokenizer, arguments.base, expert.dump(), curve)
    remove(arguments.checkpoints)
    logger.info("%s: written", arguments.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--base", type=Path, required=True, help="the model that is trained")
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="training splits")
    parser.add_argument("--parts", type=Path, nargs="*", default=[], help="experts to merge")
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    run_stage(main, parser, Expert)
