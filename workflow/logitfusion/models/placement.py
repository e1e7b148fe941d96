"""Which part of which model is on which GPU, decided from bytes alone before anything is loaded.

The model that leads goes in the order of its layers over as few cards as hold it; the others, which are read beside it,
whole on the cards with most room. That is a device map of accelerate, whose hooks move what goes from card to card.
transformers' tensor parallel plans would keep all cards at work on one layer, but need a process for each card, a plan
that many architectures lack, and numbers of heads that the cards divide. A step of a fusion has several models to keep
the cards at work anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from logitfusion.errors import UserError

# Of a card's memory, what weights may take: the rest is for caches and logits. More only where nothing else fits.
SHARES = (0.6, 0.75, 0.9)
_MOST_CARDS = 64  # that a message advises


@dataclass(frozen=True)
class Block:
    """What is on one card: a decoder layer, or modules that use each other all the time.

    Attributes:
        modules: their names.
        size: bytes of their weights.
    """

    modules: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class Sized:
    """A model as placement knows it: its blocks in the order in which a text passes them."""

    name: str
    blocks: tuple[Block, ...]

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return sum(block.size for block in self.blocks)


# A card for each block of a model.
Places = tuple[int, ...]


def place_models(models: Sequence[Sized], cards: Sequence[int]) -> list[Places]:
    """A card for every block of every model.

    Args:
        models: the one that leads first, then those that are read beside it.
        cards: bytes that are free on each.

    Returns:
        of each model, in their order, the cards of its blocks. Weights take at most ``SHARES[-1]`` of a card.

    Raises:
        UserError: they do not fit; says what would make them fit.
    """
    places = _find_places(models, cards)
    if places is None:
        raise UserError(_explain(models, cards))
    return places


def _find_places(models: Sequence[Sized], cards: Sequence[int]) -> list[Places] | None:
    """Whole models beside the large one if there is any way, else all blocks wherever there is room."""
    rooms = [[int(share * card) for card in cards] for share in SHARES]
    for room in rooms:
        for spread in range(1, len(cards) + 1):
            if (found := _place_beside(models, room, spread)) is not None:
                return found
    filled = (_fill(models, room) for room in rooms)
    return next((found for found in filled if found is not None), None)


def _place_beside(models: Sequence[Sized], room: Sequence[int], spread: int) -> list[Places] | None:
    """The first model in about equal parts on the first cards, each of the others whole where most room is left."""
    room = list(room)
    places = {0: _part(models[0], room[:spread])}
    if places[0] is None:
        return None
    for block, card in zip(models[0].blocks, places[0], strict=True):
        room[card] -= block.size
    for number in sorted(range(1, len(models)), key=lambda number: -models[number].size):
        card = max(range(len(room)), key=room.__getitem__)
        room[card] -= models[number].size
        if room[card] < 0:
            return None
        places[number] = (card,) * len(models[number].blocks)
    return [places[number] for number in range(len(models))]


def _part(model: Sized, room: Sequence[int]) -> Places | None:
    """The blocks in order on these cards: the next card once one has its share of the bytes, or is full."""
    places, card, held, passed = [], 0, 0, 0
    for block in model.blocks:
        middle = (passed + block.size / 2) * len(room)
        while card < len(room) - 1 and (middle > model.size * (card + 1) or held + block.size > room[card]):
            card, held = card + 1, 0
        held, passed = held + block.size, passed + block.size
        if held > room[card]:
            return None
        places.append(card)
    return tuple(places)


def _fill(models: Sequence[Sized], room: Sequence[int]) -> list[Places] | None:
    """All blocks of all models one after another, each card filled before the next."""
    card, held, found = 0, 0, []
    for model in models:
        places = []
        for block in model.blocks:
            while held + block.size > room[card]:
                card, held = card + 1, 0
                if card == len(room):
                    return None
            held += block.size
            places.append(card)
        found.append(tuple(places))
    return found


def halve(models: Sequence[Sized]) -> list[Sized]:
    """The models in a precision of half as many bytes."""
    return [
        replace(model, blocks=tuple(replace(block, size=-(-block.size // 2)) for block in model.blocks))
        for model in models
    ]


def _explain(models: Sequence[Sized], cards: Sequence[int]) -> str:
    """What is missing, and what would make the models fit."""
    needed, largest = sum(model.size for model in models), max(cards)
    fits = [
        f"gpus: {count}"
        for count in range(len(cards) + 1, _MOST_CARDS + 1)
        if _fill(models, [int(SHARES[-1] * card) for card in [*cards, *[largest] * (count - len(cards))]]) is not None
    ][:1]
    if _find_places(halve(models), cards) is not None:
        fits.append("a dtype of half as many bytes (bfloat16 instead of float32)")
    fewer = [count for count in range(1, len(models) - 2) if _find_places(models[:-count], cards) is not None][:1]
    fits += [f"{len(models) - 2 - count} experts instead of {len(models) - 2}" for count in fewer]
    title, verb = f"{len(models)} models", "do"
    if len(models) == 1:
        title, verb = f"The model {models[0].name}", "does"
    return (
        f"{title} of {_gigabytes(needed)} GB {verb} not fit {_cards(cards)}, of which weights may take"
        f" {SHARES[-1]:.0%}: what would fit is {' or '.join(fits) or 'a GPU with more memory'}."
    )


def _cards(cards: Sequence[int]) -> str:
    sizes = " + ".join(_gigabytes(card) for card in cards)
    return f"{len(cards)} GPU{'s' * (len(cards) > 1)} with {sizes} GB free"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g}"
