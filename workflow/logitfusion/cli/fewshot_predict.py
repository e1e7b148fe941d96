"""Classify images with a head file: an answer for each, a page to look at, folders of photos."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from logitfusion.cli._encoder_specs import parse_auxiliary, parse_clip
from logitfusion.cli._encoders import Encoders, load_encoders
from logitfusion.cli._features import encode_with_bar
from logitfusion.cli._inputs import be_quiet
from logitfusion.cli._photo_outputs import json_rows, sort_photos, write_answers
from logitfusion.cli._photo_page import write_photo_page
from logitfusion.cli._scores import format_score, print_skipped
from logitfusion.clip.answers import Answer, answer, describe_learnt, zero_shot_logits
from logitfusion.clip.calibration import Calibration
from logitfusion.clip.data.duplicates import Duplicates, describe_duplicates, find_duplicates
from logitfusion.clip.data.found import left_out_lines
from logitfusion.clip.data.labelled import (
    Labelled,
    join_labelled,
    score_folder,
    score_list,
)
from logitfusion.clip.features.encode import Encoded
from logitfusion.clip.fitting.describe import describe_calibration
from logitfusion.clip.head_file import load_head
from logitfusion.clip.heads import Head
from logitfusion.errors import UserError, first_line
from logitfusion.formats.json import format_json
from logitfusion.models.load import use_threads
from logitfusion.report.index.words import counted


@dataclass(frozen=True)
class Predicted:
    """What was asked, and the answers in that order.

    Attributes:
        truths: the classes that the images are filed under, if they are scored.
    """

    listed: Labelled
    answers: list[Answer]
    truths: list[str] | None
    duplicates: Duplicates
    calibration: Calibration


def run(arguments: argparse.Namespace, listed: Labelled | None) -> None:
    """Classify the images that were found; to be scored, they are found by the head's classes here."""
    be_quiet()
    head, header = load_head(arguments.head)
    listed = listed or _read_scored(arguments, header)
    clip, auxiliary = _entries(arguments, header)
    use_threads()
    started = time.monotonic()
    encoders = load_encoders(clip, auxiliary)
    load_head(arguments.head, encoders=encoders.fingerprints())
    # How many can't be read is judged when the others have their answers.
    encoded = encode_with_bar(
        listed.rows,
        encoders.by_role(),
        arguments.features,
        split="test",
        batch_size=arguments.batch_size,
        max_skipped=1.0,
    )
    predicted = _predict(head, header, encoders, listed, encoded, arguments)
    seconds = time.monotonic() - started
    alone = not (arguments.output or arguments.report or arguments.sort_into)
    place = sys.stderr if alone else sys.stdout  # lines on the standard output stay alone there
    _write(predicted, header, arguments, alone=alone)
    were = "was" if len(encoded.ids) == 1 else "were"
    print(f"{counted(len(encoded.ids), 'image')} {were} answered in {seconds:.1f} s.", file=place)
    for line in _tell(predicted, header["class_names"]):
        print(line, file=place)
    for line in left_out_lines(listed.left_out):
        print(line, file=sys.stderr)
    print_skipped(encoded.skipped, len(listed.rows))
    if len(encoded.skipped) > arguments.max_skipped * len(listed.rows):
        raise UserError(
            f"{len(encoded.skipped)} of {counted(len(listed.rows), 'image')} can't be read, more than the share"
            f" {arguments.max_skipped:g} that --max-skipped allows"
            + ("; the others have their answers." if encoded.ids else ", so that there are no answers.")
        )


# Which images


def _read_scored(arguments: argparse.Namespace, header: Mapping[str, Any]) -> Labelled:
    """The images of known classes, in class folders or in a list; the classes go by folder or by name."""
    classes, folders = header["class_names"], header["metadata"].get("folders", [])
    if arguments.csv is not None:
        return score_list(arguments.csv, classes, folders)
    return join_labelled([score_folder(place, classes, folders) for place in arguments.images])


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
        mend = f"give --auxiliary {needed} of them" if needed else "leave --auxiliary out"
        raise UserError(f"{arguments.head} needs {needed} auxiliary encoders, not {len(auxiliary)}; {mend}.")
    for entry, option in ((clip, "--clip"), *((entry, "--auxiliary") for entry in auxiliary)):
        if "path" in entry and not Path(entry["path"]).exists():
            raise UserError(f"{entry['path']} is not there any more; say with {option} where this encoder is now.")
    return clip, auxiliary


