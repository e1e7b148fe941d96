"""Make a model's folder: referred to, converted, randomly initialised, or pruned and healed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from logitfusion.config.models import (
    Model,
    PartedModel,
    PathModel,
    PrunedModel,
    RandomModel,
    WholeModel,
)
from logitfusion.config.section import Section
from logitfusion.files import read_jsonl, remove, whole
from logitfusion.integrity import RECORD, as_rows, record_files
from logitfusion.models import source
from logitfusion.models.load import copy_tokenizer, describe, load_model, load_tokenizer, save_model, use_threads
from logitfusion.models.precision import written_dtype
from logitfusion.models.reference import describe_recorded
from logitfusion.provenance import fingerprint, record
from logitfusion.stages._stage import logger, run_stage
from logitfusion.training import heal
from logitfusion.training.curve import write_curve


def main(arguments: argparse.Namespace, entry: Section) -> None:
    use_threads()
    curve: list[dict[str, float]] = []
    model: PreTrainedModel | None
    with whole(arguments.output) as folder:
        folder.mkdir()
        match entry:
            case WholeModel() | PartedModel():
                model = source.from_package(entry, arguments.package, folder)
            case PathModel():
                model = source.from_path(entry, folder, arguments.name)
            case RandomModel():
                model = source.make_random(entry, folder)
            case PrunedModel():
                model, curve = _prune_and_heal(arguments, entry, folder)
        if model is None:
            facts = describe_recorded(folder)
        else:
            facts = describe(model)
            record(folder / RECORD, entry.dump(), files=as_rows(record_files(folder)), **facts)
        if terms := getattr(entry, "terms", None):
            logger.info("%s is used under terms of its own: %s", arguments.name, terms)
        logger.info("%s: %s", arguments.name, facts)
        write_curve(folder / "curve.csv", curve)
    remove(arguments.checkpoints)


def _prune_and_heal(arguments: argparse.Namespace, entry: PrunedModel, folder: Path) -> tuple[Any, list[Any]]:
    model = source.prune(arguments.source, entry.layers)
    tokenizer = load_tokenizer(arguments.source)
    curve: list[dict[str, float]] = []
    if entry.heal is not None:
        texts = [row["prompt"] + row["completion"] for path in arguments.text for row in read_jsonl(path)]
        model, curve = heal.heal(
            model,
            load_model(arguments.source),
            tokenizer,
            texts,
            entry.heal,
            checkpoints=arguments.checkpoints,
            fingerprint=fingerprint(entry.dump(), [arguments.source, *arguments.text]),
        )
    save_model(model, tokenizer, folder, written_dtype(entry.dtype))
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
    run_stage(main, parser, Model)
