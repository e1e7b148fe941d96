"""Files whose bytes are not those that were written: flipped bits, cut, lengthened, overwritten, mixed up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

Change = Callable[[bytearray, Random], None]


def flip_bit(data: bytearray, draw: Random) -> None:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def flip_a_few(data: bytearray, draw: Random) -> None:
    for _ in range(draw.randrange(2, 9)):
        flip_bit(data, draw)


def cut(data: bytearray, draw: Random) -> None:
    del data[draw.randrange(len(data)) :]


def lengthen(data: bytearray, draw: Random) -> None:
    data += draw.choice([b"\0", b"\n", b" ", draw.randbytes(draw.randrange(1, 64))])


def lose_a_part(data: bytearray, draw: Random) -> None:
    start = draw.randrange(len(data))
    del data[start : start + draw.randrange(1, 64)]


def repeat_a_part(data: bytearray, draw: Random) -> None:
    start = draw.randrange(len(data))
    data[start:start] = data[start : start + draw.randrange(1, 64)]


def zero_a_part(data: bytearray, draw: Random) -> None:
    """As a disk does that lost a block."""
    start = draw.randrange(len(data))
    length = min(draw.choice([1, 8, 512, 4096]), len(data) - start)
    data[start : start + length] = bytes(length)


def overwrite_a_part(data: bytearray, draw: Random) -> None:
    start = draw.randrange(len(data))
    length = min(draw.randrange(1, 64), len(data) - start)
    data[start : start + length] = draw.randbytes(length)


def swap_parts(data: bytearray, draw: Random) -> None:
    length = min(draw.choice([1, 4, 16]), len(data) // 2)
    one, other = draw.randrange(len(data) - length), draw.randrange(len(data) - length)
    data[one : one + length], data[other : other + length] = data[other : other + length], data[one : one + length]


def change_a_digit(data: bytearray, draw: Random) -> None:
    """What stays JSON, mostly: another number."""
    places = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
    if places:
        data[draw.choice(places)] = draw.randrange(48, 58)


CHANGES: tuple[Change, ...] = (
    flip_bit,
    flip_a_few,
    cut,
    lengthen,
    lose_a_part,
    repeat_a_part,
    zero_a_part,
    overwrite_a_part,
    swap_parts,
    change_a_digit,
)


def damage(data: bytes, kind: str, inputs: int) -> Iterator[tuple[str, bytes]]:
    """So many damaged copies, each with its name; half of them with one bit flipped. The first is empty."""
    yield f"{kind} 0: empty", b""
    for number in range(1, inputs):
        draw = Random(f"{kind} {number}")
        change = flip_bit if number % 2 else draw.choice(CHANGES)
        changed = bytearray(data)
        change(changed, draw)
        yield f"{kind} {number}: {change.__name__}", bytes(changed)
