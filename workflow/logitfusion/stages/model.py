"""Make a model's folder: fetched, copied, converted, drawn by chance, or pruned and healed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from logitfusion.config.training import HealRecipe
from logitfusion.files import read_jsonl, remove, whole
from logitfusion.models import source
from logitfusion.models.identity import checksum_weights
from logitfusion.models.load import copy_tokenizer, describe, load_model, load_tokenizer, save_model, use_threads
from logitfusion.provenance import fingerprint, record
from logitfusion.stages._stage import logger, run_stage
from logitfusion.training import heal
from logitfusion.training.curve import write_curve


def main(arguments: argparse.Namespace, config: dict[str, Any]) -> None:
    use_threads()
    curve: list[dict[str, float]] = []
    with whole(arguments.output) as folder:
        folder.mkdir()
        match config["source"]:
            case "package":
                model = source.from_package(config, arguments.package, folder)
            case "hub":
                model = source.from_hub(config, folder)
            case "path":
                model = source.from_path(config, folder)
            case "random":
                model = source.from_chance(config, folder)
            case "pruned":
                model, curve = _prune_and_heal(arguments, config, folder)
        facts = describe(model)
        if config.get("terms"):
            logger.info("%s is used under terms of its own: %s", arguments.name, config["terms"])
        logger.info("%s: %s", arguments.name, facts)
        record(folder / "record.json", config, checksum=checksum_weights(folder), **facts)
        write_curve(folder / "curve.csv", curve)
    remove(arguments.checkpoints)


def _prune_and_heal(arguments: argparse.Namespace, config: dict[str, Any], folder: Path) -> tuple[Any, list[Any]]:
    model = source.prune(arguments.source, config["layers"])
    tokenizer = load_tokenizer(arguments.source)
    curve: list[dict[str, float]] = []
    if "heal" in config:
        texts = [row["prompt"] + row["completion"] for path in arguments.text for row in read_jsonl(path)]
        model, curve = heal.heal(
            model,
            load_model(arguments.source),
            tokenizer,
            texts,
            HealRecipe.model_validate({key: config["heal"][key] for key in HealRecipe.model_fields}),
            checkpoints=arguments.checkpoints,
            fingerprint=fingerprint(config, [arguments.source, *arguments.text]),
        )
    save_model(model, tokenizer, folder)
    copy_tokenizer(arguments.source, folder)
    return model, curve


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument(
        "--package", type=Path, nargs="*", default=[], help="the downloaded packages that hold the weights"
    )
    parser.add_argument("--source", type=Path, help="the model that is pruned")
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="training splits to heal on")
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    run_stage(main, parser)
