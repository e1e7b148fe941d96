"""The command ``logitfusion``: what it understands, and one sentence where it can't be done.

Each subcommand is a module here, its arguments beside its code. What it computes with is imported when it runs:
``--help`` needs no torch.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from logitfusion import __version__
from logitfusion.cli._options import add_command
from logitfusion.cli._signals import unwinding
from logitfusion.cli._streams import guarded_streams
from logitfusion.errors import UserError, find_memory_error
from logitfusion.files import find_disk_error

# Whoever loads a file of weights, torchvision or peft, say: tensors only, never a pickle that runs code.
os.environ.setdefault("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")

COMMANDS = {
    "init": "write a small config to start from",
    "plan": "what a run will need, before anything is downloaded",
    "freeze": "write down what decides a comparison, before its test splits are decoded",
    "generate": "continue prompts",
    "score": "how likely given continuations are",
    "evaluate": "measure tasks of lm-evaluation-harness",
    "compare": "compare the methods of finished runs over examples and seeds",
    "distill": "train a student on texts and on what teachers predict there",
    "distill-cache": "write the predictions of a teacher on texts into a cache",
    "fewshot": "classify your own images by CLIP, corrected by a few of them",
    "materialise": "replace a run's links to models by copies, so that it can be moved",
    "completion": "print a script that completes this command line in a shell",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        the exit code: 0, 1 for bad input (2 for a command line that argparse refuses), 130 for Ctrl-C, 141 where the
        reader of a pipe has gone (files that were asked for are written all the same).

    Raises:
        SystemExit: 129 or 143, for SIGHUP and SIGTERM.
    """
    try:
        with unwinding(), guarded_streams():
            arguments = make_parser().parse_args(argv)
            _module(arguments.command).run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141
    except Exception as error:
        sentence = _explain(error)
        if sentence is None:
            raise
        print(f"logitfusion: {sentence}", file=sys.stderr)
        return 1
    return 0


def _explain(error: Exception) -> str | None:
    """The sentence for errors that are not the program's own, else None."""
    if isinstance(error, UserError):
        return str(error)
    match find_memory_error(error):
        case "machine":
            return "There is not enough memory; lower --batch-size."
        case "gpu":
            return "The GPU's memory is used up; lower --batch-size, or use a larger GPU."
    full = find_disk_error(error)
    return full and f"A file could not be read or written: {full}; nothing earlier was changed."


def make_parser() -> argparse.ArgumentParser:
    """All that the command line understands."""
    parser = argparse.ArgumentParser(
        prog="logitfusion", description="A large language model steered by small experts.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"logitfusion {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, words in COMMANDS.items():
        _module(name).add_arguments(add_command(subparsers, name, words))
    return parser


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"logitfusion.cli.{command.replace('-', '_')}")
