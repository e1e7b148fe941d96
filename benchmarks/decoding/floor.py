"""What the hardware allows: counted bytes and operations over the speeds that it shows here."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from timing import synchronise


@dataclass(frozen=True)
class Speed:
    """Of a device: bytes it reads a second, and operations a second of its matrix products (2 a multiply-add)."""

    bytes: float
    operations: float


@dataclass(frozen=True)
class Work:
    """What a pass can't do without: weights read once, cached keys and values read, products of every token."""

    weights: int
    """Bytes."""
    cache: int
    """Bytes."""
    operations: float

    def seconds(self, speed: Speed) -> float:
        """The longer of reading and calculating, which can overlap."""
        return max((self.weights + self.cache) / speed.bytes, self.operations / speed.operations)


def measure_speed(device: torch.device, dtype: torch.dtype) -> Speed:
    """Best of five: the sum of 256 MB, and a product of two square matrices (small ones on a CPU)."""
    side = 8192 if device.type == "cuda" else 512
    data, square = torch.ones(2**26, device=device), torch.ones(side, side, device=device, dtype=dtype)
    return Speed(data.nbytes / _fastest(data.sum, device), 2 * side**3 / _fastest(lambda: square @ square, device))


def _fastest(way: object, device: torch.device) -> float:
    times = []
    way()
    for _ in range(5):
        synchronise(device)
        start = time.perf_counter()
        way()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times)
