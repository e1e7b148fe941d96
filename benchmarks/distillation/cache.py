"""A teacher's cache: bytes a token, and reading it against a training step of the student that would read it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from logitfusion.distill import CachedTeacher, distill_loss, predict
from logitfusion.distill.cache import TeacherCache, find_shards
from logitfusion.distill.shard import SETTINGS, shard_path, write_shard
from logitfusion.distill.teacher_text import TeacherText
from timing import spread, time_rounds

BATCH, K = 4, 10


def measure(
    sizes: tuple[tuple[int, int], ...], texts: int, tokens: int, model: tuple[int, int, int],
    rounds: int, device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Of V and k each a cache of ``texts`` texts of ``tokens`` tokens; ``model`` as for ``training_steps``."""
    rows = []
    order = torch.randperm(texts, generator=torch.Generator().manual_seed(0)).tolist()
    ways = training_steps(model, tokens, device)
    with tempfile.TemporaryDirectory() as folder:
        for vocabulary, k in sizes:
            path = write_made_up(Path(folder) / f"{vocabulary}-{k}", vocabulary, k, texts, tokens)
            cache = TeacherCache(find_shards(path.parent))
            ways[f"{vocabulary}-{k}"] = lambda cache=cache: [cache[number] for number in order]
            rows.append(
                {
                    "vocabulary": vocabulary,
                    "k": k,
                    "bytes a token": path.stat().st_size / cache.tokens,
                    "dense fp16": 2 * vocabulary,
                    "top-k fp16 and int64": 10 * k,
                }
            )
        seconds, _ = time_rounds(ways, rounds, device)
    for row in rows:
        each = [value / (texts * tokens) for value in seconds[f"{row['vocabulary']}-{row['k']}"]]
        row["tokens a second"] = [1 / value for value in each]
        row["share of a step"] = [
            value * BATCH * tokens / step for value, step in zip(each, seconds["SFT + GLD"], strict=True)
        ]
    print("cache: done", flush=True)
    return {
        "rows": rows,
        "tokens a step": BATCH * tokens,
        "milliseconds a step": {name: [1e3 * value for value in seconds[name]] for name in ("SFT", "SFT + GLD")},
        "step with GLD over step without": [
            one / other for one, other in zip(seconds["SFT + GLD"], seconds["SFT"], strict=True)
        ],
    }


def write_made_up(folder: Path, vocabulary: int, k: int, texts: int, tokens: int) -> Path:
    """A cache of one shard."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(texts):
        tail = torch.rand(tokens, generator=generator)
        log_probs = -torch.rand(tokens, k, generator=generator).cumsum(1) * 16 / k  # a range of 8, as models have
        log_probs += (torch.log1p(-tail) - log_probs.logsumexp(1))[:, None]
        ids = torch.randint(vocabulary, (tokens, k), generator=generator)
        made.append(TeacherText(log_probs, ids, tail, log_probs[:, 0], torch.arange(1, tokens + 1)))
    manifest = dict.fromkeys(SETTINGS, "made up") | {
        "k": k,
        "vocabulary": vocabulary,
        "max_tokens": tokens,
        "rounding": "fine",
    }
    folder.mkdir()
    path = shard_path(folder, 1, 1)
    write_shard(path, made, manifest | {"shards": 1, "shard": 1, "first_text": 0})
    return path


def training_steps(model: tuple[int, int, int], tokens: int, device: torch.device) -> dict[str, Callable[[], None]]:
    """Forward and backward of a Llama (hidden size, layers, V) with random weights, with and without a teacher.

    The optimiser's step is left out: with it, reading would take a smaller share.
    """
    hidden, layers, vocabulary = model
    torch.manual_seed(0)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=8 * hidden // 3,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 192,
            tie_word_embeddings=True,
        )
    ).to(device)
    ids = torch.randint(vocabulary, (BATCH, tokens)).to(device)
    with torch.no_grad():
        logits = llama(ids).logits
        cached = CachedTeacher(predict(logits + torch.randn_like(logits), ids, K))

    def step(teachers: list[CachedTeacher], gld: float) -> None:
        llama.zero_grad()
        logits = llama(ids, use_cache=False).logits
        distill_loss(logits, ids, teachers, k=K, uld_weight=0.0, gld_weight=gld).total.backward()

    return {"SFT": lambda: step([], 0.0), "SFT + GLD": lambda: step([cached], 0.3)}


def table(found: dict[str, Any]) -> list[str]:
    lines = [
        "| cache | bytes a token | dense fp16 | top-k fp16 + int64 | million tokens a second read"
        " | % of a training step |",
        "|" + " --- |" * 6,
    ]
    for row in found["rows"]:
        speed = [value / 1e6 for value in row["tokens a second"]]
        share = [100 * value for value in row["share of a step"]]
        lines.append(
            f"| V = {row['vocabulary']:,}, k = {row['k']} | {row['bytes a token']:.0f} | {row['dense fp16']:,} |"
            f" {row['top-k fp16 and int64']:,} | {spread(speed)} | {spread(share, 3)} |"
        )
    steps = {name: spread(values, 0) for name, values in found["milliseconds a step"].items()}
    return [
        *lines,
        "",
        f"A step (forward and backward of {found['tokens a step']} tokens) takes {steps['SFT']} ms with SFT and"
        f" {steps['SFT + GLD']} ms with GLD: {spread(found['step with GLD over step without'])} times as long. Texts"
        " are read in random order, and the system has the files in memory.",
    ]
