"""Fit a few-shot head to a user's own images, and write it with all that ``predict`` needs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from logitfusion import __version__
from logitfusion.cli._encoder_specs import parse_auxiliary, parse_clip
from logitfusion.cli._encoders import Encoded, Encoders, encode_images, load_encoders
from logitfusion.cli._inputs import be_quiet, check_text, read_text
from logitfusion.cli._scores import format_score, print_skipped
from logitfusion.cli._settings import parse_settings
from logitfusion.clip.data import read_data
from logitfusion.clip.data.dataset import PROMPT, ImageRow
from logitfusion.clip.data.folders import class_folders
from logitfusion.clip.data.support import make_support
from logitfusion.clip.data.tables import read_csv
from logitfusion.clip.fitting.fit import fit_method
from logitfusion.clip.fitting.leave_out import predict_left_out
from logitfusion.clip.head_file import save_head
from logitfusion.clip.heads import Head, Support
from logitfusion.clip.methods import METHODS, FewShotSettings
from logitfusion.errors import UserError
from logitfusion.models.load import use_threads

# Images x classes x passes of a fit that is repeated for an estimate unasked: ten seconds of AMU's training on a CPU.
CHEAP = 2_000_000


def run(arguments: argparse.Namespace) -> None:
    be_quiet()
    settings = parse_settings(arguments.method, arguments.set)
    arguments.prompts = arguments.prompts or [PROMPT]
    entries = {
        "clip": parse_clip(arguments.clip),
        "auxiliary": [parse_auxiliary(spec) for spec in arguments.auxiliary],
    }
    folders, classes, pool = _read_images(arguments)
    rows = _draw(pool, classes, arguments)
    use_threads()
    encoders = load_encoders(entries["clip"], entries["auxiliary"])
    started = time.monotonic()
    encoded = encode_images(
        rows,
        encoders,
        arguments.features,
        split="support",
        views=arguments.views,
        seed=arguments.seed,
        max_skipped=arguments.max_skipped,
    )
    encoded_in = time.monotonic() - started
    print_skipped(encoded.skipped, len(rows))
    counts = _count(encoded, classes)
    support = _support(encoded, encoders, classes, arguments.prompts)
    started = time.monotonic()
    head = _fit(arguments.method, support, settings, arguments.seed)
    fitted_in = time.monotonic() - started
    save_head(
        arguments.output,
        head,
        class_names=classes,
        encoders=encoders.fingerprints(),
        metadata={
            "folders": folders,
            "prompts": arguments.prompts,
            "entries": entries,
            "transforms": {role: encoder.transform for role, encoder in encoders.by_role().items()},
            "shots": arguments.shots,
            "counts": counts,
            "seed": arguments.seed,
            "views": arguments.views,
            "versions": {"logitfusion": __version__, **{name: version(name) for name in LIBRARIES}},
        },
    )
    print(f"{len(classes)} classes, {len(encoded.ids)} images: {_list_counts(classes, counts)}")
    print(f"features in {encoded_in:.1f} s, {head.method} fitted in {fitted_in:.1f} s")
    _print_selection(head)
    _print_estimate(support, settings, arguments)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1000:,.1f} kB")


LIBRARIES = ("open_clip_torch", "pillow", "timm", "torch", "torchvision")


def _read_images(arguments: argparse.Namespace) -> tuple[list[str], list[str], list[ImageRow]]:
    """What the classes are called in the data (folders or labels) and in prompts, and all images.

    Raises:
        UserError: there is nothing to learn from.
    """
    names = None if arguments.class_names is None else _read_names(arguments.class_names)
    entry: dict[str, Any] = {"test_share": 1, "seed": 0, "prompts": arguments.prompts}  # all in one part, none apart
    if arguments.images is not None:
        place = arguments.images
        data = read_data({**entry, "source": "folder", "path": str(place), "class_names": names})
        folders = list(names) if names else class_folders(place)
        classes = data.classes
    else:
        place = arguments.csv
        if place.is_dir():
            raise UserError(f"{place} is a folder, not a CSV; a folder with class folders is given as --images.")
        data = read_data({**entry, "source": "csv", "path": str(place)})
        folders = sorted({row["label"] for row in read_csv(place, "image list")[1]})
        classes = data.classes if names is None else _rename(folders, names, place)
    rows = data.train if data.split == "given" else data.test
    for name in classes:
        check_text(name, f"The class {name!r}")
    return folders, classes, rows


def _read_names(path: Path) -> dict[str, str]:
    try:
        names = json.loads(read_text(str(path)))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}).") from None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) and name for name in names.values()):
        raise UserError(
            f'{path} is not a JSON object of folders (or labels) and names, such as {{"n01440764": "tench"}}.'
        )
    return names


def _rename(labels: list[str], names: dict[str, str], place: Path) -> list[str]:
    unlike = sorted(set(labels) ^ set(names))
    if unlike:
        raise UserError(f"{place} and the class names don't have the same labels; only one has {unlike[0]!r}.")
    renamed = [names[label] for label in labels]
    if len(set(renamed)) < len(renamed):
        raise UserError(f"The class names for {place} give two labels one name; prompts can't tell them apart.")
    return renamed


def _draw(pool: list[ImageRow], classes: list[str], arguments: argparse.Namespace) -> list[ImageRow]:
    """All images, or ``--shots`` of each class; classes that have fewer are named."""
    if arguments.shots is None:
        return pool
    drawn = make_support(pool, arguments.shots, arguments.seed)
    short = drawn.short(arguments.shots)
    if short:
        named = ", ".join(f"{classes[label]} ({count})" for label, count in list(short.items())[:5])
        print(f"{len(short)} of {len(classes)} classes have fewer than {arguments.shots}: {named}", file=sys.stderr)
    return drawn.rows


def _count(encoded: Encoded, classes: list[str]) -> list[int]:
    """Readable images of each class, of which there is at least one."""
    found = Counter(encoded.labels.tolist())
    empty = [name for label, name in enumerate(classes) if not found[label]]
    if empty:
        raise UserError(f"No image of the class {empty[0]!r} can be read; repair one, or remove the class.")
    return [found[label] for label in range(len(classes))]


def _list_counts(classes: list[str], counts: list[int]) -> str:
    if len(classes) <= 20:
        return ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
    return f"{min(counts)} to {max(counts)} of each"


def _support(encoded: Encoded, encoders: Encoders, classes: list[str], prompts: list[str]) -> Support:
    classifier = encoders.clip.classifier(classes, prompts).cpu()
    return Support(encoded.clip, encoded.auxiliary, encoded.labels, classifier, encoders.clip.scale)


def _fit(method: str, support: Support, settings: FewShotSettings, seed: int) -> Head:
    """The head, if the settings make one that can be used."""
    try:
        head = fit_method(method, support, settings, seed=seed)
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{method} can't be fitted with these settings ({error}); change --set.") from error
    if not all(bool(value.isfinite().all()) for value in vars(head).values() if isinstance(value, Tensor)):
        raise UserError(f"{method} ran off to infinity with these settings; change --set.")
    return head


def _print_selection(head: Head) -> None:
    grid = METHODS[head.method].grid
    values = ", ".join(f"{name} {head.settings[name]:g}" for name in (grid[0] if grid else ()))
    if head.settings["selected"]:
        print(f"chosen by cross-validation on these images: {values}")
    elif head.settings["selection"] == "cross_validation":
        print(f"one image a class leaves nothing to choose the settings on, so they are not chosen: {values}")


def _print_estimate(support: Support, settings: FewShotSettings, arguments: argparse.Namespace) -> None:
    """Accuracy on images that are left out of the fit in turn, beside CLIP's own.

    Sizes and settings decide whether it is made, never the time that a fit took.
    """
    if arguments.estimate == "never":
        return
    passes = METHODS[arguments.method].passes(settings)
    images, classes = len(support.labels), support.classes
    if arguments.estimate == "auto" and images * classes * passes > CHEAP:
        work = f"{images} images x {classes} classes x {passes} passes"
        print(f"not cross-validated: {work} are more than {CHEAP:,}; use --estimate always")
        return
    predicted = predict_left_out(arguments.method, support, settings, seed=arguments.seed)
    left_out = predicted >= 0
    labels, alone = support.labels[left_out], support.zero_shot()[left_out, 0].argmax(-1)
    if len(labels):
        print(f"left out of the fit in turn (cross-validation): {format_score(predicted[left_out], labels)}")
        print(f"CLIP alone on the same images: {format_score(alone, labels)}")
    else:
        print("not cross-validated: one image a class leaves nothing to fit to")
