"""What few-shot methods cost on cached features, and what the class count does to AMU: `make bench-fewshot`.

Made-up features: the unit vector of a direction for each class, one common direction, and noise; the text embeddings
are the class directions with noise. Five tables:

* seconds to fit each method, summed over shots and seeds, of 10 classes (`--classes 10 100`: some ten minutes more);
* AMU's training on cached features, and with the auxiliary encoder run at every step as in the released code. The
  encoder is timm's ``tf_efficientnet_lite0`` with random weights, so only its cost is meant; a few steps are
  measured and multiplied;
* accuracy with 10 classes where CLIP, the auxiliary encoder or neither is much better than the other. It shows what
  each method does with such features; it implies nothing about real images;
* seconds to fit the default method and AMU to 1,000 classes with 16 random unit features each (no view besides), on two
  threads; of these features nothing can be learned, so regressions have the longest way;
* microseconds of a step of AdamW at two sizes: torch's fused one, as a class with its scheduler and as the function
  that we call, and one written out in torch's operations.

``--only large adamw`` makes these parts alone; the rest of the result file stays as it is.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

import timm
import torch
from torch import Tensor
from torch.nn.functional import normalize

from logitfusion.clip import Support, fit_method
from logitfusion.clip.methods import DEFAULT_METHOD, METHODS
from logitfusion.clip.methods.adamw import AdamW, one_thread
from logitfusion.clip.methods.progress import listening
from logitfusion.files import write_json, write_text
from logitfusion.progress.pace import ShareLines

WIDTHS = (512, 1280)  # CLIP ViT-B and tf_efficientnet_lite0
SHOTS = (1, 2, 4, 8, 16)
# Noise of CLIP's features, of its text embeddings and of the auxiliary features; a class direction has length 1.
SITUATIONS = {
    "CLIP bad, auxiliary good": (6.0, 6.0, 3.0),
    "both fair": (4.0, 3.0, 4.0),
    "CLIP good, auxiliary bad": (3.0, 1.5, 9.0),
}
TRAP = ("zero_shot", "auxiliary_probe", "logit_sum", "amu", "amu_classes")


PARTS = ("seconds", "encoding", "accuracy", "large", "adamw")


def make_problem(
    classes: int, shots: int, views: int, noise: tuple[float, float, float], seed: int, tested: int = 0
) -> tuple[Support, Tensor, Tensor, Tensor]:
    """A support set, and ``tested`` images a class: CLIP's and auxiliary features, labels."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    labels, test = (torch.arange(classes).repeat_interleave(count) for count in (shots, tested))

    def encode(width: int, size: float) -> tuple[Tensor, Tensor, Tensor]:
        directions = normalize(normal(classes, width), dim=-1)
        common = normalize(normal(1, width), dim=-1)
        base, others = (directions[y] + common + size * normal(len(y), width) for y in (labels, test))
        shaken = base[:, None] + 0.3 * size * normal(len(labels), views, width) * (torch.arange(views) > 0)[:, None]
        return directions, normalize(shaken, dim=-1), normalize(others, dim=-1)

    directions, clip, clip_test = encode(WIDTHS[0], noise[0])
    _, auxiliary, auxiliary_test = encode(WIDTHS[1], noise[2])
    text = normalize(directions + noise[1] * normal(classes, WIDTHS[0]), dim=-1).T
    return Support(clip, auxiliary, labels, text), clip_test, auxiliary_test, test


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def time_methods(classes: int, seeds: int, views: int) -> dict[str, list[float]]:
    """Seconds of each method by shots, summed over seeds."""
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    for shots in SHOTS:
        supports = [make_problem(classes, shots, views, SITUATIONS["both fair"], seed)[0] for seed in range(seeds)]
        for name in METHODS:
            start = time.perf_counter()
            for seed, support in enumerate(supports):
                fit_method(name, support, seed=seed)
            found[name].append(time.perf_counter() - start)
        log(f"{classes} classes, {shots} shots: all methods in {sum(row[-1] for row in found.values()):.1f} s")
    return found


