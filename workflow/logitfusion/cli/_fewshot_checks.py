"""What is wrong with a command line of ``fewshot``, said before anything heavy is imported."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from logitfusion.cli._encoder_specs import parse_auxiliary, parse_clip
from logitfusion.cli._inputs import check_folder, check_output, check_outputs
from logitfusion.cli._settings import parse_settings
from logitfusion.clip.methods import METHODS
from logitfusion.errors import UserError
from logitfusion.formats.text import check_unicode


def check_fit(arguments: argparse.Namespace) -> None:
    """Refuse what ``fit`` can't do.

    Raises:
        UserError: names the option that can't be used, or the file that is not there.
    """
    settings = parse_settings(arguments.method, arguments.set)
    if arguments.views < 1 or (arguments.shots is not None and arguments.shots < 1):
        raise UserError("--views and --shots are at least 1.")
    if not 0 <= arguments.seed < 2**63:
        raise UserError("--seed is a number from 0 to 2^63 - 1.")
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
    _check_encoders(arguments)
    check_output(arguments.output)
    _check_kept([arguments.output], {"--csv": arguments.csv, "--class-names": arguments.class_names})


def check_predict(arguments: argparse.Namespace) -> None:
    """Refuse what ``predict`` can't do.

    Raises:
        UserError: names the option that can't be used, or the file that is not there.
    """
    if arguments.top < 1:
        raise UserError("--top is at least 1.")
    _check_file("--head", arguments.head)
    for place in arguments.images or ():
        if not place.exists():
            raise UserError(f"There is no image or folder {place}; correct --images.")
    if arguments.csv is not None:
        _check_file("--csv", arguments.csv)
    _check_encoders(arguments)
    if arguments.none_below is not None and not 0 <= arguments.none_below <= 1:
        raise UserError("--none-below is a probability from 0 to 1.")
    check_outputs(arguments.output, arguments.report)
    outputs = [output for output in (arguments.output, arguments.report) if output is not None]
    _check_kept(outputs, {"--head": arguments.head, "--csv": arguments.csv})
    if arguments.sort_into is not None:
        check_folder(arguments.sort_into)
        check_sorting(arguments.sort_into, arguments.images or ())
        _check_apart(arguments.sort_into, [*outputs, *filter(None, [arguments.features])])
    elif arguments.copy:
        raise UserError("--copy says how to fill a folder; name one with --sort-into.")


def _check_file(option: str, file: Path) -> None:
    if file.is_dir():
        raise UserError(f"{file} is a folder, and {option} names a file.")
    if not file.exists():
        raise UserError(f"The file {file} is not there; correct {option}.")


def _check_kept(outputs: Sequence[Path], inputs: Mapping[str, Path | None]) -> None:
    """Refuse to write over what is read, or over a photo; ``inputs`` by their options."""
    from logitfusion.clip.data.formats import why_no_image  # with numpy, which --help needs not

    for output in outputs:
        for option, file in inputs.items():
            if file is not None and file.resolve() == output.resolve():
                raise UserError(f"{output} is what {option} reads, and would be overwritten; name another file.")
        if output.is_file() and why_no_image(output) is None:
            raise UserError(f"{output} is an image, which would be overwritten; name another file.")


def _check_apart(folder: Path, others: Sequence[Path]) -> None:
    """Refuse other outputs in a folder that is to be filled with photos."""
    for other in others:
        if folder.resolve() in (other.resolve(), *other.resolve().parents):
            raise UserError(f"{other} lies in {folder}, which --sort-into fills with photos alone; name another place.")


def _check_encoders(arguments: argparse.Namespace) -> None:
    if arguments.clip is not None:
        parse_clip(arguments.clip)
    for spec in arguments.auxiliary:
        parse_auxiliary(spec)
    if not 0 <= arguments.max_skipped <= 1:
        raise UserError("--max-skipped is a share from 0 to 1.")
    if arguments.batch_size < 1:
        raise UserError("--batch-size is at least 1.")
    if arguments.features is not None:
        check_folder(arguments.features)


def _check_prompt(prompt: str) -> None:
    check_unicode(prompt, "A prompt")
    try:
        fits = prompt.count("{}") == 1 and prompt.format("class") == prompt.replace("{}", "class")
    except (ValueError, LookupError, AttributeError):
        fits = False
    if not fits:
        raise UserError(f"The prompt {prompt!r} needs one {{}} for the class, and no other braces.")


def check_sorting(folder: Path, places: Sequence[Path]) -> None:
    """Refuse a folder that has something in it, or that lies among the images.

    Raises:
        UserError: says which.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty, and --sort-into overwrites nothing; name a new folder.")
    around = next((place for place in places if place.resolve() in folder.resolve().parents), None)
    if around is not None:
        raise UserError(
            f"{folder} lies in {around}, so that its links would be classified the next time; name another place for"
            " --sort-into."
        )
