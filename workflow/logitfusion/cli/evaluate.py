"""Measure tasks of lm-evaluation-harness."""

from __future__ import annotations

import argparse
import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfusion.cli._fusion import add_fusion, read_fusion
from logitfusion.cli._inputs import be_quiet, check_outputs
from logitfusion.cli._options import add_options, read_section
from logitfusion.config.decoding import Decoding
from logitfusion.errors import UserError
from logitfusion.files import find_disk_error, write_json

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its own options and those of a fusion."""
    add_fusion(parser)
    add_options(parser, Decoding, "batch_size", "speculative")
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
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="all results and the settings that led to them"
    )


def run(arguments: argparse.Namespace) -> None:
    be_quiet()
    check_outputs(arguments.output)
    settings = _settings(arguments)
    from lm_eval.utils import handle_non_serializable, make_table

    from logitfusion.models.load import use_threads

    tasks, manager = _find_tasks(arguments.tasks, arguments.include_path)
    use_threads()
    results = _evaluate(arguments, settings, tasks, manager)
    print(make_table(results))
    if results.get("groups"):
        print(make_table(results, "groups"))
    if arguments.output is not None:
        write_json(arguments.output, json.loads(json.dumps(results, default=handle_non_serializable)))


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ``FusedLMEval``, all of them JSON: the harness keeps them with its results."""
    folders = {"large": str(arguments.large), "expert": [str(folder) for folder in arguments.expert]}
    if arguments.base is not None:
        folders["base"] = str(arguments.base)
    decoding = read_section(Decoding, arguments).dump(include={"batch_size", "speculative"})
    if arguments.max_length is not None and arguments.max_length < 1:
        raise UserError("--max-length must be at least 1.")
    return {**folders, **read_fusion(arguments).dump(), **decoding, "max_length": arguments.max_length}


def _find_tasks(text: str, include_path: Path | None) -> tuple[list[str], TaskManager]:
    """The names of the tasks that are asked for, and what knows their definitions."""
    from lm_eval.tasks import TaskManager

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError("--tasks names no task.")
    if include_path is not None:
        if not include_path.is_dir():
            raise UserError(f"The folder of task definitions {include_path} does not exist.")
        # The harness's own definitions are thousands, and take ten seconds to read.
        manager = TaskManager(include_path=str(include_path), include_defaults=False)
        if set(names) <= set(manager.all_subtasks):
            return names, manager
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    return [name for pattern in names for name in _match(pattern, manager)], manager


def _match(pattern: str, manager: TaskManager) -> list[str]:
    found = manager.match_tasks([pattern])
    if not found:
        close = difflib.get_close_matches(pattern, manager.all_tasks, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "lm-eval ls tasks lists them."
        raise UserError(f"There is no task {pattern!r}: {hint}")
    return found


def _evaluate(
    arguments: argparse.Namespace, settings: dict[str, Any], tasks: list[str], manager: TaskManager
) -> dict[str, Any]:
    import lm_eval

    import logitfusion.fusion.lm_eval  # noqa: F401, its model is registered by the import
    from logitfusion.models.load import first_line

    try:
        return lm_eval.simple_evaluate(
            model="logitfusion",
            model_args=settings,
            tasks=tasks,
            task_manager=manager,
            num_fewshot=arguments.num_fewshot,
            limit=arguments.limit,
            apply_chat_template=arguments.apply_chat_template,
            log_samples=False,
        )
    except OSError as error:  # of data that has to be downloaded, mostly
        if find_disk_error(error) is not None:
            raise
        raise UserError(f"The data of {', '.join(tasks)} can't be read ({first_line(error)}).") from error
