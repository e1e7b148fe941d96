"""How likely given continuations are after their contexts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from logitfusion.cli._fusion import add_fusion, fusion_inputs, load_fusion
from logitfusion.cli._inputs import be_quiet, name_source, read_field, read_rows, read_text
from logitfusion.cli._options import add_options, read_section
from logitfusion.cli._outputs import claim_outputs
from logitfusion.config.decoding import Decoding
from logitfusion.errors import UserError
from logitfusion.files import write_jsonl
from logitfusion.formats.json import format_json

if TYPE_CHECKING:
    from logitfusion.fusion import FusedLM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its own options and those of a fusion."""
    parser.description = "How likely continuations are after their contexts: natural log-likelihoods, as JSON lines."
    add_fusion(parser)
    add_options(parser, Decoding, "batch_size")
    parser.add_argument(
        "--pairs",
        required=True,
        metavar="FILE.jsonl",
        help='JSON objects with "context" and "continuation" (- : stdin)',
    )
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="instead of the standard output")


def run(arguments: argparse.Namespace) -> None:
    be_quiet()
    claim_outputs({"--output": arguments.output}, {"--pairs": arguments.pairs, **fusion_inputs(arguments)})
    batch_size = read_section(Decoding, arguments).batch_size
    pairs = [
        (read_field(row, "context", place), read_field(row, "continuation", place), place)
        for place, row in read_rows(arguments.pairs, read_text(arguments.pairs))
    ]
    if not pairs:
        raise UserError(f"{name_source(arguments.pairs)} holds no pairs.")
    rows = _score(load_fusion(arguments), pairs, batch_size)
    if arguments.output is not None:
        write_jsonl(arguments.output, rows)
        return
    for row in rows:
        print(format_json(row))


def _score(lm: FusedLM, pairs: list[tuple[str, str, str]], batch_size: int) -> list[dict[str, Any]]:
    """One row a pair (context, continuation, its place), in their order; ``tokens`` counts the continuation's."""
    encoded = [lm.encode_pair(context, continuation, name=place) for context, continuation, place in pairs]
    contexts, continuations = [context for context, _ in encoded], [continuation for _, continuation in encoded]
    with tqdm(total=len(pairs), unit=" pairs", disable=None) as bar:  # None: only on a terminal
        scores = lm.score(contexts, continuations, batch_size=batch_size, on_batch=bar.update)
    return [
        {"logprob": logprob, "is_greedy": greedy, "tokens": len(continuation)}
        for (logprob, greedy), continuation in zip(scores, continuations, strict=True)
    ]
