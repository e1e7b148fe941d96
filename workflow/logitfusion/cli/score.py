"""How likely given continuations are after their contexts."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tqdm import tqdm

from logitfusion.cli._inputs import be_quiet, load_fusion, read_fields, read_text
from logitfusion.files import write_jsonl
from logitfusion.fusion import FusedLM


def run(arguments: argparse.Namespace) -> None:
    be_quiet()
    pairs = read_fields(arguments.pairs, read_text(arguments.pairs), ("context", "continuation"))
    rows = _score(load_fusion(arguments), pairs, arguments.batch_size)
    if arguments.output is not None:
        write_jsonl(arguments.output, rows)
        return
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))


def _score(lm: FusedLM, pairs: list[dict[str, str]], batch_size: int) -> list[dict[str, Any]]:
    """One row a pair, in their order; ``tokens`` counts the continuation's."""
    encoded = [lm.encode_pair(pair["context"], pair["continuation"]) for pair in pairs]
    contexts, continuations = [context for context, _ in encoded], [continuation for _, continuation in encoded]
    with tqdm(total=len(pairs), unit=" pairs", disable=None) as bar:  # None: only on a terminal
        scores = lm.score(contexts, continuations, batch_size=batch_size, on_batch=bar.update)
    return [
        {"logprob": logprob, "is_greedy": greedy, "tokens": len(continuation)}
        for (logprob, greedy), continuation in zip(scores, continuations, strict=True)
    ]