def time_encoding(classes: int, shots: int, views: int, steps: int) -> dict[str, float]:
    """Seconds of one AMU training: measured on cached features, extrapolated where every step encodes its batch."""
    support = make_problem(classes, shots, views, SITUATIONS["both fair"], 0)[0]
    start = time.perf_counter()
    head = fit_method("amu", support, seed=0)
    cached = time.perf_counter() - start
    batch, epochs = head.settings["batch"], head.settings["epochs"]
    encoder = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    images, spent = torch.randn(batch, 3, 224, 224), []
    with torch.inference_mode():
        for _ in range(steps + 1):
            start = time.perf_counter()
            encoder(images)
            spent.append(time.perf_counter() - start)
    encoding = median(spent[1:])  # the first one warms up
    images_in_all = classes * shots
    once = encoding * views * images_in_all / batch
    online = cached + encoding * epochs * images_in_all / batch
    return {"cached": cached, "encode once": once, "online, extrapolated": online, "a batch": encoding}


def score_methods(seeds: int, views: int) -> list[dict[str, object]]:
    """Mean accuracy over seeds with 10 classes."""
    rows = []
    for situation, noise in SITUATIONS.items():
        for shots in (1, 2, 4, 16):
            scores: dict[str, list[float]] = {name: [] for name in TRAP}
            for seed in range(seeds):
                support, clip, auxiliary, labels = make_problem(10, shots, views, noise, seed, tested=100)
                for name in TRAP:
                    answers = fit_method(name, support, seed=seed).logits(clip, auxiliary).argmax(1)
                    scores[name].append(float((answers == labels).double().mean()))
            log(f"accuracy, {situation}, {shots} shots: done")
            rows.append({"situation": situation, "shots": shots} | {name: mean(scores[name]) for name in TRAP})
    return rows


def time_large(classes: int, shots: int, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Seconds of one fit of each method: by the clock, and of processors."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(shots)
    clip, auxiliary, text = (
        normalize(torch.randn(count, 512, generator=generator), dim=-1) for count in (len(labels), len(labels), classes)
    )
    support, found = Support(clip[:, None], auxiliary[:, None], labels, text.T), {}
    for name in names:
        clock, processors = time.perf_counter(), time.process_time()
        with listening(ShareLines(name, log)):
            fit_method(name, support, seed=0)
        found[name] = {"clock": time.perf_counter() - clock, "processors": time.process_time() - processors}
        log(f"{classes} classes, {shots} shots: {name} in {found[name]['clock']:.0f} s")
    return found


def time_adamw(classes: int, width: int, steps: int) -> dict[str, float]:
    """Median microseconds of a step with one thread."""
    start = torch.randn(classes, width)
    gradient = 1e-3 * torch.randn(classes, width)
    numbers = {"learning_rate": 1e-3, "weight_decay": 0.01, "epsilon": 1e-4}
    ours = AdamW(start.clone(), steps=10**9, **numbers)
    parameter = torch.nn.Parameter(start.clone())
    parameter.grad = gradient
    theirs = torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.01, eps=1e-4, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 10**9)
    weight, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)

    def written_out(rate: float = 1e-3) -> None:  # its bias corrections, two numbers, are left out
        mean.lerp_(gradient, 0.1)
        square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        weight.mul_(1.0 - rate * 0.01)
        weight.addcdiv_(mean, square.sqrt().add_(1e-4), value=-rate)

    def as_class() -> None:
        theirs.step()
        scheduler.step()

    kinds = {"function": lambda: ours.step(gradient), "class": as_class, "written out": written_out}
    spent: dict[str, list[float]] = {name: [] for name in kinds}
    with one_thread(), torch.no_grad():
        for _ in range(steps):
            for name, step in kinds.items():
                begun = time.perf_counter()
                step()
                spent[name].append(1e6 * (time.perf_counter() - begun))
    return {name: median(values) for name, values in spent.items()}


