"""Few-shot classification of a user's own images: ``fit`` a head, or ``predict`` with one."""

from __future__ import annotations

import argparse

from logitfusion.cli._fewshot_arguments import add_arguments
from logitfusion.cli._inputs import be_quiet

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> None:
    be_quiet()
    from logitfusion.cli import fewshot_fit, fewshot_predict

    {"fit": fewshot_fit, "predict": fewshot_predict}[arguments.action].run(arguments)
