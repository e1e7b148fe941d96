"""Judged examples of a run that never was, as large as wanted: for what a page does with many of them."""

from __future__ import annotations

import io
import random

import pandas as pd
from PIL import Image

from logitfusion.config.tracks import FewShotReport
from logitfusion.report.fewshot.shared import Predictions
from logitfusion.report.index.image_examples import ImageExamples
from logitfusion.report.index.text_examples import TextExamples

EXPERTS = ("sentiment", "sums", "knowledge")
WORDS = (" a", " film", " of", " 12", " yes", " no", "\n", " Paris", "é", " <b>", " negative", " positive")
COLOURS = dict(zip(EXPERTS, ("#0072B2", "#D55E00", "#009E73"), strict=True))


def make_judged(examples: int, methods: int, tokens: int = 6, seed: int = 0) -> pd.DataFrame:
    """Random examples; the methods are ``method_0``, which nothing steers, then ``method_1`` and so on, steered."""
    draw = random.Random(seed)
    rows = []
    for number in range(methods):
        width = len(EXPERTS) if number else 0
        for example in range(examples):
            outcome = draw.choice(("right", "right", "wrong", "none"))
            pieces = draw.choices(WORDS, k=tokens)
            rows.append({
                "method": f"method_{number}", "subtask": "t", "id": example,
                "prompt": f"Question {example}: is <this> & that so?",
                "gold": "yes", "text": "".join(pieces), "correct": outcome == "right",
                "answer": {"right": "yes", "wrong": "no", "none": None}[outcome], "format_failure": outcome == "none",
                "tokens": pieces, "weights": [[draw.random() for _ in range(width)] for _ in pieces],
                "expert": [draw.randrange(-1, width) if width else -1 for _ in pieces], "seconds": 0.1,
            })  # fmt: skip
    return pd.DataFrame(rows)


def make_texts(tasks: dict[str, int], methods: int, **options: str) -> TextExamples:
    """The examples of a fusion track: task -> how many it has."""
    names = [f"method_{number}" for number in range(methods)]
    return TextExamples(
        title=options.get("title", "Fusion"),
        note="Random texts.",
        judged={task: make_judged(count, methods, seed=place) for place, (task, count) in enumerate(tasks.items())},
        methods=names,
        experts={task: dict.fromkeys(names[1:], EXPERTS) for task in tasks},
        colours=COLOURS,
        beside=options.get("beside", ""),
    )


def make_images(count: int) -> ImageExamples:
    """The examples of a few-shot track with two classes and the methods ``zero_shot`` and ``amu``."""
    draw = random.Random(0)
    labels = [draw.randrange(2) for _ in range(count)]
    ids = [f"{label}/{place}.png" for place, label in enumerate(labels)]
    images = pd.DataFrame({
        "set": "shapes", "id": ids, "label": labels, "clip_answer": [draw.randrange(2) for _ in ids],
        "clip_probability": [draw.random() for _ in ids],
        "factor": [draw.random() for _ in ids], "factor_classes": 0.5,
    })  # fmt: skip
    answers = pd.DataFrame([
        {"method": method, "shots": shots, "seed": seed, "set": "shapes", "id": name, "label": label, "answer": answer,
         "correct": answer == label, "probability": draw.random()}
        for method in ("zero_shot", "amu") for shots in (1, 4) for seed in (0, 1)
        for name, label, answer in zip(ids, labels, [draw.randrange(2) for _ in ids], strict=True)
    ])  # fmt: skip
    track = FewShotReport(
        sets={"shapes": ("shapes",)}, shots=(1, 4), seeds=(0, 1), methods=("zero_shot", "amu"), clip="zero_shot",
        shown="amu", assisted=("amu",), auxiliaries={}, encoder="random weights",
    )  # fmt: skip
    predictions = {"shapes": Predictions(answers, images, ["disc", "bar"])}
    return ImageExamples("Few-shot CLIP", "Random images.", predictions, lambda task, name: _draw_image(name), track)


def _draw_image(name: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 64), "#0072B2" if name.startswith("0") else "#D55E00").save(content, "WEBP")
    return content.getvalue()
