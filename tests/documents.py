"""The fenced blocks of README.md and docs/: where they stand, and what a block says that can't run in a test."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import yaml
from checkout import ROOT

from logitfusion import cli
from logitfusion.config.load import resolve_config

RUN = ("bash", "python", "yaml")
READ = ("json", "text", "mermaid", "bibtex", "csv", "html", "{toctree}", "{eval-rst}")  # no reader types these
# What a document may call beside this project's own commands; not all of it is on every machine.
_PROGRAMS = """
cd cp mkdir ls cat echo printf export source set head tail grep less rm mv ln time test cut sort wc open xdg-open git
pip pipx uv conda mamba npm curl tmux screen ssh scp rsync tar unzip nvidia-smi torchrun pytest ruff pre-commit
sinfo squeue scancel srun sbatch sacct scontrol module eval complete
"""
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+|:::+) *(?P<language>[^\s`]*).*$")
_REASON = re.compile(r"^ *<!-- not (?P<kind>run|a config): (?P<reason>.+?) -->$")
_COMMENT = re.compile(r"""('[^']*'|"[^"]*")|(?:^|(?<=\s))#.*""")  # what is quoted is none
_HERE_DOCUMENT = re.compile(r"<<-? *(['\"]?)(\w+)\1(.*?)\n(.*?)\n\2(?=\n|$)", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block; ``reason`` says why it can't run."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def list_files(*chosen: str) -> list[str]:
    """Every file of the checkout, work that is not committed yet included; or those that ``git ls-files`` chooses."""
    listed = subprocess.run(
        ["git", "ls-files", "--exclude-standard", *(chosen or ("--cached", "--others"))],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())


def list_pages() -> list[str]:
    """Every Markdown page of the checkout that people read."""
    return [
        name for name in list_files() if name.endswith(".md") and not name.startswith(("CHANGELOG", "docs/generate/"))
    ]


def find_blocks(page: str, text: str) -> list[Block]:
    """The blocks of a page, from top to bottom."""
    blocks, lines = [], text.splitlines()
    number = 0
    while number < len(lines):
        if opened := _FENCE.match(lines[number]):
            indent, fence = opened["indent"], opened["fence"]
            end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == fence)
            marked = _REASON.match(lines[number - 1]) if number else None
            inner = "\n".join(line.removeprefix(indent) for line in lines[number + 1 : end]) + "\n"
            blocks.append(Block(page, number + 1, opened["language"], inner, marked and marked["reason"]))
            number = end
        number += 1
    return blocks


# Shell


def check_shell(block: Block, written: set[str]) -> None:
    """Each command line of a block that does not run is one that its program understands.

    Args:
        written: files that blocks of the page have written so far; those of this block are added.
    """
    syntax = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert syntax.returncode == 0, f"{block.place}: {syntax.stderr}"
    for words in split_commands(block.text, written):
        try:
            _check_command(words, written)
        except (AssertionError, SystemExit) as error:
            raise AssertionError(f"{block.place}: {' '.join(words)}: {error}") from error
        note_written(words, written)


def note_written(words: list[str], written: set[str]) -> None:
    """Add the file that a command leaves behind to those that a page has written."""
    match words:
        case ["cp" | "mv", *_, target]:
            written.add(target)
        case ["logitfusion", "init", *rest]:
            written.update(f"config/{word}.yaml" for word in rest if not word.startswith("-"))


def split_commands(text: str, written: set[str]) -> list[list[str]]:
    """The words of each simple command; what is redirected into a file is noted as written."""
    text = _HERE_DOCUMENT.sub(r"\3", text).replace("\\\n", " ").replace("$'", "'")
    commands: list[list[str]] = []
    for line in text.splitlines():
        lexer = shlex.shlex(_COMMENT.sub(lambda found: found[1] or "", line), posix=True, punctuation_chars="();<>|&")
        lexer.commenters, lexer.whitespace_split = "", True
        command: list[str] = []
        tokens = iter(list(lexer))
        for token in tokens:
            if token in (">", ">>"):
                written.add(next(tokens))
            elif token in ("<", ">&", "&>"):
                next(tokens)
            elif set(token) <= set("();|&"):
                commands.append(command)
                command = []
            else:
                command.append(token)
        commands.append(command)
    return [command for command in commands if command]


def _check_command(words: list[str], written: set[str]) -> None:
    while words and re.match(r"^\w+=", words[0]):
        words = words[1:]
    match words:
        case []:
            return
        case ["make", *targets]:
            for target in targets:
                assert "=" in target or target in find_targets(), f"the Makefile has no target {target!r}"
        case ["logitfusion", *arguments]:
            cli.make_parser().parse_args(arguments)
        case ["snakemake", *arguments]:
            _check_snakemake(arguments, written)
        case ["python" | "python3", "-m", module, *_]:
            assert importlib.util.find_spec(module) is not None, f"there is no module {module}"
        case ["python" | "python3", program, *_] if not program.startswith("-"):
            assert program in written or (ROOT / program).is_file(), f"there is no file {program}"
        case ["torchrun" | "accelerate", *launched] if "-m" in launched:
            _check_command(launched[launched.index("-m") + 1 :], written)
        case ["sudo" | "srun" | "nohup" | "time", *rest]:
            inner = [word for word in rest if not word.startswith("-")]
            assert inner, "nothing to run"
        case [program, *_]:
            known = program in _PROGRAMS.split() or program.startswith((".venv/bin/", "$")) or shutil.which(program)
            assert known, f"there is no command {program!r}"


def _check_snakemake(arguments: list[str], written: set[str]) -> None:
    from snakemake.cli import get_argument_parser

    known = get_argument_parser().parse_args(arguments)
    for profile in known.profile or []:
        assert (ROOT / profile / "profile.yaml").is_file(), f"there is no profile {profile}"
    for config in known.configfile or []:
        assert str(config) in written or (ROOT / config).is_file(), f"there is no config {config}"


def find_targets() -> set[str]:
    """The targets that the Makefile offers."""
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def find_make_calls(text: str) -> set[str]:
    """The targets that a text calls as code: in backquotes or parentheses, or as a step of CI."""
    return set(re.findall(r"(?:`|\(|run: )make ([a-z][a-z-]*)(?=[`) \n])", text))


# Python and YAML


def check_python(block: Block) -> None:
    """A block that does not run is Python, and what it imports of this project is there."""
    for node in ast.walk(ast.parse(block.text, block.place)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("logitfusion"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block.place}: {node.module} has no {alias.name}"


def check_config(block: Block) -> None:
    """A block of YAML is a config, or sections that fit into the demo's."""
    given = yaml.safe_load(block.text)
    assert isinstance(given, dict), f"{block.place}: no mapping of keys to values"
    whole = given if "run" in given else _insert(yaml.safe_load((ROOT / "config/config.yaml").read_text()), given)
    resolve_config(whole)


_NAMED = {"methods", "teachers", "datasets", "auxiliaries"}  # mappings of a section whose entries have names


def _insert(config: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The config with the given entries of its sections added or in place of those of the same name."""
    for section, entries in given.items():
        mine = config.get(section)
        if not isinstance(mine, dict) or not isinstance(entries, dict):
            config[section] = entries
            continue
        for key, value in entries.items():
            named = key in _NAMED and isinstance(mine.get(key), dict)
            mine[key] = mine[key] | value if named else value
    return config