def as_markdown(found: dict) -> str:
    found = {part: {} for part in PARTS} | found
    views, seeds = found["views"], found["seeds"]
    lines = [
        f"| seconds, {seeds} seeds | {' | '.join(f'{shots} shots' for shots in SHOTS)} | all |",
        "|" + " --- |" * 7,
    ]
    for classes, times in found["seconds"].items():
        for name, row in (times | {"all methods": [sum(part) for part in zip(*times.values(), strict=True)]}).items():
            cells = " | ".join(f"{value:.2f}" for value in (*row, sum(row)))
            lines.append(f"| {name}, {classes} classes | {cells} |")
    lines += [
        "",
        "| AMU, 16 shots | cached, s | encode once, s | online, s (extrapolated) | online / cached with encoding |",
    ]
    lines += ["|" + " --- |" * 5]
    for classes, row in found["encoding"].items():
        ratio = row["online, extrapolated"] / (row["cached"] + row["encode once"])
        cells = (row["cached"], row["encode once"], row["online, extrapolated"], ratio)
        lines.append(f"| {classes} classes | {' | '.join(f'{value:.3g}' for value in cells)} |")
    lines += ["", f"| accuracy, made-up features, 10 classes | shots | {' | '.join(TRAP)} |", "|" + " --- |" * 7]
    for row in found["accuracy"]:
        cells = " | ".join(f"{row[name]:.3f}" for name in TRAP)
        lines.append(f"| {row['situation']} | {row['shots']} | {cells} |")
    lines += ["", "| 1,000 classes x 16 random features, 2 threads | seconds | processor seconds |", "|" + " --- |" * 3]
    lines += [f"| {name} | {row['clock']:.0f} | {row['processors']:.0f} |" for name, row in found["large"].items()]
    lines += ["", "| AdamW, microseconds a step | function | class, scheduler | written out |", "|" + " --- |" * 4]
    for size, row in found["adamw"].items():
        lines.append(f"| {size} | {' | '.join(f'{row[kind]:.0f}' for kind in ('function', 'class', 'written out'))} |")
    words = f"{views} views; widths {WIDTHS[0]} and {WIDTHS[1]}; {found['machine']}. Encoder: tf_efficientnet_lite0"
    return "\n".join([*lines, "", f"{words}, random weights, 224 pixels, batches of 8, without reading images."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[10])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="batches that the encoder is timed on")
    parser.add_argument("--output", type=Path, default=Path("results/bench/fewshot.json"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to make (default: all)")
    arguments = parser.parse_args()
    seeds, views = arguments.seeds, arguments.views
    torch.set_num_threads(min(2, torch.get_num_threads()))
    found = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    found |= {
        "views": views,
        "seeds": seeds,
        "machine": f"CPU ({platform.machine()}), {torch.get_num_threads()} threads, torch {torch.__version__}",
        "shots": SHOTS,
    }
    make = {
        "seconds": lambda: {str(classes): time_methods(classes, seeds, views) for classes in arguments.classes},
        "encoding": lambda: {
            str(classes): time_encoding(classes, 16, views, arguments.steps) for classes in arguments.classes
        },
        "accuracy": lambda: score_methods(seeds, views),
        "large": lambda: time_large(1000, 16, (DEFAULT_METHOD, "amu")),
        "adamw": lambda: {
            f"{classes} classes, width {width}": time_adamw(classes, width, steps)
            for classes, width, steps in ((17, 1280, 3000), (1000, 512, 300))
        },
    }
    for part in arguments.only:
        found[part] = make[part]()
    write_json(arguments.output, found)
    write_text(arguments.output.with_suffix(".md"), as_markdown(found))
    print(as_markdown(found))


if __name__ == "__main__":
    main()
