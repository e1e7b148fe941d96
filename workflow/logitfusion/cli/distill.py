"""Train a student on texts and on what teachers make of them."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from logitfusion.cli._inputs import be_quiet
from logitfusion.cli._learned import FORM, read_learned
from logitfusion.cli._options import add_options, given_values, read_section, spell
from logitfusion.cli._outputs import claim_outputs
from logitfusion.config.distill import DistillMethod, StudentTraining
from logitfusion.config.keywords import read_options
from logitfusion.config.objective import Objective
from logitfusion.config.section import Section, Seed
from logitfusion.config.training import PLACEMENT, Adaptation, LoRA, Training
from logitfusion.errors import UserError

logger = logging.getLogger("logitfusion")

_NUMBERS = {"nargs": "+", "type": float, "metavar": "NUMBER"}


class Draws(Section):
    """What is drawn at random."""

    seed: Seed = 0
    """Of the order of the texts, and of any random initial values."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a training."""
    parser.description = (
        "Train a student on texts and on what teachers predict there, whatever their vocabularies. A stopped training"
        " goes on by the same call. Several processes: torchrun --nproc-per-node 2 -m logitfusion distill ..., or"
        " accelerate launch -m logitfusion distill ..."
    )
    parser.add_argument("student", type=Path, metavar="STUDENT", help="folder of the model that is trained")
    parser.add_argument("--texts", nargs="+", action="extend", required=True, metavar="FILE.jsonl", help=FORM)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the trained student")
    parser.add_argument(
        "--cache", nargs="+", action="extend", default=[], metavar="NAME=DIR",
        help="teachers that have read the texts already, by logitfusion distill-cache",
    )  # fmt: skip
    add_options(parser.add_argument_group("loss"), Objective, forms={"weights": _NUMBERS})
    training = parser.add_argument_group("training")
    add_options(training, Training, *(name for name in Training.model_fields if name != "processes"))
    add_options(training, Draws)
    adapters = parser.add_argument_group("adapters")
    add_options(adapters, Adaptation, "method", "quantisation")
    add_options(adapters, LoRA)


def run(arguments: argparse.Namespace) -> None:
    be_quiet()
    caches = _name_folders("--cache", arguments.cache)
    objective, training = _read_options(arguments, caches)
    _check_places(arguments, caches)
    seed = read_section(Draws, arguments).seed
    texts = [text for path in arguments.texts for text in read_learned(path, chats=training.template == "chat")]
    from logitfusion.distill.cache import TeacherCache, find_shards
    from logitfusion.distill.shard import hash_texts
    from logitfusion.distill.sources import CachedSource
    from logitfusion.distill.student import train_student
    from logitfusion.models.identity import hash_model
    from logitfusion.provenance import fingerprint
    from logitfusion.training.batches import is_main_process

    logger.setLevel(logging.INFO if is_main_process() else logging.WARNING)  # one process tells
    shards = {name: find_shards(folder) for name, folder in caches.items()}
    made_with = {
        "student": hash_model(arguments.student),
        "data_hash": hash_texts(texts),
        "objective": objective.dump(),
        "training": training.dump(),
        "seed": seed,
    }
    decided_by = made_with | {"training": training.dump(exclude=set(PLACEMENT))}
    train_student(
        arguments.student,
        texts,
        {name: CachedSource(TeacherCache(paths)) for name, paths in shards.items()},
        objective,
        training,
        seed=seed,
        name=arguments.output.name,
        output=arguments.output,
        checkpoints=_checkpoints(arguments),
        fingerprint=fingerprint(decided_by, [path for paths in shards.values() for path in paths]),
        made_with=made_with,
    )
    if is_main_process():
        print(arguments.output)


def _read_options(arguments: argparse.Namespace, teachers: Collection[str]) -> tuple[DistillMethod, StudentTraining]:
    """The loss and the training; the launcher says of how many processes."""
    given = given_values(Objective, arguments) | {"teachers": tuple(teachers)}
    objective = read_options(DistillMethod, given, spell)
    lora = read_section(LoRA, arguments)
    given = given_values(StudentTraining, arguments) | {"lora": lora, "processes": int(os.environ.get("WORLD_SIZE", 1))}
    training = read_options(StudentTraining, given, spell)
    if training.method != "lora" and (named := given_values(LoRA, arguments)):
        raise UserError(f"{spell(next(iter(named)))} is of adapters; add --method lora, or leave it out.")
    return objective, training


def _name_folders(option: str, given: Sequence[str]) -> dict[str, Path]:
    """Teachers and their folders, of words ``NAME=DIR``; without a name a folder's own is taken."""
    found: dict[str, Path] = {}
    for word in given:
        name, named, folder = word.partition("=")
        path = Path(folder if named else word)
        name = name if named else path.name
        if not path.is_dir():
            raise UserError(f"{option} {word}: the folder {path} does not exist.")
        if name in found:
            raise UserError(f"{option} names the teacher {name!r} twice; give each a name of its own, NAME=DIR.")
        found[name] = path
    return found


def _check_places(arguments: argparse.Namespace, teachers: Mapping[str, Path]) -> None:
    """Refuse a student that is not there, and a place for the trained one that is taken."""
    if not arguments.student.is_dir():
        raise UserError(f"The model folder {arguments.student} does not exist.")
    if arguments.output.is_dir() and any(arguments.output.iterdir()):
        raise UserError(f"{arguments.output} is there already; name another folder with --output, or delete it.")
    if "-" in arguments.texts and "WORLD_SIZE" in os.environ:
        raise UserError("Several processes can't read one standard input; give --texts a file.")
    read = {"STUDENT": arguments.student, "--texts": arguments.texts, "--cache": list(teachers.values())}
    claim_outputs({"--output": arguments.output}, read, folders=["--output"])


def _checkpoints(arguments: argparse.Namespace) -> Path:
    """Beside the output, as the workflow has them."""
    return arguments.output.with_name(f"{arguments.output.name}.checkpoints")
