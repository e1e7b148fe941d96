"""Few-shot classification of a user's own images: ``fit`` a head, ``predict`` with one, or list the ``methods``."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from logitfusion.cli._options import add_options
from logitfusion.clip.features import BATCH_SIZE
from logitfusion.clip.methods import DEFAULT_METHOD, METHODS
from logitfusion.config.section import Batch, Count, Section, Seed, Share, Views


class Learning(Section):
    """The images that are learnt from."""

    shots: Count | None = None
    """Images drawn of each class; left out, all."""
    views: Views = 8
    """Of each image, the first is plain."""
    seed: Seed = 0
    """Of the draw, the views and the training."""


class Answering(Section):
    """What is said of each image."""

    top: Count = 3
    """Likeliest classes to list."""
    none_below: Share | None = None
    """Probability below which the answer is "none of these"; left out, as chosen when the head was fitted."""


class Encoding(Section):
    """How images are read."""

    batch_size: Batch = BATCH_SIZE
    """Views of images that are encoded at a time; fewer need less memory."""
    max_skipped: Share = 0.1
    """Share of images that may be unreadable."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the three actions understand; nothing here needs torch."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="fit|predict|methods")
    for name, add, words in (
        ("fit", _add_fit, "learn from a few labelled images and write one head file"),
        ("predict", _add_predict, "classify images with a head file"),
        ("methods", _add_methods, "list the methods with their settings"),
    ):
        add(actions.add_parser(name, help=words, description=f"{words.capitalize()}.", allow_abbrev=False))


def run(arguments: argparse.Namespace) -> None:
    # A mistake is told before torch and the encoders' libraries are imported, which takes seconds.
    # These read files and lists of images, with numpy, which --help does without.
    checks, images = (import_module(f"logitfusion.cli._fewshot_{name}") for name in ("checks", "images"))
    match arguments.action:
        case "fit":
            checks.check_fit(arguments)
            given = (images.read_to_learn(arguments),)
        case "predict":
            checks.check_predict(arguments)
            given = (None if arguments.score else images.read_unlabelled(arguments),)
        case _:
            given = ()
    import_module(f"logitfusion.cli.fewshot_{arguments.action}").run(arguments, *given)


def _add_fit(parser: argparse.ArgumentParser) -> None:
    images = parser.add_argument_group("images")
    source = images.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, metavar="DIR", help="with a folder of images for each class")
    source.add_argument(
        "--csv", type=Path, metavar="FILE", help="with the columns path and label; if it has split, train is read"
    )
    add_options(images, Learning, filled=True)
    add_options(images, Encoding, "max_skipped", filled=True)
    words = parser.add_argument_group("words")
    words.add_argument(
        "--prompts", nargs="+", metavar="TEXT", help='with {} for the class (default: "a photo of a {}.")'
    )
    words.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE.json",
        help="an object of folders (or labels) and their names in prompts",
    )
    _add_encoders(parser, "", required=True)
    method = parser.add_argument_group("method", "fewshot methods lists all with their settings")
    method.add_argument(
        "--method", default=DEFAULT_METHOD, help=f"one of {', '.join(METHODS)} (default: {DEFAULT_METHOD})"
    )
    method.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="settings of it")
    method.add_argument(
        "--compare",
        choices=("auto", "always", "never"),
        default="auto",
        help="methods on images that are left out of each fit in turn, and recommend one (default: auto, those of which"
        " images x classes x passes of training are few)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.safetensors", help="the head")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Classify images with a head file: a class for each, or none of them, with a probability that is calibrated on"
        " images that were left out of the fit. The answers are lines of JSON, a CSV, a page to look at, or folders."
    )
    parser.add_argument("--head", type=Path, required=True, metavar="FILE.safetensors", help="what fewshot fit wrote")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--images", type=Path, nargs="+", action="extend", metavar="PATH", help="images, and folders of them"
    )
    source.add_argument("--csv", type=Path, metavar="FILE", help="with the column path, and label to be scored")
    _add_encoders(parser, " (default: where it was)", required=False)
    add_options(parser, Answering, filled=True)
    parser.add_argument(
        "--score",
        action="store_true",
        help="count right answers; the images are in folders named as the classes, or have labels in the CSV (if it"
        " has the column split, those of test)",
    )
    add_options(parser, Encoding, "max_skipped", filled=True)
    outputs = parser.add_argument_group("outputs", "without any, a JSON object a line on the standard output")
    outputs.add_argument("--output", type=Path, metavar="FILE", help="a JSON object a line; NAME.csv: a table")
    outputs.add_argument("--report", type=Path, metavar="FILE.html", help="a page with the images, in one file")
    outputs.add_argument("--sort-into", type=Path, metavar="DIR", help="a new folder with links, by class")
    outputs.add_argument("--copy", action="store_true", help="copies in place of links")


def _add_methods(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", nargs="*", metavar="METHOD", help="only these (default: all)")


def _add_encoders(parser: argparse.ArgumentParser, default: str, *, required: bool) -> None:
    encoders = parser.add_argument_group("encoders")
    encoders.add_argument(
        "--clip",
        required=required,
        metavar="SPEC",
        help=f"a folder that holds a CLIP, open_clip:MODEL/TAG, or checkpoint:MODEL:FILE{default}",
    )
    encoders.add_argument(
        "--auxiliary",
        nargs="+",
        action="extend",
        default=[],
        metavar="SPEC",
        help=f"timm:MODEL, torchvision:MODEL[/WEIGHTS], checkpoint:MODEL:FILE, or package:NAME==VERSION:MODEL{default}",
    )
    encoders.add_argument(
        "--features", type=Path, metavar="DIR", help="where features are kept between calls (default: nowhere)"
    )
    add_options(encoders, Encoding, "batch_size", filled=True)
