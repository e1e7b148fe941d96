"""Fit a few-shot head to a user's own images, and write it with all that ``predict`` needs."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from tqdm import tqdm

from logitfusion import __version__
from logitfusion.cli._encoder_specs import parse_auxiliary, parse_clip
from logitfusion.cli._encoders import Encoders, load_encoders
from logitfusion.cli._features import encode_with_bar
from logitfusion.cli._fit_bar import fit_bar
from logitfusion.cli._inputs import be_quiet
from logitfusion.cli._scores import print_skipped
from logitfusion.cli._settings import parse_settings
from logitfusion.cli.fewshot import DEFAULT_METHOD
from logitfusion.clip.data.dataset import PROMPT, ImageRow
from logitfusion.clip.data.duplicates import describe_duplicates, find_duplicates, groups
from logitfusion.clip.data.labelled import Labelled
from logitfusion.clip.data.support import make_support
from logitfusion.clip.features.encode import Encoded
from logitfusion.clip.fitting.calibrate import calibrate_clip, calibrate_head
from logitfusion.clip.fitting.compare import CLIP_ALONE, Comparison, choose_methods, compare_methods
from logitfusion.clip.fitting.describe import (
    describe_alike,
    describe_calibration,
    describe_comparison,
    describe_unjudged,
)
from logitfusion.clip.fitting.fit import fit_method
from logitfusion.clip.head_file import save_head
from logitfusion.clip.heads import Head, Support
from logitfusion.clip.methods import METHODS, FewShotSettings
from logitfusion.errors import UserError
from logitfusion.models.load import use_threads


def run(arguments: argparse.Namespace, found: Labelled) -> None:
    """Learn from the images that were found."""
    be_quiet()
    settings = parse_settings(arguments.method, arguments.set)
    arguments.prompts = arguments.prompts or [PROMPT]
    entries = {
        "clip": parse_clip(arguments.clip),
        "auxiliary": [parse_auxiliary(spec) for spec in arguments.auxiliary],
    }
    classes = found.classes
    rows = _draw(found.rows, classes, arguments)
    use_threads()
    encoders = load_encoders(entries["clip"], entries["auxiliary"])
    started = time.monotonic()
    encoded = _encode(rows, encoders, arguments)
    encoded_in = time.monotonic() - started
    counts = _count(encoded, classes)
    support = _support(encoded, encoders, classes, arguments.prompts)
    for line in describe_alike(classes, support.classifier):
        print(line, file=sys.stderr)
    started = time.monotonic()
    with fit_bar(f"fitting {arguments.method}"):
        head = _fit(arguments.method, support, settings, arguments.seed)
    fitted_in = time.monotonic() - started
    print(f"Learnt from {len(encoded.ids)} images of {len(classes)} classes: {_list_counts(classes, counts)}.")
    print(f"The features took {encoded_in:.1f} s, and {head.method} was fitted in {fitted_in:.1f} s.")
    _print_selection(head)
    caution = METHODS[head.method].caution(settings, len(classes))
    if caution is not None:
        print(caution)
    with fit_bar("calibrating"):
        calibration = calibrate_head(head, support, seed=arguments.seed)
    comparison = _compare(support, settings, arguments)
    save_head(
        arguments.output,
        head,
        class_names=classes,
        encoders=encoders.fingerprints(),
        metadata={
            **_origin(arguments, encoders),
            "folders": found.folders,
            "entries": entries,
            "counts": counts,
            "digests": encoded.digests,
            "calibration": calibration.dump(),
            "clip_calibration": calibrate_clip(support).dump(),
            "comparison": None if comparison is None else comparison.dump(),
        },
    )
    for line in (
        *_words(comparison, head),
        *describe_calibration(calibration),
        *describe_unjudged(support, classes),
    ):
        print(line)
    print(f"Wrote {arguments.output} ({arguments.output.stat().st_size / 1000:,.1f} kB).")


LIBRARIES = ("open_clip_torch", "pillow", "timm", "torch", "torchvision")


def _origin(arguments: argparse.Namespace, encoders: Encoders) -> dict[str, Any]:
    """What a head file keeps of how it was asked for, and of what it was made with."""
    return {
        "prompts": arguments.prompts,
        "transforms": {role: encoder.transform for role, encoder in encoders.by_role().items()},
        "shots": arguments.shots,
        "seed": arguments.seed,
        "views": arguments.views,
        "versions": {"logitfusion": __version__, **{name: version(name) for name in LIBRARIES}},
    }


def _encode(rows: list[ImageRow], encoders: Encoders, arguments: argparse.Namespace) -> Encoded:
    """The features; images that can't be read, and copies, are told."""
    encoded = encode_with_bar(
        rows,
        encoders.by_role(),
        arguments.features,
        split="support",
        views=arguments.views,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        max_skipped=arguments.max_skipped,
    )
    print_skipped(encoded.skipped, len(rows))
    for line in describe_duplicates(find_duplicates(encoded.ids, encoded.digests, encoded.labels.tolist())):
        print(line, file=sys.stderr)
    return encoded


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
    return Support(
        encoded.clip, encoded.auxiliary, encoded.labels, classifier, encoders.clip.scale, groups(encoded.digests)
    )


def _fit(method: str, support: Support, settings: FewShotSettings, seed: int) -> Head:
    """The head, if the settings make one that can be used."""
    try:
        return fit_method(method, support, settings, seed=seed)
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{method} can't be fitted with these settings ({error}); change --set.") from error


def _print_selection(head: Head) -> None:
    grid = METHODS[head.method].grid
    values = ", ".join(f"{name} {head.settings[name]:g}" for name in (grid[0] if grid else ()))
    if head.settings["selected"]:
        print(f"Its settings were chosen by cross-validation on these images: {values}.")
    elif head.settings["selection"] == "cross_validation":
        print(f"No class has two images to choose the settings on, so they are not chosen: {values}.")


def _compare(support: Support, settings: FewShotSettings, arguments: argparse.Namespace) -> Comparison | None:
    """All methods that apply on images that are left out of them in turn; None where it was not asked for."""
    if arguments.compare == "never":
        return None
    methods, not_tried = choose_methods(
        support, {DEFAULT_METHOD: None, arguments.method: settings}, dear=arguments.compare == "always"
    )
    with tqdm(total=len(methods), unit=" methods", desc="comparing", disable=None, leave=False) as bar:

        def show(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        return compare_methods(
            support,
            methods,
            expected=next((name for name in (DEFAULT_METHOD, arguments.method) if name in methods), CLIP_ALONE),
            seed=arguments.seed,
            on_method=show,
            not_tried=not_tried,
        )


def _words(comparison: Comparison | None, head: Head) -> Iterator[str]:
    if comparison is None:
        yield "Methods were not compared (--compare never)."
    else:
        yield from describe_comparison(comparison, head.method)
