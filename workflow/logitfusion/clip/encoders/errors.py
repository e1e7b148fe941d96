"""Errors of encoders, whose way out is worded for a config or for the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from logitfusion.errors import UserError


class EncoderError(UserError):
    """An encoder that can't be had as it was asked for. The message names the config's keys.

    Attributes:
        fault: the sentence without its way out.
        option: the way out on the command line, with ``{option}`` for the option's name.
    """

    def __init__(self, fault: str, *, config: str, option: str) -> None:
        super().__init__(f"{fault}; {config}.")
        self.fault, self.option = fault, option


def wrong_key(fault: str, key: str) -> EncoderError:
    """An entry's key can't have its value."""
    return EncoderError(fault, config=f"correct the entry's {key} key", option="correct {option}")


@contextmanager
def worded_for(option: str) -> Iterator[None]:
    """Errors of encoders name an option of the command line instead of a config's keys."""
    try:
        yield
    except EncoderError as error:
        raise UserError(f"{error.fault}; {error.option.format(option=option)}.") from error