# The answers


def _predict(
    head: Head,
    header: Mapping[str, Any],
    encoders: Encoders,
    listed: Labelled,
    encoded: Encoded,
    arguments: argparse.Namespace,
) -> Predicted:
    try:
        zero_shot = zero_shot_logits(head, header, encoders.clip, encoded.clip[:, 0])
        given = answer(head, header, encoded, zero_shot, top=arguments.top, none_below=arguments.none_below)
    except (ValueError, TypeError) as error:  # features of another width, from a head that names these encoders
        raise UserError(f"{arguments.head} can't be used with these encoders ({first_line(error)}).") from error
    answer_of = dict(zip((*encoded.ids, *encoded.skipped), given, strict=True))
    calibration = Calibration.load(header["metadata"].get("calibration"))
    if arguments.none_below is not None:
        calibration = replace(calibration, threshold=arguments.none_below)
    return Predicted(
        listed=listed,
        answers=[answer_of[row.id] for row in listed.rows],
        truths=[header["class_names"][row.label] for row in listed.rows] if arguments.score else None,
        duplicates=find_duplicates(encoded.ids, encoded.digests, encoded.labels.tolist()),
        calibration=calibration,
    )


def _write(predicted: Predicted, header: Mapping[str, Any], arguments: argparse.Namespace, *, alone: bool) -> None:
    """All that was asked for; a line an image on the standard output if nothing was."""
    if arguments.output is not None:
        write_answers(arguments.output, predicted.answers, predicted.truths)
    if alone:
        for row in json_rows(predicted.answers, predicted.truths):
            print(format_json(row))
    if arguments.report is not None:
        write_photo_page(
            arguments.report,
            predicted.answers,
            predicted.listed,
            predicted.truths,
            predicted.duplicates,
            header,
            predicted.calibration,
        )
    if arguments.sort_into is not None:
        files = [Path(row.path) for row in predicted.listed.rows]
        sort_photos(predicted.answers, files, arguments.sort_into, copy=arguments.copy)


def _tell(predicted: Predicted, classes: Sequence[str]) -> Iterator[str]:
    """In sentences: what the probabilities rest on, which images count twice or not, and how many are right."""
    yield from describe_calibration(predicted.calibration)
    answers = [one for one in predicted.answers if one.error is None]
    if refused := sum(one.label is None for one in answers):
        counts = "" if predicted.truths is None else ", which counts as wrong"
        yield f'The answer to {refused} of {counted(len(answers), "image")} is "none of these"{counts}.'
    yield from describe_duplicates(predicted.duplicates)
    if learnt := describe_learnt(predicted.answers):
        yield learnt
    if predicted.truths is not None and answers:
        yield from _score(predicted, classes)


def _score(predicted: Predicted, classes: Sequence[str]) -> Iterator[str]:
    """What is right, over all, without images that were learnt from, and by class; and what CLIP alone has right."""
    pairs = [(one, truth) for one, truth in zip(predicted.answers, predicted.truths, strict=True) if one.error is None]
    label_of = {name: label for label, name in enumerate(classes)} | {None: -1}

    def columns(pairs: Sequence[tuple[Answer, str]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = [(label_of[one.label], label_of[one.clip_label], label_of[truth]) for one, truth in pairs]
        return tuple(torch.tensor(rows).reshape(-1, 3).T)

    found, alone, labels = columns(pairs)
    yield f"{format_score(found, labels)} (Wilson, 95%)"
    yield f"CLIP alone: {format_score(alone, labels)}"
    new = [(one, truth) for one, truth in pairs if not one.learnt]
    if 0 < len(new) < len(pairs):
        own, others, truths = columns(new)
        yield f"Of images that were not learnt from: {format_score(own, truths)}"
        yield f"CLIP alone on those: {format_score(others, truths)}"
    for label in labels.unique().tolist():
        right, theirs = ((one[labels == label] == label).sum().item() for one in (found, alone))
        yield f"  {classes[label]}: {right} of {int((labels == label).sum())} (CLIP alone {theirs})"
