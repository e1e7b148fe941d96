"""A task for a template's config: one that lm-evaluation-harness or our library knows, or lines of the user's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from logitfusion.cli._inputs import read_field, read_rows, read_text
from logitfusion.errors import UserError
from logitfusion.formats.text import check_unicode
from logitfusion.tasks.definition import INVALID, find_definitions

SIZES = {"train": 240, "validation": 36, "test": 100}  # sciq_passages, the smallest of the library, has 376 documents
NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
TIME = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d|\Z)")


@dataclass(frozen=True)
class WrittenTask:
    """A task of a config, and the definition that it takes.

    Attributes:
        name: in the config.
        entry: its value there.
        file: where its definition is to be written; None if it is known.
        definition: the text of that file.
    """

    name: str
    entry: dict[str, Any]
    file: Path | None = None
    definition: str = ""


def describe_task(spec: str, *, validation: bool, folder: Path) -> WrittenTask:
    """The entry of a task: one that is known by name, or lines of JSON with ``prompt`` and ``answer``.

    Args:
        validation: whether the track chooses anything.
        folder: where a definition is written.

    Raises:
        UserError: neither, a task without a training split, or a file of too few lines.
    """
    check_unicode(spec, "--task")
    if spec.endswith((".jsonl", ".json")):
        rows = [_read_row(row, place) for place, row in read_rows(spec, read_text(spec))]
        _check_times(spec, rows)
        name, sizes = _name_of(Path(spec).stem), _split(spec, len({prompt for prompt, _ in rows}))
        file, definition = folder / f"{name}.yaml", define(name, spec, [answer for _, answer in rows])
        return WrittenTask(
            name, {"harness": name, "include_path": str(folder), **_fit(sizes, validation)}, file, definition
        )
    _check_known(spec)
    return WrittenTask(_name_of(spec), {"harness": spec, **_fit(dict(SIZES), validation)})


def _read_row(row: Any, place: str) -> tuple[str, str]:
    if isinstance(row, dict) and "messages" in row and "prompt" not in row:
        raise UserError(
            f"{place} is a chat, which is learned from and not measured: name the file among a task's texts, in a"
            " config (docs/tutorials/texts.md)."
        )
    prompt, answer = read_field(row, "prompt", place), read_field(row, "answer", place)
    if not answer.strip() or "\n" in answer.strip():  # nothing that is generated up to a line's end could be right
        raise UserError(
            f"{place} needs an answer of one line; leave it out, or write a definition of your own"
            " (docs/tutorials/own_task.md)."
        )
    return prompt, answer


def _check_times(path: str, rows: list[tuple[str, str]]) -> None:
    """Refuse fields that datasets reads as times, and would write with another text: a day with its midnight."""
    for field, texts in zip(("prompt", "answer"), zip(*rows, strict=True), strict=False):
        if all(map(TIME.match, texts)):
            raise UserError(
                f'{path} has nothing but times under "{field}" ({texts[0]}), which datasets would read as times and'
                " write in another form; put a word in front of them."
            )


def define(name: str, path: str, answers: list[str]) -> str:
    """A definition for lines with a prompt and an answer: numbers, one of a few choices, or short texts.

    Args:
        path: of the file with the lines.
        answers: of all lines.

    Returns:
        YAML of lm-evaluation-harness.
    """
    kinds = list(dict.fromkeys(answer.strip() for answer in answers))
    words = max((len(answer.split()) for answer in kinds), default=1)
    metric: dict[str, Any] = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    if all(re.fullmatch(r"-?\d+(\.\d+)?", answer) for answer in kinds):
        form, pattern = "a number", rf"\A\s*({NUMBER})"
        metric["regexes_to_ignore"] = [",", r"\.0+$"]
    elif 2 <= len(kinds) <= 10 and len(kinds) * 4 <= len(answers):
        longest_first = "|".join(map(re.escape, sorted(kinds, key=len, reverse=True)))
        form, pattern = "one of some choices", rf"(?i)\A\s*({longest_first})(?!\w)"
        metric["ignore_case"] = True
    else:
        form, pattern = (
            "a short text",
            rf"\A\s*(\S+(?:[^\S\n]+\S+){{0,{max(words, 5) - 1}}})[^\S\n]*(?:\n|\Z)",
        )
        metric |= {"ignore_case": True, "ignore_punctuation": True, "regexes_to_ignore": [r"(?i)\b(?:a|an|the)\s+"]}
    content = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"rows": path}},
        "training_split": "rows",
        "test_split": "rows",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer | trim}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4 * words + 4, "do_sample": False},
        "filter_list": [
            {
                "name": "none",
                "filter": [
                    {"function": "regex", "regex_pattern": pattern, "fallback": INVALID},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [metric],
        "metadata": {"version": 1, "split_seed": 0},
    }
    head = (
        f"# The lines of {path}: an answer is {form} at the beginning of what is generated; all else is counted as"
        f" {INVALID}.\n# A task of lm-evaluation-harness: https://github.com/EleutherAI/lm-evaluation-harness\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def _check_known(name: str) -> None:
    """Refuse what is no task's name, and what has nothing to learn from."""
    found, elsewhere = find_definitions(name, None)
    if elsewhere:
        from logitfusion.tasks.find import find_folders
        from logitfusion.tasks.harness import load_leaves

        try:
            folders = find_folders(name, None)
        except UserError as error:
            raise UserError(f"{error} Or give a FILE.jsonl of your own.") from None
        configs = [leaf.config.to_dict() for leaf in load_leaves(name, folders)["tasks"].values()]
    else:
        configs = [one.content for one in found if "group" not in one.content]
    if any(config.get("training_split") is None for config in configs):
        raise UserError(
            f"The task {name!r} has no training split, and an expert is trained on one; name another task, or write"
            " its entry into a config by hand, with a training_split of its data set."
        )


def _name_of(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:64] or "mine"


def _split(path: str, count: int) -> dict[str, int]:
    """A fifth of the lines tests, a tenth validates, the rest is learnt from."""
    if count < 10:
        raise UserError(f"{path} has {count} different lines; a task needs at least 10, better hundreds.")
    sizes = {"validation": min(count // 10, 100), "test": min(count // 5, 500)}
    return {"train": count - sum(sizes.values()), **sizes}


def _fit(sizes: dict[str, int], validation: bool) -> dict[str, int]:
    """Sizes of the splits; where nothing is chosen on validation documents, they are learnt from."""
    if not validation:
        sizes["train"] += sizes.pop("validation")
    return sizes
