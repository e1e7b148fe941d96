"""A server of models: what it serves, and answers to requests, asked again while it is busy."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from logitfusion.config.endpoint import Endpoint
from logitfusion.errors import UserError, first_line
from logitfusion.fetch.hub_faults import BUSY

logger = logging.getLogger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds
# Requests fail together: one line tells of all of them.
_SILENCE = 5.0


@dataclass(frozen=True)
class Served:
    """What a server says of a model.

    Attributes:
        name: by which it is asked for.
        origin: the checkpoint that it was loaded from, where the server tells.
        engine: the program and its version, where the server tells.
        context: tokens that it reads at most, where the server tells.
    """

    name: str
    origin: str | None = None
    engine: str | None = None
    context: int | None = None

    def __str__(self) -> str:
        """By which a cache is told apart from that of another model or engine; the address is not part of it."""
        origin = f" ({self.origin})" if self.origin not in (None, self.name) else ""
        return f"served as {self.name}{origin}" + (f" by {self.engine}" if self.engine else "")


class Server:
    """The server of an address.

    Raises:
        UserError: there is no address, or the variable of the key holds none.
    """

    def __init__(self, options: Endpoint) -> None:
        if options.endpoint is None:
            raise UserError("A server needs its address; give endpoint.")
        self.options = options
        address = options.endpoint.rstrip("/")
        self.address = address if httpx2.URL(address).path.strip("/") else f"{address}/v1"
        self._key = _read_key(options.key_variable)
        self._told = float("-inf")

    def describe(self) -> Served:
        """The model that is asked for.

        Raises:
            UserError: the server is not reached, has no such model, or has several and none is named.
        """
        return asyncio.run(self._describe())

    async def _describe(self) -> Served:
        async with self.session(limit=30.0) as session:
            try:
                answer = await session.get(f"{self.address}/models")
            except httpx2.TransportError as error:
                raise UserError(
                    f"No server answers at {self.address} ({_name(error)}); start it, or correct it."
                ) from None
            if answer.status_code in (404, 405) and self.options.served_model is not None:
                return Served(self.options.served_model)
            if answer.status_code != 200:
                raise UserError(self._refused(answer, "to say what it serves"))
            entry = self._choose(_parse(answer))
            engine = " ".join(filter(None, [_text(entry, "owned_by"), await self._version(session)]))
            limit = entry.get("max_model_len")
            context = limit if isinstance(limit, int) and limit > 0 else None
            return Served(entry["id"], _text(entry, "root"), engine or None, context)

    def _choose(self, listed: Any) -> dict[str, Any]:
        """The entry of the model that is asked for, in the list that ``/models`` gives."""
        entries = listed.get("data") if isinstance(listed, dict) else None
        found = (
            [one for one in entries if isinstance(one, dict) and _text(one, "id")] if isinstance(entries, list) else []
        )
        names, wanted = [one["id"] for one in found], self.options.served_model
        if not found:
            raise UserError(f"The server at {self.address} lists no models; is it another kind of server?")
        if wanted is None and len(found) > 1:
            raise UserError(f"The server at {self.address} has several models; name one of {', '.join(names)}.")
        if wanted is not None and wanted not in names:
            raise UserError(f"The server at {self.address} has no model {wanted!r}; it has {', '.join(names)}.")
        return found[0 if wanted is None else names.index(wanted)]

    async def _version(self, session: httpx2.AsyncClient) -> str | None:
        """As vLLM tells it; others have no such page."""
        try:
            answer = await session.get(f"{self.root}/version")
        except httpx2.TransportError:
            return None
        told = _parse(answer) if answer.status_code == 200 else None
        return _text(told, "version") if isinstance(told, dict) else None

    @property
    def root(self) -> str:
        """The address under which a server has what is no part of OpenAI's interface."""
        return self.address.removesuffix("/v1")

    @asynccontextmanager
    async def session(self, limit: float | None = None) -> AsyncIterator[httpx2.AsyncClient]:
        """Connections that stay open between requests; ``limit``: seconds of silence, if not those of the options."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = httpx2.Timeout(limit or self.options.timeout, connect=30.0, pool=None)
        limits = httpx2.Limits(max_connections=self.options.concurrency)
        async with httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits) as session:
            yield session

    async def ask(self, session: httpx2.AsyncClient, url: str, body: dict[str, Any], title: str) -> bytes:
        """The answer to a request, which is made again after a while where the server is busy or not reached.

        Args:
            title: what is asked for, for messages: ``text 3``.

        Raises:
            UserError: it refuses, or all attempts have failed.
        """
        for attempt in range(self.options.attempts):
            try:
                answer = await session.post(url, json=body)
            except httpx2.TransportError as error:
                fault, asked = f"can't be reached ({_name(error)})", 0.0
            else:
                if answer.status_code == 200:
                    return answer.content
                if answer.status_code not in BUSY:
                    raise UserError(self._refused(answer, title))
                fault, asked = f"answers {self._words(answer)}", _asked_wait(answer)
            if attempt + 1 < self.options.attempts:
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * random.uniform(0.75, 1.25)  # not all at once
                await self._pause(fault, max(wait, min(asked, _LONGEST_WAIT)))
        raise UserError(
            f"The server at {self.address} {fault}, asked {self.options.attempts} times for {title}; what is whole is"
            " kept, so run the same again later."
        )

    async def _pause(self, fault: str, seconds: float) -> None:
        if time.monotonic() - self._told > _SILENCE:
            self._told = time.monotonic()
            logger.warning("The server at %s %s; again in %.0f s", self.address, fault, seconds)
        await asyncio.sleep(seconds)

    def _refused(self, answer: httpx2.Response, title: str) -> str:
        """The sentence for what another try would not mend."""
        words = f"The server at {self.address} refuses {title}: {self._words(answer)}"
        match answer.status_code:
            case 401 | 403:
                return f"{words}; name the environment variable that holds a key for it with --key-variable."
            case 404 | 405:
                return f"{words}; correct the address or the protocol."
            case _:
                return f"{words}."

    def _words(self, answer: httpx2.Response) -> str:
        """A server's status and message, in which some repeat the key that they were given."""
        told = _parse(answer)
        for name in ("error", "message", "detail"):
            told = told.get(name, told) if isinstance(told, dict) else told
        told = told if isinstance(told, str) else json.dumps(told) if told else answer.text
        message = first_line(ValueError(told.replace(self._key, "***") if self._key else told)) if told.strip() else ""
        return f"{answer.status_code} {answer.reason_phrase}".strip() + (f" ({message})" if message else "")


def _read_key(variable: str | None) -> str | None:
    """The key; the variable's name is not repeated in a message, because it may be the key itself."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UserError("The environment variable that --key-variable names holds no key; set it, and give its name.")
    return key


def _asked_wait(answer: httpx2.Response) -> float:
    """The seconds that a server asks to wait."""
    asked = answer.headers.get("retry-after", "")
    return float(asked) if asked.isdecimal() else 0.0


def _parse(answer: httpx2.Response) -> Any:
    """The JSON of an answer; None where it is something else."""
    try:
        return answer.json()
    except (ValueError, RecursionError):
        return None


def _text(entry: dict[str, Any], name: str) -> str | None:
    value = entry.get(name)
    return value if isinstance(value, str) and value else None


def _name(error: httpx2.TransportError) -> str:
    """A fault of the connection, which some name by their class only."""
    return first_line(error) or type(error).__name__
