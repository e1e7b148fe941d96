"""Stages that decode a test split do so only as it was frozen, if the config has a protocol."""

from __future__ import annotations

import argparse

from logitfusion.config.jobs.protocol import ProtocolJob
from logitfusion.config.section import parse
from logitfusion.protocol.admission import begin_decoding


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """The option that the rules of such stages give."""
    parser.add_argument("--protocol", help="of the comparison whose test split is decoded (JSON)")


def keep_protocol(arguments: argparse.Namespace) -> None:
    """Refuse what the protocol refuses, before anything is computed.

    Raises:
        UserError: the comparison is not frozen as it stands, or was decoded otherwise.
    """
    if arguments.protocol:
        begin_decoding(parse(ProtocolJob, arguments.protocol))
