"""Requests to a server of models, made again while it is busy."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx2

from logitfusion.config.endpoint import Endpoint
from logitfusion.errors import UserError, first_line
from logitfusion.fetch.hub_faults import BUSY

logger = logging.getLogger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds
# Requests fail together: one line tells of all of them.
_SILENCE = 5.0
_LONGEST_MESSAGE = 300  # characters of what a server says


class Server:
    """The server of an address.

    Attributes:
        options: how it is asked.
        address: of OpenAI's interface, ``http://127.0.0.1:8000/v1``.
        root: under which it has what is no part of that, ``http://127.0.0.1:8000``.
        faults: how often it was busy or not reached.

    Raises:
        UserError: there is no address, or the variable of the key holds none.
    """

    def __init__(self, options: Endpoint) -> None:
        if options.endpoint is None:
            raise UserError("A server needs its address; give endpoint.")
        self.options = options
        address = options.endpoint.rstrip("/")
        try:
            self.address = address if httpx2.URL(address).path.strip("/") else f"{address}/v1"
        except httpx2.InvalidURL as error:
            raise UserError(f"The address {address} can't be used ({first_line(error)}); correct it.") from None
        self.root = self.address.removesuffix("/v1")
        self._key = _read_key(options.key_variable)
        self._told = float("-inf")
        self.faults = 0

    @asynccontextmanager
    async def session(self, silence: float | None = None) -> AsyncIterator[httpx2.AsyncClient]:
        """Connections that stay open between requests; ``silence``: seconds, if not those of the options."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = httpx2.Timeout(silence or self.options.timeout, connect=30.0, pool=None)
        limits = httpx2.Limits(max_connections=self.options.concurrency)
        try:
            opened = httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits)
        except (ImportError, ValueError, OSError, httpx2.InvalidURL) as error:
            raise UserError(_explain_environment(error)) from None
        async with opened as session:
            yield session

    async def ask(
        self, session: httpx2.AsyncClient, url: str, body: dict[str, Any], title: Callable[[], str], remedy: str
    ) -> bytes:
        """The answer to a request, which is made again after a while where the server is busy or not reached.

        Args:
            title: gives what is asked for, for messages: ``text 3``.
            remedy: what to do where it refuses so many log-probabilities.

        Raises:
            UserError: it refuses, or all attempts have failed.
        """
        answer = await self.insist(partial(session.post, url, json=body), title)
        if answer.status_code != 200:
            raise UserError(self.explain_refusal(answer, title(), remedy))
        return answer.content

    async def insist(
        self, request: Callable[[], Awaitable[httpx2.Response]], title: Callable[[], str]
    ) -> httpx2.Response:
        """The answer to a request, of any status that another try would not mend.

        Raises:
            UserError: all attempts have failed.
        """
        for attempt in range(self.options.attempts):
            try:
                answer = await request()
            except httpx2.RequestError as error:
                fault, asked = f"can't be reached ({self.hide(name_fault(error))})", 0.0
            else:
                if answer.status_code not in BUSY and answer.status_code < 500:
                    return answer
                fault, asked = f"answers {self._words(answer)}", _asked_wait(answer)
            self.faults += 1
            if attempt + 1 < self.options.attempts:
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * random.uniform(0.75, 1.25)  # not all at once
                await self._pause(fault, max(wait, asked))
        raise UserError(
            f"The server at {self.address} {fault}, asked {self.options.attempts} times for {title()}; what is whole is"
            " kept, so run the same again later."
        )

    async def _pause(self, fault: str, seconds: float) -> None:
        if time.monotonic() - self._told > _SILENCE:
            self._told = time.monotonic()
            logger.warning("The server at %s %s; again in %.0f s", self.address, fault, seconds)
        await asyncio.sleep(seconds)

    def explain_refusal(self, answer: httpx2.Response, title: str, remedy: str = "") -> str:
        """The sentence for what another try would not mend."""
        words = f"The server at {self.address} refuses {title}: {self._words(answer)}"
        match answer.status_code:
            case 401 | 403:
                return f"{words}; name the environment variable that holds a key for it with --key-variable."
            case 301 | 302 | 303 | 307 | 308 | 404 | 405:
                return f"{words}; correct --endpoint, --served-model or --protocol."
            case _ if remedy and "logprob" in words:
                return f"{words}; {remedy}."
        return f"{words}."

    def _words(self, answer: httpx2.Response) -> str:
        """A server's status and message."""
        told = self.hide(_find_message(answer))
        first, *_ = [*told.strip().splitlines(), ""]
        message = "".join(filter(str.isprintable, first))[:_LONGEST_MESSAGE].rstrip(" .")
        return self.hide(f"{answer.status_code} {answer.reason_phrase}").strip() + (f" ({message})" if message else "")

    def hide(self, words: str) -> str:
        """What a server says, without the key, which some repeat."""
        if self._key:
            for form in (self._key, json.dumps(self._key)[1:-1], repr(self._key)[1:-1]):
                words = words.replace(form, "***")
        return words


def name_fault(error: httpx2.RequestError) -> str:
    """A fault of the connection; some have no other words than their class."""
    return first_line(error) or type(error).__name__


def _explain_environment(error: Exception) -> str:
    """The sentence for variables that no connection can be made with; a proxy may hold a password."""
    if isinstance(error, OSError):
        return (
            f"The certificates that SSL_CERT_FILE names can't be read ({first_line(error)}); correct it, or unset it."
        )
    fault = "needs the package socksio" if isinstance(error, ImportError) else "can't be used"
    return (
        f"A proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names {fault}; correct it, or set NO_PROXY=* to use none."
    )


def _read_key(variable: str | None) -> str | None:
    """The key; the variable's name is not repeated in a message, because it may be the key itself."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UserError("The environment variable that --key-variable names holds no key; set it, and give its name.")
    return key


def _asked_wait(answer: httpx2.Response) -> float:
    """The seconds that a server asks to wait, within reason."""
    asked = answer.headers.get("retry-after", "")
    return min(_LONGEST_WAIT, float(asked)) if asked.isdecimal() else 0.0


def _find_message(answer: httpx2.Response) -> str:
    """What a server says of a fault: vLLM's and SGLang's ``error.message``, FastAPI's ``detail``, or any text."""
    try:
        told = answer.json()
    except (ValueError, RecursionError):
        return answer.text
    for name in ("error", "message", "detail"):
        told = told.get(name, told) if isinstance(told, dict) else told
    return told if isinstance(told, str) else json.dumps(told)
