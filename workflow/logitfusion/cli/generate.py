"""Continue prompts, streaming one or writing several as JSON lines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from logitfusion.cli._chat import Prompt, add_chat, check_chat, encode_chats, read_prompt
from logitfusion.cli._fusion import add_fusion, fusion_inputs, load_fusion
from logitfusion.cli._inputs import be_quiet, read_rows, read_text
from logitfusion.cli._options import add_options, read_section
from logitfusion.cli._outputs import claim_outputs
from logitfusion.config.decoding import DecodingOptions
from logitfusion.errors import UserError
from logitfusion.files import write_jsonl
from logitfusion.formats.json import format_json, parse_json
from logitfusion.formats.text import check_unicode, split_lines

if TYPE_CHECKING:
    from logitfusion.fusion import FusedLM, Generation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its own options and those of a fusion."""
    parser.description = (
        "Continue prompts. One prompt of --prompt or of the standard input streams its text; several prompts, and those"
        " of a file, give one JSON object a line, in their order. A text ends by the end token of any of the models;"
        " what else their generation_config.json asks for (penalties, sampling) is not applied."
    )
    add_fusion(parser)
    source = parser.add_argument_group(
        "prompts", "by default the standard input is one prompt"
    ).add_mutually_exclusive_group()
    source.add_argument("--prompt", nargs="+", action="extend", metavar="TEXT", help="one prompt, or several")
    source.add_argument(
        "--prompts",
        metavar="FILE",
        help='a prompt a line: JSON with "prompt" (or, with --chat, "messages"), or plain text (- : stdin)',
    )
    decoding = parser.add_argument_group("decoding")
    add_options(decoding, DecodingOptions)
    add_chat(parser.add_argument_group("chat"))
    files = parser.add_argument_group("files")
    files.add_argument("--output", type=Path, metavar="FILE.jsonl", help="the continuations, one JSON object a line")
    files.add_argument("--trace", type=Path, metavar="FILE.jsonl", help="the weights of all tokens, one token a line")


def run(arguments: argparse.Namespace) -> None:
    be_quiet()
    claim_outputs(
        {"--output": arguments.output, "--trace": arguments.trace},
        {"--prompts": arguments.prompts, **fusion_inputs(arguments)},
    )
    check_chat(arguments)
    options = read_section(DecodingOptions, arguments)
    prompts = _read_prompts(arguments)
    if not prompts:
        raise UserError("There are no prompts; give --prompt, --prompts or text on the standard input.")
    lm = load_fusion(arguments)
    if arguments.chat:
        inputs: Sequence[Any] = encode_chats(lm.tokenizer, prompts, arguments)
    else:
        inputs = [prompt.row["prompt"] for prompt in prompts]
    if arguments.prompts is None and len(prompts) == 1:
        stream = Stream(sys.stdout, options.stop)
        generations = lm.generate(inputs, options, on_token=lambda _, generation: stream.show(generation.text))
        stream.finish(generations[0].text)
    else:
        with tqdm(total=len(prompts), unit=" prompts", disable=None) as bar:  # None: only on a terminal
            generations = lm.generate(inputs, options, on_batch=bar.update)
        if arguments.output is None:
            for row in _rows(prompts, generations):
                print(format_json(row))
    if arguments.output is not None:
        write_jsonl(arguments.output, _rows(prompts, generations))
    if arguments.trace is not None:
        write_jsonl(arguments.trace, _trace(lm, generations, name_experts(arguments.expert)))


def _read_prompts(arguments: argparse.Namespace) -> list[Prompt]:
    """The prompts; blank lines of a file are none."""
    if arguments.prompt is not None:
        texts = [check_unicode(prompt, "A prompt") for prompt in arguments.prompt]
    elif arguments.prompts is None:
        text = read_text("-").removesuffix("\n").removesuffix("\r")
        texts = [text] if text else []
    else:
        text = read_text(arguments.prompts)
        if text.lstrip().startswith("{"):
            rows = read_rows(arguments.prompts, text)
            return [read_prompt(row, place, chat=arguments.chat) for place, row in rows]
        _refuse_list(arguments.prompts, text)
        texts = [line for line in split_lines(text) if line.strip()]
    return [Prompt(f"Prompt {number}", {"prompt": text}) for number, text in enumerate(texts)]


def _refuse_list(path: str, text: str) -> None:
    """A whole list of objects is no plain text, though it begins like none of the lines that are JSON."""
    found = None
    if text.lstrip().startswith("["):
        with suppress(UserError):
            found = parse_json(text, path)
    if isinstance(found, list) and any(isinstance(item, dict) for item in found):
        raise UserError(f"{path} is one JSON list; write its objects one a line, without commas between them.")


def _rows(prompts: list[Prompt], generations: list[Generation]) -> Iterator[dict[str, Any]]:
    for prompt, generation in zip(prompts, generations, strict=True):
        yield prompt.row | {
            "text": generation.text,
            "finish_reason": generation.finish_reason,
            "tokens": len(generation.token_ids),
        }


def _trace(lm: FusedLM, generations: list[Generation], names: list[str]) -> Iterator[dict[str, Any]]:
    """One row a token: the weights of all experts and the one that steered, null where none did."""
    for number, generation in enumerate(generations):
        steps = zip(generation.token_ids, generation.weights, generation.expert, strict=True)
        for position, (token, weights, expert) in enumerate(steps):
            yield {
                "prompt": number,
                "position": position,
                "token": lm.tokenizer.decode([token]),
                "token_id": token,
                "weights": dict(zip(names, weights, strict=True)),
                "expert": names[expert] if expert >= 0 else None,
            }


def name_experts(folders: Sequence[Path]) -> list[str]:
    """The folders' names if they tell the experts apart, else their whole paths, else with their places."""
    for names in ([folder.name for folder in folders], [str(folder) for folder in folders]):
        if len(set(names)) == len(names):
            return names
    return [f"{place}:{folder}" for place, folder in enumerate(folders)]


class Stream:
    """Writes a text as it grows, as far as it is certain: no half characters, nothing that a stop string may cut."""

    def __init__(self, file: TextIO, stop: Sequence[str]) -> None:
        self.file, self.stop, self.written = file, stop, 0

    def show(self, text: str) -> None:
        """Write what is new and certain in the text so far."""
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")  # what a character is whose last bytes are still to come
        self._write(text[: len(text) - self._held_back(text)])

    def finish(self, text: str) -> None:
        """Write the rest of the whole text and end the line."""
        self._write(text.rstrip("\N{REPLACEMENT CHARACTER}"))
        print(file=self.file, flush=True)

    def _held_back(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        beginnings = [word[:length] for word in self.stop for length in range(1, len(word))]
        return max((len(beginning) for beginning in beginnings if text.endswith(beginning)), default=0)

    def _write(self, text: str) -> None:
        if len(text) > self.written:
            print(text[self.written :], end="", file=self.file, flush=True)
            self.written = len(text)
