"""Classify images with a head that ``fewshot fit`` wrote."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logitfusion.cli._encoder_specs import parse_auxiliary, parse_clip
from logitfusion.cli._encoders import Encoded, Encoders, encode_images, load_encoders
from logitfusion.cli._inputs import be_quiet
from logitfusion.cli._scores import format_score, print_skipped
from logitfusion.clip.confidence import uncertainty
from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.folders import find_images
from logitfusion.clip.head_file import load_head
from logitfusion.clip.heads import CacheHead, FusedHead, Head
from logitfusion.errors import UserError
from logitfusion.files import write_jsonl
from logitfusion.models.load import use_threads

PIECE = 1024  # images whose logits are in memory


def run(arguments: argparse.Namespace) -> None:
    be_quiet()
    head, header = load_head(arguments.head)
    rows = _list_scored(arguments.images, header) if arguments.score else _list_images(arguments.images)
    clip, auxiliary = _entries(arguments, header)
    use_threads()
    started = time.monotonic()
    encoders = load_encoders(clip, auxiliary)
    load_head(arguments.head, encoders=encoders.fingerprints())
    encoded = encode_images(rows, encoders, arguments.features, split="test", max_skipped=arguments.max_skipped)
    answers = _answer(head, header, encoders, encoded)
    seconds = time.monotonic() - started
    print_skipped(encoded.skipped, len(rows))
    lines = _lines(answers, header["class_names"], encoded.ids, arguments.top)
    if arguments.output is not None:
        write_jsonl(arguments.output, lines)
    else:
        for line in lines:
            print(json.dumps(line, ensure_ascii=False))
    # Lines on the standard output stay alone there.
    place = sys.stderr if arguments.output is None else sys.stdout
    print(f"{len(encoded.ids)} images in {seconds:.1f} s; the probabilities are not calibrated", file=place)
    if arguments.score:
        for line in _score(answers, header["class_names"], encoded.labels):
            print(line, file=place)


# Which images


def _list_images(given: Sequence[Path]) -> list[ImageRow]:
    """The images that are named, and those in folders that are named, in this order, each once."""
    files = dict.fromkeys(file for place in given for file in _files(place))
    return [_row(file, 0) for file in files]


def _list_scored(given: Sequence[Path], header: dict[str, Any]) -> list[ImageRow]:
    """The images of class folders, with the classes as labels; the classes go by folder or by name.

    Raises:
        UserError: something that is not in the folder of a class.
    """
    label_of = {name: label for label, name in enumerate(header["class_names"])}
    label_of |= {folder: label for label, folder in enumerate(header["metadata"].get("folders", []))}
    found: dict[Path, int] = {}
    for place in given:
        if place.is_file():
            raise UserError(f"{place} is a file; to be scored, give folders with a folder for each class.")
        for file in _files(place):
            folder, *inside = file.relative_to(place).parts
            if not inside:
                raise UserError(f"{file} is in no class folder, so it can't be scored; leave --score out.")
            if folder not in label_of:
                raise UserError(f"{place / folder} is no class of this head; they are {_some(header['class_names'])}.")
            found[file] = label_of[folder]
    return [_row(file, label) for file, label in found.items()]


def _files(place: Path) -> list[Path]:
    """A file itself, or all image files in a folder, nested ones too; nothing hidden."""
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f"There is no image or folder {place}.")
    files = find_images(place)
    if not files:
        raise UserError(f"The folder {place} has no images in it.")
    return files


def _row(file: Path, label: int) -> ImageRow:
    if "\n" in str(file):
        raise UserError(f"The image {str(file)!r} has a line break in its name; rename it.")
    return ImageRow(str(file), str(file), label)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:10])} and {len(names) - 10} more"


# With which encoders


def _entries(arguments: argparse.Namespace, header: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The entries of CLIP and auxiliaries: those given, else those recorded in the head.

    Raises:
        UserError: another number than the head needs, or an encoder that is no longer where it was.
    """
    stored = header["metadata"].get("entries") or {"clip": None, "auxiliary": []}
    needed = len(header["encoders"]) - 1
    clip = parse_clip(arguments.clip) if arguments.clip is not None else stored["clip"]
    auxiliary = [parse_auxiliary(spec) for spec in arguments.auxiliary] or stored["auxiliary"]
    if clip is None:
        raise UserError(f"{arguments.head} has no record of its CLIP; give --clip.")
    if len(auxiliary) != needed:
        raise UserError(f"{arguments.head} needs {needed} auxiliary encoders, not {len(auxiliary)}; give --auxiliary.")
    for entry, option in ((clip, "--clip"), *((entry, "--auxiliary") for entry in auxiliary)):
        if "path" in entry and not Path(entry["path"]).exists():
            raise UserError(f"{entry['path']} is not there any more; say with {option} where this encoder is now.")
    return clip, auxiliary


# The answers


@dataclass(frozen=True)
class Answers:
    """Logits ``[n, C]`` of the head and of CLIP alone, and the uncertainty factor ``[n]`` where the method has one."""

    fused: Tensor
    clip: Tensor
    factor: Tensor | None


def _answer(head: Head, header: dict[str, Any], encoders: Encoders, encoded: Encoded) -> Answers:
    if isinstance(head, FusedHead | CacheHead):
        classifier, scale = head.classifier, head.scale
    else:
        prompts = header["metadata"].get("prompts")
        if not prompts:
            raise UserError("The head file has no record of its prompts; fit it again.")
        classifier = encoders.clip.classifier(header["class_names"], prompts).cpu()
        scale = encoders.clip.scale
    parts = []
    for some in torch.arange(len(encoded.ids)).split(PIECE):
        clip = encoded.clip[some, 0]
        parts.append(head.logits(clip, None if encoded.auxiliary is None else encoded.auxiliary[some, 0]))
    alone = encoded.clip[:, 0] @ (scale * classifier)
    factor = None
    if isinstance(head, FusedHead) and head.kind != "none":
        factor = uncertainty(alone, head.kind, head.power, head.reference)[:, 0]
    return Answers(torch.cat(parts), alone, factor)


def _lines(answers: Answers, names: Sequence[str], ids: Sequence[str], top: int) -> Iterator[dict[str, Any]]:
    """One row an image."""
    for place, name in enumerate(ids):
        probabilities, alone = answers.fused[place].softmax(-1), answers.clip[place].softmax(-1)
        likeliest = (part.tolist() for part in probabilities.topk(min(top, len(names))))
        best = [{"label": names[label], "probability": value} for value, label in zip(*likeliest, strict=True)]
        line = {"path": os.fsencode(name).decode(errors="replace"), **best[0]}
        line |= {"clip_label": names[int(alone.argmax())], "clip_probability": float(alone.max())}
        if answers.factor is not None:
            line["uncertainty"] = float(answers.factor[place])
        yield line | {"top": best}


def _score(answers: Answers, names: Sequence[str], labels: Tensor) -> Iterator[str]:
    """What was right, over all and by class, and what CLIP alone has right."""
    found, alone = answers.fused.argmax(-1), answers.clip.argmax(-1)
    yield f"{format_score(found, labels)} (Wilson, 95%)"
    yield f"CLIP alone: {format_score(alone, labels)}"
    for label in labels.unique().tolist():
        right, theirs = ((one[labels == label] == label).sum().item() for one in (found, alone))
        yield f"  {names[label]}: {right} of {int((labels == label).sum())} (CLIP alone {theirs})"
