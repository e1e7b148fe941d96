"""The arguments of ``logitfusion fewshot fit`` and ``predict``."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.cli._options import add_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Both actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="fit|predict")
    add_fit(add_command(actions, "fit", "learn from a few labelled images and write one head file"))
    add_predict(add_command(actions, "predict", "classify images with a head file"))


def add_fit(parser: argparse.ArgumentParser) -> None:
    images = parser.add_argument_group("images")
    source = images.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, metavar="DIR", help="with a folder of images for each class")
    source.add_argument("--csv", type=Path, metavar="FILE", help="with the columns path and label")
    images.add_argument("--shots", type=int, metavar="N", help="images drawn of each class (default: all)")
    images.add_argument("--views", type=int, default=8, metavar="N", help="of each, the first is plain (default: 8)")
    images.add_argument("--seed", type=int, default=0, help="of the draw, the views and the training (default: 0)")
    _add_skipping(images)
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
    method = parser.add_argument_group("method")
    method.add_argument(
        "--method",
        default="amu_classes",
        help="such as amu, gda or tip_adapter_f; a wrong name lists all (default: amu_classes)",
    )
    method.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="settings; a wrong name lists all"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.safetensors", help="the head")


def add_predict(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Classify images with a head file: a JSON object a line. A probability is the softmax of the head's logits; it"
        " orders answers, but is not calibrated."
    )
    parser.add_argument("--head", type=Path, required=True, metavar="FILE.safetensors", help="what fewshot fit wrote")
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        metavar="PATH",
        help="images, and folders of them",
    )
    _add_encoders(parser, " (default: where it was)", required=False)
    parser.add_argument("--top", type=int, default=3, metavar="K", help="likeliest classes to list (default: 3)")
    parser.add_argument(
        "--score", action="store_true", help="count right answers; the images are in folders named as the classes"
    )
    _add_skipping(parser)
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="instead of the standard output")


def _add_encoders(parser: argparse.ArgumentParser, default: str, *, required: bool) -> None:
    encoders = parser.add_argument_group("encoders")
    encoders.add_argument(
        "--clip",
        required=required,
        metavar="SPEC",
        help=f"a folder with a built CLIP, open_clip:MODEL/TAG, or checkpoint:MODEL:FILE{default}",
    )
    encoders.add_argument(
        "--auxiliary",
        nargs="+",
        action="extend",
        default=[],
        metavar="SPEC",
        help=f"timm:MODEL, torchvision:MODEL[/WEIGHTS], or checkpoint:MODEL:FILE{default}",
    )
    encoders.add_argument(
        "--features", type=Path, metavar="DIR", help="where features are kept between calls (default: nowhere)"
    )


def _add_skipping(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--max-skipped", type=float, default=0.1, metavar="SHARE", help="of images that can't be read (default: 0.1)"
    )
