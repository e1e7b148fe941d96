"""Print a script that completes this command line in a shell."""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "tcsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help='bash: eval "$(logitfusion completion bash)" in ~/.bashrc')


def run(arguments: argparse.Namespace) -> None:
    import shtab

    from logitfusion.cli import make_parser

    print(shtab.complete(make_parser(), arguments.shell))
