"""Few-shot classification of a user's own images: ``fit`` a head, or ``predict`` with one."""

from __future__ import annotations

import argparse

from logitfusion.cli import fewshot_fit, fewshot_predict
from logitfusion.cli._inputs import be_quiet


def run(arguments: argparse.Namespace) -> None:
    be_quiet()
    {"fit": fewshot_fit, "predict": fewshot_predict}[arguments.action].run(arguments)
