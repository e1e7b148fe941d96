"""A model that another program serves, and how it is asked: for the command line and Python."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from logitfusion.config.section import Positive, Section, Text

Protocol = Literal["vllm", "sglang", "echo"]


def _check_address(value: str) -> str:
    """Only what may stand in a message: the address is not repeated where it may hold a password."""
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good or "@" in value or "?" in value or "#" in value or not value.isprintable() or " " in value:
        words = "must be an address as http://127.0.0.1:8000/v1, without user, password and query"
        raise PydanticCustomError("cross", words)
    return value


class Endpoint(Section):
    """A server of one model or several."""

    endpoint: Annotated[str, AfterValidator(_check_address)] | None = None
    """Address of a server that has the teacher, as http://127.0.0.1:8000/v1; the folder then needs no weights."""
    served_model: Text | None = None
    """The teacher's name on that server; left out, the only model there."""
    protocol: Protocol = "vllm"
    """How it is asked: prompt_logprobs of vLLM, /generate of SGLang, or echo with logprobs."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Texts that the server is asked for at a time."""
    timeout: Positive = 600.0
    """Seconds without a byte of an answer after which it is asked again."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 6
    """How often it is asked for a text while it is busy or not reached, a second later first, then ever later."""
    key_variable: Text | None = None
    """The environment variable that holds the key which the server asks for, if any."""
