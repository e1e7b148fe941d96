"""From a row of a data set to a text that is learnt from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jinja2 import UndefinedError
from jinja2.meta import find_undeclared_variables

from logitfusion.config.texts import TEMPLATES, Reading, Values
from logitfusion.tasks.conversations import UnusableError, check_text, opening, read_turns


def _not_nothing(value: Any) -> Any:
    """Jinja writes "None" where a row has nothing."""
    if value is None:
        raise UnusableError("no value in a column of the template")
    return value


_TEMPLATES = TEMPLATES.overlay(finalize=_not_nothing)


@dataclass(frozen=True)
class Field:
    """A column, or a template of columns."""

    columns: tuple[str, ...]
    read: Callable[[dict[str, Any]], str]


class Formatter:
    """Makes texts of rows, or says why a row is none."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.prompt, self.completion = (
            None if spec is None else make_field(spec) for spec in (reading.prompt, reading.completion)
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are needed of a row, for the text and for the filters."""
        named = [self.reading.messages] if self.reading.messages else []
        named += [name for field in (self.prompt, self.completion) if field for name in field.columns]
        return tuple(dict.fromkeys([*named, *self.reading.where]))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The text of a row, without an id: ``{"messages": turns}``, or ``{"prompt": text, "completion": text}``.

        Raises:
            UnusableError: the row is no text, or a filter leaves it out.
        """
        for column, values in self.reading.where.items():
            if not matches(row[column], values):
                raise UnusableError(f"another {column}")
        if self.reading.messages is not None:
            text: dict[str, Any] = {"messages": read_turns(row[self.reading.messages])}
            size = sum(len(turn["content"]) for turn in text["messages"])
        else:
            prompt, completion = self.prompt.read(row), self.completion.read(row)
            text = {"prompt": prompt, "completion": self.reading.delimiter + completion}
            size = len(prompt) + len(completion)
        if size < self.reading.min_chars:
            raise UnusableError("fewer characters than min_chars")
        if self.reading.max_chars is not None and size > self.reading.max_chars:
            raise UnusableError("more characters than max_chars")
        return text


def matches(value: Any, values: Values) -> bool:
    """Whether a row's value is one of some; true and 1 are two values here, as they are in JSON."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values)


def make_field(spec: str) -> Field:
    """A column of this name or, with ``{{`` or ``{%``, a Jinja template."""
    if "{{" not in spec and "{%" not in spec:
        return Field((spec,), lambda row: _check(row[spec]))
    template = _TEMPLATES.from_string(spec)

    def fill(row: dict[str, Any]) -> str:
        try:
            return _check(template.render(row))
        except UnusableError:
            raise
        except UndefinedError:
            raise UnusableError("no value in a column of the template") from None
        except Exception as error:  # whatever the template does with values
            raise UnusableError(f"a value that the template can't use ({type(error).__name__})") from None

    columns = find_undeclared_variables(_TEMPLATES.parse(spec)) - _TEMPLATES.globals.keys()
    return Field(tuple(sorted(columns)), fill)


def _check(value: Any) -> str:
    written = value if value is None or isinstance(value, (list, dict)) else str(value)
    return check_text(written, "no text in a column")


def find_prompt(text: dict[str, Any]) -> str:
    """What a text's prompt is compared by: without case and spacing."""
    prompt = opening(text["messages"]) if "messages" in text else text["prompt"]
    return " ".join(prompt.lower().split())
