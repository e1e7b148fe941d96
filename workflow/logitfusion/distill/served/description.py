"""What a server says of the model that it is asked for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from urllib.request import getproxies

import httpx2
from pydantic import BaseModel, ValidationError

from logitfusion.distill.served.server import Server, name_fault
from logitfusion.errors import UserError


@dataclass(frozen=True)
class Served:
    """A model of a server.

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


class _Card(BaseModel):
    id: str
    root: str | None = None
    owned_by: str | None = None
    max_model_len: int | None = None


class _Listed(BaseModel):
    data: list[_Card]


class _Version(BaseModel):
    version: str


def describe(server: Server) -> Served:
    """The model that a server's options name, or its only one.

    Raises:
        UserError: the server is not reached, has no such model, or has several and none is named.
    """
    return asyncio.run(_describe(server))


async def _describe(server: Server) -> Served:
    wanted = server.options.served_model
    async with server.session(silence=30.0) as session:
        answer = await server.insist(partial(_list_models, server, session), lambda: "its models")
        if answer.status_code in (404, 405) and wanted is not None:  # it has no such list
            return Served(wanted)
        if answer.status_code != 200:
            raise UserError(server.explain_refusal(answer, "to say what it serves"))
        card = _choose(answer.content, wanted, server.address)
        version = await _find_version(server, session) if card.owned_by == "vllm" else None
        engine = " ".join(filter(None, [card.owned_by, version]))
        return Served(card.id, card.root, engine or None, card.max_model_len)


async def _list_models(server: Server, session: httpx2.AsyncClient) -> httpx2.Response:
    try:
        return await session.get(f"{server.address}/models")
    except httpx2.ConnectError as error:  # not asked again: the address may be wrong
        proxy = ", or the proxy of the environment" if getproxies() else ""
        raise UserError(
            f"No server answers at {server.address} ({name_fault(error)}); start it, or correct it{proxy}."
        ) from None


def _choose(content: bytes, wanted: str | None, address: str) -> _Card:
    try:
        cards = {card.id: card for card in _Listed.model_validate_json(content).data}
    except ValidationError:
        cards = {}
    names = ", ".join(map(repr, cards))
    if not cards:
        raise UserError(f"The server at {address} lists no models; is it another kind of server?")
    if wanted is None and len(cards) > 1:
        raise UserError(f"The server at {address} has several models; give --served-model, one of {names}.")
    if wanted is not None and wanted not in cards:
        raise UserError(f"The server at {address} has no model {wanted!r}; it has {names}.")
    return next(iter(cards.values())) if wanted is None else cards[wanted]


async def _find_version(server: Server, session: httpx2.AsyncClient) -> str | None:
    """As vLLM tells it; while it is busy it is asked again, because a cache with another version is another cache."""
    answer = await server.insist(partial(session.get, f"{server.root}/version"), lambda: "its version")
    try:
        return _Version.model_validate_json(answer.content).version if answer.status_code == 200 else None
    except ValidationError:
        return None
