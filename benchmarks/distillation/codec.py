"""The cache's roundings beside DistillKit's codec, on the same predictions: bytes a token, what is lost, time to read.

DistillKit's is given the settings that its README recommends, its "budget" ones and, to lose as little as here, the
first eight log-probabilities in fp32 and 8 bits of each other's distance from the polynomial.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from distillation import peers
from distillation.problem import NOISE, SHARED
from logitfusion.config.distill import Rounding
from logitfusion.distill.encoding import encode_texts
from logitfusion.distill.packed import PackedText, RowCode
from logitfusion.distill.rounding import divergence
from logitfusion.distill.teacher import read_teacher, summarise
from logitfusion.distill.teacher_text import TeacherText
from logitfusion.models.adapters import load_expert
from logitfusion.models.load import load_tokenizer
from logitfusion.models.vocabulary import read_vocabulary
from timing import spread, time_rounds

PAGES = Path(__file__).parents[2] / "docs/methods"
LENGTH = 256  # tokens of a paragraph at most
SETTINGS: dict[str, dict[str, Any]] = {
    "recommended": {"exact_k": 16, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, 2, 3, 4, "sqrt"]},
    "budget": {"exact_k": 1, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, "sqrt"]},
    "8 bits": {"exact_k": 8, "exact_dtype": "float32", "polynomial_terms": [0, 1, "sqrt"]},
}

Read = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Predictions:
    """The k likeliest tokens of n positions.

    Attributes:
        name: whose they are.
        vocabulary: V.
        text: they themselves.
    """

    name: str
    vocabulary: int
    text: TeacherText

    @property
    def k(self) -> int:
        return self.text.ids.shape[1]


@dataclass(frozen=True)
class Codec:
    """Bytes a token, and what they are read as: ids and log-probabilities ``[n, k]``."""

    bytes: float
    read: Read


def measure(
    sizes: tuple[tuple[int, int], ...], tokens: int, rounds: int, checkout: Path | None, teachers: list[Path]
) -> dict[str, Any]:
    """Of each teacher so many positions with each k; without teachers, made-up ones of each V and k."""
    theirs = peers.load("DistillKit", "distillkit", checkout, distillkit)
    rows = []
    for made in predictions(sizes, tokens, teachers):
        codecs = here(made) | (there(*theirs, made) if theirs else {})
        ways = {name: codec.read for name, codec in codecs.items()}
        seconds, _ = time_rounds(ways, rounds, torch.device("cpu"), time.process_time)
        for name, codec in codecs.items():
            row = {"predictions": made.name, "vocabulary": made.vocabulary, "k": made.k, "codec": name}
            microseconds = [1e6 * one / len(made.text) for one in seconds[name]]
            rows.append({**row, "bytes": codec.bytes, **losses(made, *codec.read()), "microseconds": microseconds})
        print(f"codec, {made.name}, k = {made.k}: done", flush=True)
    return {"missing": theirs is None, "tokens": tokens, "rows": rows}


# Predictions


def predictions(sizes: tuple[tuple[int, int], ...], tokens: int, teachers: list[Path]) -> Iterator[Predictions]:
    for vocabulary, k in () if teachers else sizes:
        yield Predictions("made up", vocabulary, make_up(vocabulary, k, tokens))
    ks = sorted({k for _, k in sizes})
    for teacher in teachers:
        text = read_pages(teacher, ks[-1], tokens)
        for k in ks:
            yield Predictions(teacher.name, read_vocabulary(teacher), narrow(text, k))


def make_up(vocabulary: int, k: int, tokens: int) -> TeacherText:
    """As in ``distillation.problem``."""
    generator = torch.Generator().manual_seed(0)
    level = SHARED * torch.randn(vocabulary, generator=generator)
    parts = []
    for some in torch.arange(tokens).split(64):
        logits = NOISE * torch.randn(len(some), vocabulary, generator=generator) + level
        parts.append(summarise(logits, logits.softmax(-1).multinomial(1, generator=generator)[:, 0], k))
    log_probs, ids, tail, own = map(torch.cat, zip(*parts, strict=True))
    return TeacherText(log_probs, ids, tail, own, torch.arange(1, tokens + 1))


def read_pages(teacher: Path, k: int, tokens: int) -> TeacherText:
    """What a model makes of the pages about methods, paragraph by paragraph."""
    pages = "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(PAGES.glob("*.md")))
    texts = encode_texts(load_tokenizer(teacher), [("", part) for part in pages.split("\n\n")], max_tokens=LENGTH)
    enough = int(np.searchsorted(texts.labels.cumsum(), tokens)) + 1
    model = load_expert(teacher, dtype="float32", device=torch.device("cpu"))
    found = list(read_teacher(model, texts[:enough], k=k, batch_size=4))
    parts = (
        torch.cat([getattr(one, name) for one in found])[:tokens]
        for name in ("log_probs", "ids", "tail", "label_log_probs")
    )
    return TeacherText(*parts, torch.arange(1, tokens + 1))


def narrow(text: TeacherText, k: int) -> TeacherText:
    """The k likeliest of more."""
    tail = text.tail + text.log_probs[:, k:].exp().sum(1)
    return replace(text, log_probs=text.log_probs[:, :k], ids=text.ids[:, :k], tail=tail)


# Codecs


def here(made: Predictions) -> dict[str, Codec]:
    """The roundings, with what the rows take that are kept exactly."""

    def read(code: RowCode, packed: PackedText) -> tuple[Tensor, Tensor]:
        found = code.unpack(packed)
        return found.ids, found.log_probs

    codecs = {}
    for rounding in get_args(Rounding):
        code = RowCode(made.k, made.vocabulary, rounding)
        packed = code.pack(made.text)
        exact = sum(part.nbytes for part in packed.exact.values()) / len(made.text)
        codecs[f"here, {rounding}"] = Codec(code.row_bytes(longest=255) + exact, partial(read, code, packed))
    return codecs


def distillkit() -> tuple[ModuleType, ModuleType]:
    """Its codec, and the settings of it."""
    return tuple(importlib.import_module(f"distillkit.compression.{name}") for name in ("compressor", "config"))


def there(version: str, modules: tuple[ModuleType, ModuleType], made: Predictions) -> dict[str, Codec]:
    """DistillKit's codec with each of the settings that leave it something to fit."""
    compressor, config = modules
    codecs = {}
    for name, given in SETTINGS.items():
        rest = made.k - given["exact_k"]
        if rest < len(given["polynomial_terms"]):
            continue
        bins = [{"scale_dtype": "float16", "element_bits": 8, "num_elements": rest}] if name == "8 bits" else []
        options = {"d": made.vocabulary, "k": made.k, "residual_bins": bins, "delta_encoding": False, **given}
        codec = compressor.LogprobCompressor(config.DistributionQuantizationConfig(**options))
        packed = codec.compress_from_sparse(made.text.ids, made.text.log_probs)
        size = sum(part.shape[-1] for part in packed.values())
        codecs[f"{version}, {name}"] = Codec(size, partial(codec.decompress_to_sparse, packed))
    return codecs


