"""What the rows are made of: sums in words and capitals, drawn with a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

PEOPLE = ("Tom", "Anna", "Li", "Omar", "Sara", "Ben", "Mia", "Noah", "Eva", "Leo", "Zoe", "Max", "Ida", "Jan", "Kim")
THINGS = ("apples", "books", "pens", "coins", "cards", "eggs", "stones", "shells", "stamps", "marbles")
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima",
    "Kenya": "Nairobi", "Norway": "Oslo", "Cuba": "Havana", "Chile": "Santiago", "Ghana": "Accra", "Iran": "Tehran",
    "Iraq": "Baghdad", "Nepal": "Kathmandu", "Qatar": "Doha", "Syria": "Damascus",
}  # fmt: skip


@dataclass(frozen=True)
class Sum:
    """A sum in words."""

    question: str
    first: int
    second: int
    things: str

    @property
    def total(self) -> int:
        """The answer."""
        return self.first + self.second


@dataclass(frozen=True)
class Capital:
    """A country, its capital, and three other countries' capitals."""

    number: int
    country: str
    capital: str
    wrong: tuple[str, ...]

    def shuffled(self, rng: random.Random) -> tuple[list[str], int]:
        """Four choices, and the place of the right one."""
        choices = [self.capital, *self.wrong]
        rng.shuffle(choices)
        return choices, choices.index(self.capital)


def sums(count: int, seed: int) -> Iterator[Sum]:
    """So many; which ones depends on the seed."""
    rng = random.Random(seed)
    for _ in range(count):
        first, second, who, things = rng.randint(2, 9), rng.randint(2, 9), rng.choice(PEOPLE), rng.choice(THINGS)
        asked = f"{who} has {first} {things} and buys {second} more. How many {things} does {who} have?"
        yield Sum(asked, first, second, things)


def capitals(count: int, seed: int) -> Iterator[Capital]:
    """So many, numbered, so that no two questions are the same."""
    rng = random.Random(seed)
    for number in range(count):
        country, capital = rng.choice(list(CAPITALS.items()))
        wrong = rng.sample([one for one in CAPITALS.values() if one != capital], 3)
        yield Capital(number, country, capital, tuple(wrong))
