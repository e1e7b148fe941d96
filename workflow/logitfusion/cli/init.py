"""Write a small config to start from: one track, your own models, task or images filled in."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from logitfusion.cli._outputs import claim_outputs
from logitfusion.cli._tasks import WrittenTask, describe_task
from logitfusion.cli._templates import Entry, describe_images, describe_model, fill_template
from logitfusion.config.errors import explain
from logitfusion.config.load import resolve_config
from logitfusion.config.section import Name
from logitfusion.errors import UserError
from logitfusion.files import write_text
from logitfusion.files.places import find_place
from logitfusion.formats.yaml import parse_yaml

TASK = "sst2"  # of the templates
# Track -> the options that it knows, besides those of all.
TRACKS = {
    "fusion": ("large", "base", "task"),
    "distill": ("large", "base", "task"),
    "clip": ("images", "clip", "auxiliary"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="of the run: config/NAME.yaml is written, results are in results/NAME"
    )
    parser.add_argument("--track", choices=TRACKS, default="fusion", help="what is compared (default: fusion)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="in place of config/NAME.yaml")
    models = parser.add_argument_group("fusion and distill", "without these, small models out of packages, on sst2")
    models.add_argument(
        "--large", metavar="MODEL", help="steered, or the teacher: a folder, or OWNER/NAME@REVISION of the hub"
    )
    models.add_argument(
        "--base", metavar="MODEL", help="the small model that the expert is trained from, or the student"
    )
    models.add_argument(
        "--task",
        metavar="TASK",
        help="one that lm-evaluation-harness or our library knows, or a FILE.jsonl of lines with prompt and answer",
    )
    images = parser.add_argument_group("clip")
    images.add_argument("--images", metavar="DIR", help="with a folder of images for each class")
    images.add_argument(
        "--clip", metavar="SPEC", help="as fewshot fit knows it: a folder with a CLIP, open_clip:MODEL/TAG, ..."
    )
    images.add_argument(
        "--auxiliary", metavar="SPEC", help="as fewshot fit knows it: timm:MODEL, checkpoint:MODEL:FILE, ..."
    )


def run(arguments: argparse.Namespace) -> None:
    _check_name(arguments.name)
    _check_options(arguments)
    path = arguments.output or Path("config") / f"{arguments.name}.yaml"
    inside = Path("Snakefile").is_file() and Path("workflow/rules").is_dir()
    if arguments.output is None and not inside:
        raise UserError(
            "This folder is no checkout of logitfusion, whose workflow runs configs: go to one, or say where to write"
            " with --output FILE."
        )
    claim_outputs({"--output": path}, {f"--{name}": getattr(arguments, name) for name in ("large", "base", "images")})
    if path.exists() and find_place(path).stream:
        raise UserError(f"{path} is a pipe or a device, and a config is kept; name a new file with --output.")
    if path.exists():
        raise UserError(f"{path} is there already; choose another name, or delete it.")
    if inside:
        _check_run(arguments.name)
    template = resources.files("logitfusion").joinpath("templates", f"{arguments.track}.yaml").read_text("utf-8")
    task = _describe_task(arguments, path if inside else path.absolute())
    text = fill_template(template, arguments.name, _describe(arguments, task))
    with _definition(task):
        resolve_config(parse_yaml(text, str(path)))
        write_text(path, text)
    if task is not None and task.file is not None:
        print(f"{task.file} is the task's definition: read it, and correct it.")
    print(f"{path} is written. What it would run, and the run:")
    command = f"snakemake --profile local --configfile {shlex.quote(str(path if inside else path.absolute()))}"
    print(f"{command} -n\n{command}")
    if not inside:
        print("Both in a checkout of logitfusion, whose workflow they need.")


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise UserError(explain(error, name=lambda _: "NAME")) from None


def _check_run(name: str) -> None:
    """Refuse a name under which results of another config are kept, or would be: they would be overwritten."""
    for made in Path("results").glob("*"):
        if made.name.casefold() == name.casefold():  # one folder to some file systems
            raise UserError(f"{made} is there already; choose another name, or delete it.")
    named = rf"""^run: *["']?{name}["']? *(#|$)"""
    for other in sorted(Path("config").rglob("*.yaml")):
        if re.search(named, other.read_text("utf-8", errors="replace"), re.MULTILINE | re.IGNORECASE):
            raise UserError(
                f"The run of {other} is named {name} too, and they would share results; choose another name."
            )


def _check_options(arguments: argparse.Namespace) -> None:
    for name in dict.fromkeys(option for options in TRACKS.values() for option in options):
        if getattr(arguments, name) is not None and name not in TRACKS[arguments.track]:
            tracks = " and ".join(track for track, options in TRACKS.items() if name in options)
            raise UserError(f"--{name} is of the tracks {tracks}; leave it out, or choose another --track.")
    if arguments.track == "clip" and arguments.images is None:
        raise UserError("The track clip needs your images: name their folder with --images DIR.")
    if arguments.large is not None and arguments.base is None:
        raise UserError("With a --large of your own, name the small model too: --base MODEL.")


def _describe_task(arguments: argparse.Namespace, path: Path) -> WrittenTask | None:
    """The task that is named, with its definition in a folder beside the config."""
    if arguments.task is None:
        return None
    folder = path.with_name(f"{path.stem}_tasks")
    task = describe_task(arguments.task, validation=arguments.track == "fusion", folder=folder)
    if task.file is not None and task.file.exists():
        raise UserError(f"{task.file} is there already; choose another name, or delete it.")
    return task


@contextmanager
def _definition(task: WrittenTask | None) -> Iterator[None]:
    """Write a task's definition, which its config is checked with; and leave nothing behind if that fails."""
    if task is None or task.file is None:
        yield
        return
    new = not task.file.parent.exists()
    write_text(task.file, task.definition)
    try:
        yield
    except BaseException:
        task.file.unlink(missing_ok=True)
        if new:
            task.file.parent.rmdir()
        raise


def _describe(arguments: argparse.Namespace, task: WrittenTask | None) -> list[Entry]:
    """What the command line replaces in the template."""
    models = [(("models", "large"), arguments.large), (("models", "small"), arguments.base)]
    entries = [Entry(place, describe_model(given)) for place, given in models if given is not None]
    if task is not None:
        entries.append(Entry(("tasks", task.name), task.entry, {TASK: task.name} if task.name != TASK else {}))
    if arguments.images is not None:
        entries += describe_images(arguments.images, arguments.clip, arguments.auxiliary)
    return entries
