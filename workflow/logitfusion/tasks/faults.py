"""One sentence for what is wrong with a definition, whatever its code or the harness raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from logitfusion.errors import UserError, first_line
from logitfusion.files import is_used_up


@contextmanager
def explaining(name: str) -> Iterator[None]:
    """What a task's own code raises, as a sentence."""
    try:
        yield
    except Exception as error:  # whatever it is
        raise explain(name, error) from error


def explain(name: str, error: Exception) -> Exception:
    """The sentence for what is wrong with a task; errors of the machine stay what they are."""
    if isinstance(error, UserError) or is_used_up(error):
        return error
    if isinstance(error, ImportError):
        return UserError(f"The task {name!r} needs a package that is not installed ({first_line(error)}).")
    if lacks_examples(error):
        return UserError(f"The task {name!r} has fewer examples for its prompts than num_fewshot asks for; lower it.")
    if isinstance(error, KeyError) and " " not in str(error):  # else it is a sentence of the harness
        return UserError(f"The task {name!r} can't be read: there is no {error}; correct its definition.")
    return UserError(
        f"The task {name!r} can't be read ({type(error).__name__}: {_said(error)}); correct its definition."
    )


def lacks_examples(error: Exception) -> bool:
    """Whether the harness found fewer examples for a prompt than it was to hold."""
    said = ("Sample larger than population", "fewshot samples requested exceeds", "no documents available for sampling")
    return any(words in str(error) for words in said)


def _said(error: Exception) -> str:
    """Keys would be said in quotes, with their line breaks."""
    return first_line(Exception(*error.args) if isinstance(error, KeyError) else error)
