"""What is wrong with a command line of ``fewshot``, said before anything heavy is imported."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

from logitfusion.cli._encoder_specs import parse_auxiliary, parse_clip
from logitfusion.cli._outputs import claim_outputs
from logitfusion.cli._settings import parse_settings
from logitfusion.clip.methods import METHODS
from logitfusion.errors import UserError
from logitfusion.files.outputs import Inputs
from logitfusion.formats.text import check_unicode


def check_fit(arguments: argparse.Namespace) -> None:
    """Refuse what ``fit`` can't do.

    Raises:
        UserError: names the option that can't be used, or the file that is not there.
    """
    settings = parse_settings(arguments.method, arguments.set)
    needed = METHODS[arguments.method].reads_auxiliary(settings)
    if needed and not arguments.auxiliary:
        raise UserError(f"{arguments.method} corrects CLIP with another encoder; name one with --auxiliary.")
    if arguments.auxiliary and not (needed or METHODS[arguments.method].uses_auxiliary):
        raise UserError(f"{arguments.method} reads CLIP's features only; leave --auxiliary out.")
    for prompt in arguments.prompts or ():
        _check_prompt(prompt)
    if arguments.images is not None and not arguments.images.is_dir():
        raise UserError(
            f"The folder {arguments.images} is not there; give --images a folder that has one for each class."
        )
    for option, file in (("--csv", arguments.csv), ("--class-names", arguments.class_names)):
        if file is not None:
            _check_file(option, file)
    _claim(arguments, {"--output": arguments.output}, {"--class-names": arguments.class_names})


def check_predict(arguments: argparse.Namespace) -> None:
    """Refuse what ``predict`` can't do.

    Raises:
        UserError: names the option that can't be used, or the file that is not there.
    """
    _check_file("--head", arguments.head)
    for place in arguments.images or ():
        if not place.exists():
            raise UserError(f"There is no image or folder {place}; correct --images.")
    if arguments.csv is not None:
        _check_file("--csv", arguments.csv)
    if arguments.copy and arguments.sort_into is None:
        raise UserError("--copy says how to fill a folder; name one with --sort-into.")
    outputs = {"--output": arguments.output, "--report": arguments.report, "--sort-into": arguments.sort_into}
    _claim(arguments, outputs, {"--head": arguments.head})
    if arguments.sort_into is not None:
        _check_sorting(arguments.sort_into)
        _check_apart(arguments.sort_into, filter(None, (arguments.output, arguments.report, arguments.features)))


def _check_file(option: str, file: Path) -> None:
    if file.is_dir():
        raise UserError(f"{file} is a folder, and {option} names a file.")
    if not file.exists():
        raise UserError(f"The file {file} is not there; correct {option}.")


def _claim(arguments: argparse.Namespace, outputs: Mapping[str, Path | None], inputs: Inputs) -> None:
    """Refuse outputs that can't be written, or would be written over what is read or over a photo."""
    from logitfusion.clip.data.formats import why_no_image  # with numpy, which --help needs not

    both = {"--images": arguments.images, "--csv": arguments.csv}
    entries = {"--clip": [] if arguments.clip is None else [parse_clip(arguments.clip)]}
    entries["--auxiliary"] = [parse_auxiliary(spec) for spec in arguments.auxiliary]
    encoders = {option: [one["path"] for one in found if "path" in one] for option, found in entries.items()}
    claim_outputs(
        {**outputs, "--features": arguments.features},
        {**inputs, **both, **encoders},
        folders=["--features", "--sort-into"],
    )
    for option, path in outputs.items():
        if path is not None and path.is_file() and why_no_image(path) is None:
            raise UserError(f"{path} is an image, which would be overwritten; name another file with {option}.")


def _check_apart(folder: Path, others: Iterable[Path]) -> None:
    """Refuse other outputs in a folder that is to be filled with photos."""
    for other in others:
        if folder.resolve() in other.resolve().parents:
            raise UserError(f"{other} lies in {folder}, which --sort-into fills with photos alone; name another place.")


def _check_prompt(prompt: str) -> None:
    check_unicode(prompt, "A prompt")
    try:
        fits = prompt.count("{}") == 1 and prompt.format("class") == prompt.replace("{}", "class")
    except (ValueError, LookupError, AttributeError):
        fits = False
    if not fits:
        raise UserError(f"The prompt {prompt!r} needs one {{}} for the class, and no other braces.")


def _check_sorting(folder: Path) -> None:
    """Refuse a folder that has something in it."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty, and --sort-into overwrites nothing; name a new folder.")
