"""A teacher of ``distill-cache`` that a server has: its options, and its cache."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfusion.cli._options import add_options, given_values, read_section, spell
from logitfusion.config.endpoint import Endpoint
from logitfusion.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from logitfusion.distill.texts import EncodedText


def add_endpoint_options(parser: argparse.ArgumentParser) -> None:
    """The options of a server, under a heading of their own."""
    words = "instead of weights in the folder of --teacher, which then needs config.json and the tokenizer only"
    add_options(parser.add_argument_group("a teacher that a server has", words), Endpoint)


def read_endpoint(arguments: argparse.Namespace, read_here: Sequence[str]) -> Endpoint | None:
    """The server of the command line, if it names one.

    Args:
        read_here: options of a teacher whose weights are read here.

    Raises:
        UserError: options that don't belong together.
    """
    endpoint = read_section(Endpoint, arguments)
    if endpoint.endpoint is None:
        if given := list(given_values(Endpoint, arguments)):
            raise UserError(f"{spell(given[0])} needs --endpoint.")
        return None
    for name in read_here:
        if name in vars(arguments):
            raise UserError(f"{spell(name)} is of a teacher that is read here; leave it out with --endpoint.")
    return endpoint


def cache_endpoint(
    endpoint: Endpoint,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[EncodedText],
    output: Path,
    source: dict[str, Any],
    **options: Any,
) -> list[Path]:
    """``cache_served`` of the teacher whose config is in a folder."""
    from logitfusion.distill.served import Server, cache_served, describe
    from logitfusion.models.vocabulary import read_vocabulary

    server = Server(endpoint)
    return cache_served(
        server, describe(server), tokenizer, read_vocabulary(folder), texts, output, source=source, **options
    )
