"""One sentence for what lm-evaluation-harness can't do with a task, its data or its metrics."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from logitfusion.errors import UserError, first_line
from logitfusion.files import is_used_up
from logitfusion.tasks.faults import lacks_examples

PACKAGE = Path(__file__).parents[1]


@contextmanager
def explaining(tasks: str) -> Iterator[None]:
    """Errors of the harness about tasks, which are of many types, as a ``UserError``; those of our own stay.

    Args:
        tasks: their names, in the sentence.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_used_up(error) or _is_ours(error):
            raise
        raise UserError(_explain(error, tasks)) from error


def explain_unsafe(task: str) -> str:
    """The sentence for a task that runs code."""
    return f"The task {task} runs the code that the model writes: give --confirm-run-unsafe-code if it may."


def _explain(error: Exception, tasks: str) -> str:
    if "which is marked as unsafe" in str(error):
        return explain_unsafe(str(error).split("task: ")[-1].split()[0])
    if "HF_ALLOW_CODE_EVAL" in str(error):
        return f"A metric of {tasks} runs the code that the model writes: set HF_ALLOW_CODE_EVAL=1 if it may."
    if isinstance(error, OSError):  # of data that has to be downloaded, mostly
        return f"The data of {tasks} can't be read ({first_line(error)})."
    if isinstance(error, ImportError):
        return f"{tasks} needs a package that is not installed ({first_line(error)})."
    if lacks_examples(error):
        return f"{tasks} has fewer examples for its prompts than num_fewshot asks for; lower it."
    return f"lm-eval can't run {tasks} with these options ({_reason(error)})."


def _reason(error: Exception) -> str:
    """What an error says; the harness says nothing of a metric that it can't load, and keys say only themselves."""
    key = error.args[0] if isinstance(error, KeyError) and error.args else error
    if key is None:
        return "one of its metrics is unknown, or can't be loaded without a package or a network"
    return first_line(Exception(key)) if key is error or " " in str(key) else f"there is no {key!r}"


def _is_ours(error: Exception) -> bool:
    """Whether an error comes from a model, and not from the harness and its tasks: below the call of it is our code."""
    below = traceback.extract_tb(error.__traceback__)[2:]  # without this file and the caller's
    return any(Path(frame.filename).is_relative_to(PACKAGE) for frame in below)
