"""Measure tasks of lm-evaluation-harness."""

from __future__ import annotations

import argparse
import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfusion.cli._fusion import add_fusion, fusion_inputs, read_fusion
from logitfusion.cli._harness import Asked, add_evaluation, read_evaluation, read_pairs, refuse_unsafe
from logitfusion.cli._inputs import be_quiet
from logitfusion.cli._options import add_options, read_section
from logitfusion.cli._outputs import claim_outputs
from logitfusion.config.decoding import Decoding
from logitfusion.config.loading import Placed
from logitfusion.errors import UserError
from logitfusion.evaluate.faults import explaining
from logitfusion.files import write_json
from logitfusion.formats.json import format_json
from logitfusion.tasks.definition import LIBRARY, find_definitions

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its own options and those of a fusion."""
    add_fusion(parser)
    add_options(parser, Decoding, "batch_size", "speculative")
    parser.add_argument(
        "--tasks", required=True, metavar="A,B", help="tasks, groups or patterns of lm-evaluation-harness"
    )
    add_options(parser, Asked, "max_length", filled=True)
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="all results and the settings that led to them"
    )
    parser.add_argument(
        "--log-samples", action="store_true", help='with every prompt and answer, under "samples" in the output'
    )
    add_evaluation(parser)


def run(arguments: argparse.Namespace) -> None:
    be_quiet()
    claim_outputs(
        {"--output": arguments.output}, {"--include-path": arguments.include_path, **fusion_inputs(arguments)}
    )
    settings, options = _settings(arguments), read_evaluation(arguments)
    metadata = read_pairs("--metadata", arguments.metadata)
    from lm_eval.utils import handle_non_serializable, make_table

    from logitfusion.models.load import use_threads

    tasks, manager = _find_tasks(arguments.tasks, arguments.include_path, metadata and settings | metadata)
    if not arguments.confirm_run_unsafe_code:
        refuse_unsafe(tasks, manager)
    use_threads()
    results = _evaluate(settings, tasks, manager, options)
    print(make_table(results))
    if results.get("groups"):
        print(make_table(results, "groups"))
    if arguments.output is not None:
        write_json(arguments.output, json.loads(format_json(results, default=handle_non_serializable)))


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ``FusedLMEval``, all of them JSON: the harness keeps them with its results."""
    folders = {"large": str(arguments.large), "expert": [str(folder) for folder in arguments.expert]}
    if arguments.base is not None:
        folders["base"] = str(arguments.base)
    decoding = read_section(Decoding, arguments).dump(include={"batch_size", "speculative"})
    placed = read_section(Placed, arguments).dump()
    placed["attn_implementation"] = placed.pop("attention")
    settings = {**folders, **read_fusion(arguments).dump(), **decoding, **placed, "max_length": arguments.max_length}
    if isinstance(arguments.apply_chat_template, str):
        settings["chat_template_name"] = arguments.apply_chat_template
    if arguments.chat_template_args is not None:
        from logitfusion.fusion.lm_eval_arguments import read_template_arguments

        settings["chat_template_args"] = read_template_arguments(
            arguments.chat_template_args, None, "--chat-template-args"
        )
    return settings


def _find_tasks(
    text: str, include_path: Path | None, metadata: dict[str, Any] | None = None
) -> tuple[list[str], TaskManager]:
    """The names of the tasks that are asked for, and what knows their definitions.

    Args:
        metadata: what tasks may read that make their data.
    """
    from lm_eval.tasks import TaskManager

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError("--tasks names no task.")
    if include_path is not None:
        if not include_path.is_dir():
            raise UserError(f"The folder of task definitions {include_path} does not exist.")
        # The harness's own definitions are thousands, and take ten seconds to read.
        manager = TaskManager(include_path=str(include_path), include_defaults=False, metadata=metadata)
        if set(names) <= set(manager.all_subtasks):
            return names, manager
    manager = TaskManager(include_path=None if include_path is None else str(include_path), metadata=metadata)
    return [name for pattern in names for name in _match(pattern, manager)], manager


def _match(pattern: str, manager: TaskManager) -> list[str]:
    if pattern.endswith((".yaml", ".yml")):
        raise UserError(
            f"--tasks names tasks, not files: give the folder of {pattern} as --include-path, and its task."
        )
    found = manager.match_tasks([pattern])
    if not found:
        if find_definitions(pattern, None)[0]:
            raise UserError(f"The task {pattern!r} is one of our library: give its folder, --include-path {LIBRARY}.")
        close = difflib.get_close_matches(pattern, manager.all_tasks, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "lm-eval ls tasks lists them."
        raise UserError(f"There is no task {pattern!r}: {hint}")
    return found


def _evaluate(
    settings: dict[str, Any], tasks: list[str], manager: TaskManager, options: dict[str, Any]
) -> dict[str, Any]:
    import lm_eval

    import logitfusion.fusion.lm_eval  # noqa: F401, its model is registered by the import

    with explaining(", ".join(tasks)):
        return lm_eval.simple_evaluate(
            model="logitfusion", model_args=settings, tasks=tasks, task_manager=manager, **options
        )
