"""Train a student on texts and on what teachers make of them."""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from logitfusion.cli._inputs import be_quiet
from logitfusion.cli._learned import FORM
from logitfusion.cli._options import add_options, given_values, read_section, spell
from logitfusion.cli._outputs import claim_outputs
from logitfusion.cli._task_texts import OF_TASKS, Found, find_texts, is_file, read_tasks
from logitfusion.config.decoding import TaskDecoding
from logitfusion.config.distill import DistillMethod, StudentTraining
from logitfusion.config.keywords import read_options
from logitfusion.config.monitoring import Monitoring
from logitfusion.config.objective import Objective
from logitfusion.config.prompting import Prompting
from logitfusion.config.section import Section, Seed
from logitfusion.config.tasks import HarnessTask
from logitfusion.config.training import PLACEMENT, Adaptation, LoRA, Training
from logitfusion.errors import UserError

if TYPE_CHECKING:
    from logitfusion.evaluate.measured import Measure

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
    parser.add_argument(
        "--texts", nargs="+", action="extend", required=True, metavar="FILE|TASK",
        help=f"{FORM}; or tasks of lm-evaluation-harness, of which the right answers are learned",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the trained student")
    parser.add_argument(
        "--cache", nargs="+", action="extend", default=[], metavar="NAME=DIR",
        help="teachers that have read the texts already, by logitfusion distill-cache",
    )  # fmt: skip
    add_options(parser.add_argument_group("loss"), Objective, forms={"weights": _NUMBERS})
    training = parser.add_argument_group("training")
    add_options(training, Training, *(name for name in Training.model_fields if name != "processes"))
    add_options(training, Draws)
    evaluation = parser.add_argument_group("evaluation while training")
    evaluation.add_argument(
        "--evaluate", nargs="+", action="extend", default=[], metavar="FILE|TASK",
        help="texts that are not learned, for the loss on them; tasks are answered too, for their metrics",
    )  # fmt: skip
    add_options(evaluation, Monitoring, *(name for name in Monitoring.model_fields if name != "evaluate"))
    add_options(parser.add_argument_group("tasks"), HarnessTask, *OF_TASKS)
    adapters = parser.add_argument_group("adapters")
    add_options(adapters, Adaptation, "method", "quantisation")
    add_options(adapters, LoRA)


def run(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no lines about how several processes could be faster
    be_quiet()
    logger.setLevel(logging.WARNING if int(os.environ.get("RANK", 0)) else logging.INFO)  # one process tells
    caches = _name_folders("--cache", arguments.cache)
    objective, training = _read_options(arguments, caches)
    tasks = read_tasks(arguments)
    _check_places(arguments, caches)
    with tempfile.TemporaryDirectory() as scratch:
        found = find_texts(arguments, tasks, chats=training.template == "chat", scratch=Path(scratch))
        _train(arguments, caches, objective, training, found)


def _train(
    arguments: argparse.Namespace,
    caches: Mapping[str, Path],
    objective: DistillMethod,
    training: StudentTraining,
    found: Found,
) -> None:
    from logitfusion.distill.cache import TeacherCache, find_shards
    from logitfusion.distill.shard import hash_texts
    from logitfusion.distill.sources import CachedSource
    from logitfusion.distill.student import train_student
    from logitfusion.models.identity import hash_model
    from logitfusion.provenance import fingerprint
    from logitfusion.training.batches import is_main_process

    seed = read_section(Draws, arguments).seed
    shards = {name: find_shards(folder) for name, folder in caches.items()}
    made_with = {
        "student": hash_model(arguments.student),
        "texts": hash_texts(found.learned),
        "held_out": hash_texts(found.held_out),
        "objective": objective.dump(),
        "training": training.dump(),
        "seed": seed,
    }
    decided_by = made_with | {"training": training.dump(exclude=set(PLACEMENT))}
    train_student(
        arguments.student,
        found.learned,
        {name: CachedSource(TeacherCache(paths)) for name, paths in shards.items()},
        objective,
        training,
        held_out=found.held_out,
        measure=_measure(arguments, training, found),
        seed=seed,
        name=arguments.output.name,
        output=arguments.output,
        checkpoints=_checkpoints(arguments),
        fingerprint=fingerprint(decided_by, [path for paths in shards.values() for path in paths]),
        made_with=made_with,
    )
    if is_main_process():
        print(arguments.output)


def _measure(arguments: argparse.Namespace, training: StudentTraining, found: Found) -> Measure | None:
    """What answers the tasks that the student is measured on; None where there are none."""
    if not found.tasks:
        return None
    from logitfusion.evaluate.measured import Measure
    from logitfusion.models.load import load_tokenizer

    prompting = Prompting(template=training.template, system=training.system)
    return Measure(found.tasks, load_tokenizer(arguments.student), prompting, TaskDecoding().batch_size)


def _read_options(arguments: argparse.Namespace, teachers: Collection[str]) -> tuple[DistillMethod, StudentTraining]:
    """The loss and the training; the launcher says of how many processes."""
    given = given_values(Objective, arguments) | {"teachers": tuple(teachers)}
    objective = read_options(DistillMethod, given, spell)
    lora = read_section(LoRA, arguments)
    given = given_values(StudentTraining, arguments) | {"evaluate": tuple(dict.fromkeys(arguments.evaluate))}
    given |= {"lora": lora, "processes": int(os.environ.get("WORLD_SIZE", 1))}
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
    files = [name for name in arguments.texts + arguments.evaluate if is_file(name)]
    read = {"STUDENT": arguments.student, "--texts": files, "--cache": list(teachers.values())}
    claim_outputs({"--output": arguments.output}, read, folders=["--output"])


def _checkpoints(arguments: argparse.Namespace) -> Path:
    """Beside the output, as the workflow has them."""
    return arguments.output.with_name(f"{arguments.output.name}.checkpoints")
