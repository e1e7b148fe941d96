"""Train a student on texts and on what teachers make of them."""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from logitfusion.cli._inputs import be_quiet
from logitfusion.cli._learned import FORM
from logitfusion.cli._named_teachers import NamedTeacher
from logitfusion.cli._options import add_options, form_of_numbers, given_values, read_section, spell
from logitfusion.cli._outputs import claim_outputs
from logitfusion.cli._task_texts import OF_TASKS, Found, find_texts, is_file, read_tasks
from logitfusion.config.decoding import TaskDecoding
from logitfusion.config.distill import DistillMethod, StudentTraining
from logitfusion.config.keywords import read_options
from logitfusion.config.loading import Loading
from logitfusion.config.monitoring import Monitoring
from logitfusion.config.objective import Objective
from logitfusion.config.prompting import Prompting
from logitfusion.config.section import Section, Seed
from logitfusion.config.tasks import HarnessTask
from logitfusion.config.training import PLACEMENT, Adaptation, LoRA, Training
from logitfusion.errors import UserError
from logitfusion.formats.text import check_unicode

if TYPE_CHECKING:
    from logitfusion.evaluate.measured import Measure

logger = logging.getLogger("logitfusion")


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
    teachers = parser.add_argument_group("teachers")
    teachers.add_argument(
        "--teacher", nargs="+", action="extend", default=[], metavar="NAME=DIR",
        help="models that read the texts while the student learns; without a name a folder's own is taken",
    )  # fmt: skip
    teachers.add_argument(
        "--cache", nargs="+", action="extend", default=[], metavar="NAME=DIR",
        help="teachers that have read the texts already, by logitfusion distill-cache",
    )  # fmt: skip
    add_options(teachers, Loading, "dtype")
    add_options(parser.add_argument_group("loss"), Objective, forms={"weights": form_of_numbers(Objective, "weights")})
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
    teachers = _name_teachers(arguments)
    objective, training = _read_options(arguments, [one.name for one in teachers])
    tasks = read_tasks(arguments)
    _check_places(arguments, teachers)
    with tempfile.TemporaryDirectory() as scratch:
        found = find_texts(arguments, tasks, chats=training.template == "chat", scratch=Path(scratch))
        _train(arguments, teachers, objective, training, found)


def _train(
    arguments: argparse.Namespace,
    teachers: Sequence[NamedTeacher],
    objective: DistillMethod,
    training: StudentTraining,
    found: Found,
) -> None:
    from logitfusion.distill.shard import hash_texts
    from logitfusion.distill.student import train_student
    from logitfusion.models.identity import hash_model
    from logitfusion.provenance import fingerprint as hash_inputs
    from logitfusion.training.batches import is_main_process
    from logitfusion.training.checkpoints import refuse_other_training

    seed, loading = read_section(Draws, arguments).seed, read_section(Loading, arguments)
    made_with = {
        "student": hash_model(arguments.student),
        "texts": hash_texts(found.learned),
        "held_out": hash_texts(found.held_out),
        "teachers": [one.describe() for one in teachers],
        "dtype": loading.dtype,
        "objective": objective.dump(),
        "training": training.dump(),
        "seed": seed,
    }
    decided_by = made_with | {"training": training.dump(exclude=set(PLACEMENT))}
    fingerprint = hash_inputs(decided_by, [path for one in teachers for path in one.shards])
    checkpoints = arguments.output.with_name(f"{arguments.output.name}.checkpoints")
    refuse_other_training(checkpoints, fingerprint)
    train_student(
        arguments.student,
        found.learned,
        {one.name: one.open(found.learned + found.held_out, objective, training, loading.dtype) for one in teachers},
        objective,
        training,
        held_out=found.held_out,
        measure=_measure(arguments, training, found),
        seed=seed,
        name=arguments.output.name,
        output=arguments.output,
        checkpoints=checkpoints,
        fingerprint=fingerprint,
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


def _name_teachers(arguments: argparse.Namespace) -> list[NamedTeacher]:
    """The teachers of the command line, those that read online first."""
    found: dict[str, NamedTeacher] = {}
    for option in ("--teacher", "--cache"):
        for word in getattr(arguments, option[2:]):
            one = NamedTeacher.read(word, option)
            if one.name in found:
                raise UserError(f"Two teachers have the name {one.name!r}; give each one of its own, NAME=DIR.")
            found[one.name] = one
    return list(found.values())


def _check_places(arguments: argparse.Namespace, teachers: Sequence[NamedTeacher]) -> None:
    """Refuse a student that is not there, and a place for the trained one that is taken."""
    if not arguments.student.is_dir():
        raise UserError(f"The model folder {arguments.student} does not exist.")
    files = [name for name in arguments.texts + arguments.evaluate if is_file(name)]
    if "-" in files and "WORLD_SIZE" in os.environ:
        raise UserError("Several processes can't read one standard input; give --texts a file.")
    read = {"STUDENT": arguments.student, "--texts": files, "a teacher": [one.folder for one in teachers]}
    check_unicode(str(arguments.output), "--output")  # the Trainer writes its name into checkpoints
    claim_outputs({"--output": arguments.output}, read, folders=["--output"])
    if arguments.output.is_dir() and any(arguments.output.iterdir()):
        raise UserError(f"{arguments.output} is there already; name another folder with --output, or delete it.")
