"""Trainings in fp32 on a GPU do without the fused kernels of attention, and others with them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from logitfusion.training.loop import plain_attention


def kernels() -> tuple[bool, ...]:
    cuda = torch.backends.cuda
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled(), cuda.math_sdp_enabled()


@pytest.mark.parametrize(
    ("device", "bf16", "fused"), [("cuda", False, False), ("cuda", True, True), ("cpu", False, True)]
)
def test_fused_kernels_are_off_where_they_may_give_nan(device: str, bf16: bool, fused: bool) -> None:
    before = kernels()
    with plain_attention(SimpleNamespace(device=torch.device(device), bf16=bf16)):
        *others, plain = kernels()
        assert plain
        assert any(others) == fused
    assert kernels() == before
