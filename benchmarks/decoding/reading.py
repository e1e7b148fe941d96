"""A teacher reads texts into its cache: tokens a second."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from decoding.floor import Speed, Work
from logitfusion.distill.encoding import EncodedText
from logitfusion.distill.teacher import read_teacher, try_reading
from logitfusion.models.load import count_bytes, count_parameters
from peak import most_bytes
from timing import time_rounds

TEXTS, PROMPT, TOP = 32, 0.25, 10  # a quarter of each text is its prompt


def bench_reading(
    name: str, model: PreTrainedModel, tokens: int, batch: int, rounds: int, speed: Speed, predicted: float
) -> dict[str, Any]:
    """Texts of ``tokens`` random tokens."""
    generator = torch.Generator().manual_seed(0)
    start = max(1, int(PROMPT * tokens))
    rows = torch.randint(3, 250, (TEXTS, tokens), generator=generator).tolist()
    texts = [EncodedText(tuple(ids), start, tuple(range(1, tokens - start + 1))) for ids in rows]
    reading = try_reading(model, texts)
    ways = {"read": lambda: list(read_teacher(model, texts, k=TOP, batch_size=batch, reading=reading))}
    seconds, _ = time_rounds(ways, rounds, model.device)
    output = model.get_output_embeddings().weight.numel()
    passes = -(-TEXTS // batch)
    operations = 2 * TEXTS * (tokens * (count_parameters(model) - 2 * output) + (tokens - start) * output)
    floor = Work(passes * count_bytes(model), 0, operations).seconds(speed)
    return {
        "teacher": name,
        "texts": TEXTS,
        "tokens": tokens,
        "batch": batch,
        "k": TOP,
        "tokens a second": [TEXTS * tokens / value for value in seconds["read"]],
        "floor tokens a second": TEXTS * tokens / floor,
        "bytes": count_bytes(model),
        "peak bytes": count_bytes(model) + most_bytes(ways["read"], model.device),
        "predicted bytes": predicted,
    }
