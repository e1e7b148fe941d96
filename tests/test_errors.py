"""Whose memory ran out, in whoever's words."""

from __future__ import annotations

import errno

import pytest
import torch

from logitfusion.errors import find_memory_error


def fail_to_allocate() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)  # more than any address space has
    return caught.value


def test_torch_without_memory_is_known_by_what_it_says_today() -> None:
    assert find_memory_error(fail_to_allocate()) == "machine"


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_the_machines_memory_is_known(error: Exception) -> None:
    outer = ValueError("could not load")
    outer.__cause__ = error
    assert find_memory_error(error) == find_memory_error(outer) == "machine"


def test_the_gpus_memory_is_known() -> None:
    assert find_memory_error(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")) == "gpu"


@pytest.mark.parametrize("error", [None, ValueError("no"), OSError(errno.ENOSPC, "No space left on device")])
def test_other_errors_are_not_about_memory(error: Exception | None) -> None:
    assert find_memory_error(error) is None
