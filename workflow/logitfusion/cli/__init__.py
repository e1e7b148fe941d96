"""The command ``logitfusion``: what it understands, and one sentence where it can't be done.

Each subcommand is a module here, imported when it is asked for: ``--help`` needs no torch.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from logitfusion import __version__
from logitfusion.cli import fewshot
from logitfusion.errors import UserError, find_memory_error
from logitfusion.files import find_disk_error

# Whoever loads a file of weights, torchvision or peft, say: tensors only, never a pickle that runs code.
os.environ.setdefault("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        the exit code: 0, 1 for bad input (2 for a command line that argparse refuses), 130 for Ctrl-C, 141 where the
        reader of a pipe has gone.
    """
    arguments = _make_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for terminals that don't know all characters
    try:
        module = arguments.command.replace("-", "_")
        importlib.import_module(f"logitfusion.cli.{module}").run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    return full and f"A file could not be written: {full}; nothing earlier was changed."


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="logitfusion", description="A large language model steered by small experts.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"logitfusion {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(_add_command(subparsers, "generate", "continue prompts"))
    _add_score(_add_command(subparsers, "score", "how likely given continuations are"))
    _add_evaluate(_add_command(subparsers, "evaluate", "measure tasks of lm-evaluation-harness"))
    _add_distill_cache(_add_parser(subparsers, "distill-cache", "write what a teacher makes of texts into a cache"))
    fewshot.add_arguments(_add_parser(subparsers, "fewshot", "classify your own images by CLIP, corrected by a few"))
    return parser


def _add_parser(subparsers: argparse._SubParsersAction, name: str, words: str) -> argparse.ArgumentParser:
    return subparsers.add_parser(name, help=words, description=f"{words.capitalize()}.", allow_abbrev=False)


def _add_command(subparsers: argparse._SubParsersAction, name: str, words: str) -> argparse.ArgumentParser:
    """A subcommand with the options that all fusions share."""
    parser = _add_parser(subparsers, name, words)
    models = parser.add_argument_group("models")
    models.add_argument("--large", type=Path, required=True, metavar="DIR", help="the model that is steered")
    models.add_argument("--base", type=Path, metavar="DIR", help="the small model that the experts were trained from")
    models.add_argument("--expert", type=Path, nargs="+", action="extend", default=[], metavar="DIR")
    fusion = parser.add_argument_group("fusion")
    fusion.add_argument(
        "--weights", default="dynamic", metavar="dynamic|NUMBER|N,N", help="solved at each token (default) or fixed"
    )
    fusion.add_argument("--rule", help="how weights are solved, such as grid or newton; a wrong name lists all")
    fusion.add_argument("--selection", help="how several experts share the steering; a wrong name lists all")
    fusion.add_argument("--bounds", type=float, nargs=2, metavar=("LOW", "HIGH"), help="of weights (default: 0 2)")
    fusion.add_argument("--step", type=float, help="the grid's distance (default: 0.1)")
    fusion.add_argument(
        "--trust", type=float, help="in solved weights; below 1 they are drawn to the anchor (default: 1)"
    )
    fusion.add_argument(
        "--anchor", type=float, help="sum of the weights where solved ones are not trusted (default: 1)"
    )
    fusion.add_argument(
        "--familiar", type=float, metavar="NATS", help="steer only where the base reads the prompt this well (a token)"
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="rows computed together (default: 16)")
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Continue prompts. One prompt of --prompt or of the standard input streams its text; several prompts, and those"
        " of a file, give one JSON object a line, in their order."
    )
    source = parser.add_argument_group(
        "prompts", "by default the standard input is one prompt"
    ).add_mutually_exclusive_group()
    source.add_argument("--prompt", nargs="+", action="extend", metavar="TEXT")
    source.add_argument(
        "--prompts", metavar="FILE", help='a prompt a line: JSON with "prompt", or plain text (- : stdin)'
    )
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="(default: 256)")
    decoding.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default)")
    decoding.add_argument("--top-p", type=float, default=1.0, metavar="P")
    decoding.add_argument("--top-k", type=int, default=0, metavar="K")
    decoding.add_argument("--seed", type=int, help="of the draws; prompt number i draws with seed + i")
    decoding.add_argument(
        "--stop", nargs="+", action="extend", default=[], metavar="TEXT", help="end before it; $'\\n' is a new line"
    )
    decoding.add_argument("--speculative", action="store_true", help="the same texts in fewer steps of the large model")
    decoding.add_argument("--draft-tokens", type=int, metavar="N", help="of a speculative step (default: adapts)")
    decoding.add_argument("--chat", action="store_true", help="prompts are messages of a user to a chat model")
    files = parser.add_argument_group("files")
    files.add_argument("--output", type=Path, metavar="FILE.jsonl", help="the continuations, one JSON object a line")
    files.add_argument("--trace", type=Path, metavar="FILE.jsonl", help="the weights of all tokens, one token a line")


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.description = "How likely continuations are after their contexts: natural log-likelihoods, as JSON lines."
    parser.add_argument(
        "--pairs",
        required=True,
        metavar="FILE.jsonl",
        help='JSON objects with "context" and "continuation" (- : stdin)',
    )
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="instead of the standard output")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tasks", required=True, metavar="A,B", help="tasks, groups or patterns of lm-evaluation-harness"
    )
    parser.add_argument("--include-path", type=Path, metavar="DIR", help="with definitions of further tasks (YAML)")
    parser.add_argument("--limit", type=float, metavar="N", help="examples of each task (below 1: a share of them)")
    parser.add_argument(
        "--num-fewshot", type=int, metavar="N", help="examples in each prompt (default: the task's own)"
    )
    parser.add_argument("--apply-chat-template", action="store_true", help="examples are messages to a chat model")
    parser.add_argument(
        "--max-length", type=int, metavar="N", help="tokens that are read at most (default: the model's)"
    )
    parser.add_argument("--speculative", action="store_true", help="the same texts in fewer steps of the large model")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="all results and the settings that led to them"
    )


def _add_distill_cache(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the k likeliest tokens of every response position, as a teacher sees them, into a cache that students"
        " are trained from. A killed run goes on where it was; shards that are there stay."
    )
    parser.add_argument("--teacher", type=Path, metavar="DIR", help="the model that reads the texts")
    parser.add_argument(
        "--texts", metavar="FILE.jsonl", help='JSON objects with "prompt" and "response" (- : stdin), one a line'
    )
    parser.add_argument("--k", type=int, metavar="K", help="tokens kept of each position")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the cache")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="files of the cache (default: 1)")
    parser.add_argument("--shard", type=int, metavar="I", help="make only this one, from 1 to N (default: all)")
    parser.add_argument(
        "--template", choices=("plain", "chat"), default="plain", help="how prompt and response are put together"
    )
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longer texts are cut (default: none is)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="texts read together (default: 16)")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="of the teacher (default: fp32)")
    parser.add_argument(
        "--verify", type=Path, metavar="DIR", help="check all bytes of this cache and say what it is, nothing else"
    )
