"""Tensors that public functions can't use, in words: what was expected, and what was given.

Only shapes, types and devices are looked at, which costs a GPU nothing; ``is_finite`` reads the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral

import torch
from torch import Tensor

# Others have no NaN and no infinity, or are dequantised before anybody calculates with them.
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_tensors(**tensors: Tensor | None) -> None:
    """Refuse what are no tensors; None is left out.

    Raises:
        TypeError: names the argument, and what it is.
    """
    for name, tensor in tensors.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a tensor, not {_kind(tensor)}")


def check_floats(**tensors: Tensor | None) -> None:
    """Refuse what are no tensors of floating-point numbers on one device; None is left out.

    Raises:
        TypeError: names the argument, and what it is.
        ValueError: they are on several devices.
    """
    for name, tensor in tensors.items():
        if tensor is not None and not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
            raise TypeError(f"{name} is a tensor of floating-point numbers, not {_kind(tensor)}")
    check_one_device(**tensors)


def check_logits(**tensors: Tensor | None) -> None:
    """Refuse what are no logits ``[..., V]`` of a vocabulary with entries, on one device; None is left out.

    Raises:
        TypeError: names the argument, and what it is.
        ValueError: a scalar, an empty vocabulary, or several devices.
    """
    check_floats(**tensors)
    for name, tensor in tensors.items():
        if tensor is not None and (tensor.ndim == 0 or tensor.shape[-1] == 0):
            raise ValueError(f"{name} is [..., V] with V > 0, not {tuple(tensor.shape)}")


def check_int64(**tensors: Tensor | None) -> None:
    """Refuse what are no tensors of int64, as labels and places are; None is left out.

    Raises:
        TypeError: names the argument, and what it is.
    """
    for name, tensor in tensors.items():
        if tensor is not None and not (isinstance(tensor, Tensor) and tensor.dtype == torch.int64):
            raise TypeError(f"{name} is a tensor of int64, not {_kind(tensor)}")


def check_one_device(**tensors: Tensor | None) -> None:
    """Refuse tensors that are on several devices; None is left out.

    Raises:
        ValueError: says which is where.
    """
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        places = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"all tensors are on one device, not {places}")


def check_whole(name: str, number: object) -> None:
    """Refuse what is no whole number.

    Raises:
        TypeError: it is something else, as a bool is.
    """
    if not isinstance(number, Integral) or isinstance(number, bool):
        raise TypeError(f"{name} is a whole number, not {number!r}")


def check_count(name: str, number: object, lowest: int = 1, highest: int = 2**63 - 1) -> None:
    """Refuse what is no whole number from ``lowest`` to ``highest``.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is less or more.
    """
    check_whole(name, number)
    if number < lowest:
        raise ValueError(f"{name} is at least {lowest}, not {number}")
    if number > highest:
        raise ValueError(f"{name} is at most {highest}, not {number}")


def check_range(name: str, numbers: Iterable[float]) -> None:
    """Refuse numbers that are negative (beyond rounding), NaN or infinite, as weights may not be.

    Raises:
        ValueError: one of them is.
    """
    numbers = tuple(numbers)
    if not all(-1e-12 <= number < math.inf for number in numbers):
        raise ValueError(f"{name} are finite and not negative, and were {numbers}")


def is_finite(tensor: Tensor, *, excluding: bool = False) -> bool:
    """Whether all numbers of a tensor are finite; ``excluding`` also lets -inf pass, which excludes an entry."""
    if tensor.dtype not in _FLOATS or tensor.is_meta or not tensor.numel():
        return True
    # One pass at the speed of memory in any precision (``isfinite`` takes 30 times as long); NaN makes both NaN.
    lowest, highest = torch.stack(tensor.detach().aminmax()).tolist()
    return math.isfinite(highest) and (math.isfinite(lowest) or (excluding and lowest == -math.inf))


def _kind(given: object) -> str:
    return f"one of {given.dtype}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