def losses(made: Predictions, ids: Tensor, log_probs: Tensor) -> dict[str, float]:
    """What has been lost of log-probabilities, whose tokens are those that went in, in any order."""
    right, found = made.text.ids.sort(dim=1), ids.sort(dim=1)
    if not torch.equal(right.values, found.values):
        raise SystemExit("a codec has lost a token")
    before = made.text.log_probs.gather(1, right.indices).numpy()
    after = log_probs.float().gather(1, found.indices).numpy()
    lost = divergence(before, after)
    return {"mean": float(lost.mean()), "worst": float(lost.max()), "error": float(np.abs(after - before).max())}


def table(found: dict[str, Any]) -> list[str]:
    lines = [
        "| predictions | codec | bytes a token | KL, mean | worst token | largest error, nats | µs to read a token |",
        "|" + " --- |" * 7,
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['predictions']}, V = {row['vocabulary']:,}, k = {row['k']} | {row['codec']} | {row['bytes']:.0f} |"
            f" {row['mean']:.1e} | {row['worst']:.1e} | {row['error']:.2g} | {spread(row['microseconds'])} |"
        )
    missing = ["DistillKit is not installed, and no checkout of it was named."] if found["missing"] else []
    return [
        *lines,
        "",
        f"Of {found['tokens']} tokens. KL of the k likeliest tokens in nats; all codecs keep their ids. Bytes here are"
        " with tail, label and byte offset, which DistillKit's has not. Read from memory, in processor time.",
        *missing,
    ]


def targets(found: dict[str, Any]) -> list[tuple[str, float, bool]]:
    """The goals at k = 50 and some 50,000 tokens, in bytes and KL."""
    goals = []
    for rounding, most, loss in (("fine", 160, 2e-7), ("coarse", 121, 1e-4)):
        rows = [row for row in found["rows"] if row["codec"] == f"here, {rounding}" and row["k"] == 50]
        for name, limit in (("bytes", most), ("mean", loss)):
            values = [row[name] for row in rows if name == "mean" or row["vocabulary"] < 2**16]
            if values:
                words = "bytes a token, V < 65,536" if name == "bytes" else "KL"
                goals.append((f"{rounding}, k = 50: {words} <= {limit:g}", max(values), max(values) <= limit))
    return goals
