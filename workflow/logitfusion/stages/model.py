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
from logitfusion.config.prompting import TextFormat
from logitfusion.config.section import Section
from logitfusion.config.training import PLACEMENT
from logitfusion.files import remove, whole
from logitfusion.integrity import RECORD, as_rows, record_files
from logitfusion.models import source
from logitfusion.models.examples import ExampleEncoder
from logitfusion.models.load import copy_tokenizer, describe, load_model, load_tokenizer, save_model, use_threads
from logitfusion.models.precision import written_dtype
from logitfusion.models.reference import describe_recorded
from logitfusion.provenance import fingerprint, record
from logitfusion.stages._stage import logger, run_stage
from logitfusion.stages._texts import SplitTexts
from logitfusion.training import heal
from logitfusion.training.batches import is_main_process
from logitfusion.training.curve import write_curve
from logitfusion.training.weights import choose_attention, own_device


def main(arguments: argparse.Namespace, entry: Section) -> None:
    use_threads()
    pruned, curve = _prune_and_heal(arguments, entry) if isinstance(entry, PrunedModel) else (None, [])
    if not is_main_process():
        return
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
                model = pruned
                save_model(model, load_tokenizer(arguments.source), folder, written_dtype(entry.dtype))
                copy_tokenizer(arguments.source, folder)
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


def _prune_and_heal(arguments: argparse.Namespace, entry: PrunedModel) -> tuple[PreTrainedModel, list[Any]]:
    model = source.prune(arguments.source, entry.layers)
    if entry.heal is None:
        return model, []
    tokenizer = load_tokenizer(arguments.source)
    examples = ExampleEncoder(tokenizer, entry.heal.part(TextFormat))
    texts = list(map(examples.write, SplitTexts(arguments.text)))
    return heal.heal(
        choose_attention(model, arguments.source, entry.heal),
        load_model(arguments.source, device=own_device(), attention=entry.heal.attention),
        tokenizer,
        texts,
        entry.heal,
        checkpoints=arguments.checkpoints,
        fingerprint=fingerprint(entry.dump(exclude={"heal": PLACEMENT}), [arguments.source, *arguments.text]),
    )


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
