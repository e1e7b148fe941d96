"""A command line of each command that works and is done at once, and the options that take a value."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tiny_encoders import COLOURS, write_clip, write_image_tower, write_pictures

from logitfusion.cli import make_parser
from logitfusion.files import write_jsonl

# A config of as few jobs as there can be.
SMALL = """run: small
models: {large: {source: random, hidden_size: 16}}
tasks: {sums: {harness: sums, validation: 2, test: 2}}
fusion: {large: large, methods: {large: {model: large}}}
"""


def write_inputs(folder: Path) -> None:
    """Files that the command lines name, but for models."""
    write_jsonl(folder / "pairs.jsonl", [{"context": "a", "continuation": "b"}])
    write_jsonl(folder / "prompts.jsonl", [{"prompt": "a"}, {"prompt": "b c"}])
    write_jsonl(folder / "texts.jsonl", [{"prompt": "a", "response": "b c"}])
    (folder / "small.yaml").write_text(SMALL)
    (folder / "names.json").write_text(json.dumps({"red": "red", "green": "green"}))


def write_pictures_and_encoders(folder: Path) -> None:
    """What the few-shot commands read."""
    write_clip(folder / "clip")
    write_image_tower(folder / "aux.safetensors", "test_resnet", 2)
    for seed, name in enumerate(("red", "green")):
        write_pictures(folder / "images" / name, COLOURS[name], 2, seed=seed)


def command_lines(folder: Path, models: dict[str, Path]) -> dict[str, list[str]]:
    """By the command's name, what works."""
    fused = ["--large", models["large"], "--base", models["base"], "--expert", models["expert_a"]]
    texts = ["--teacher", models["base"], "--texts", folder / "texts.jsonl", "--output", folder / "cache"]
    encoders = ["--clip", folder / "clip", "--auxiliary", f"checkpoint:test_resnet:{folder / 'aux.safetensors'}"]
    head, images = folder / "head.safetensors", folder / "images"
    quick = ["--method", "amu", "--set", "epochs=1", "--views", "1", "--compare", "never"]
    lines = {
        "generate": [*fused, "--prompts", folder / "prompts.jsonl", "--max-new-tokens", 3],
        "score": [*fused, "--pairs", folder / "pairs.jsonl"],
        "distill-cache": [*texts, "--k", 3],
        "distill": [models["base"], *texts, "--uld", 0.5, "--k", 3, "--steps", 1, "--batch-size", 1],
        "fewshot fit": ["--images", images, *encoders, *quick, "--output", head],
        "fewshot predict": ["--images", images / "red", *encoders, "--head", head],
        "init": ["--output", folder / "mine.yaml", "mine"],
        "plan": ["--gpu", "none", folder / "small.yaml"],
        "materialise": [models["base"]],
    }
    return {name: [*name.split(), *map(str, words)] for name, words in lines.items()}


def find_parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command, or of an action of it."""
    parser = make_parser()
    for word in name.split():
        (choices,) = [one.choices for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
        parser = choices[word]
    return parser


def options_with_a_value(name: str) -> Iterator[argparse.Action]:
    """Those that are named and take one."""
    for action in find_parser(name)._actions:
        if action.option_strings and action.nargs != 0:
            yield action
