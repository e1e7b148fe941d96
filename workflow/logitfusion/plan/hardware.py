"""GPUs: memory, bandwidth and bf16 products, from the public data sheets of their makers."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from logitfusion.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """A card.

    Attributes:
        name: as its maker writes it.
        memory: bytes. Sheets say GB and mean 2^30 bytes; here a GB is 10^9, so that some 7 % are left for CUDA itself
            and for what its allocator can't use.
        bandwidth: of its memory, bytes a second; None: not known.
        flops: dense products in bf16 a second; None: not known.
    """

    name: str
    memory: float
    bandwidth: float | None = None
    flops: float | None = None


# GB, GB/s, TFLOP/s of dense bf16.
_SHEETS = {
    "A10": (24, 600, 125),
    "A30": (24, 933, 165),
    "A40": (48, 696, 149.7),
    "A100-40GB": (40, 1555, 312),
    "A100-80GB": (80, 2039, 312),
    "A6000": (48, 768, 154.8),
    "B200": (180, 8000, 2250),
    "GH200": (96, 4000, 989),
    "H100": (80, 3350, 989),
    "H100-PCIe": (80, 2000, 756),
    "H200": (141, 4800, 989),
    "L4": (24, 300, 121),
    "L40S": (48, 864, 362),
    "MI210": (64, 1600, 181),
    "MI250X": (128, 3277, 383),
    "MI300X": (192, 5300, 1307),
    "RTX-3090": (24, 936, 71),
    "RTX-4090": (24, 1008, 165),
    "RTX-5090": (32, 1792, 209),
    "T4": (16, 320, None),
    "V100-32GB": (32, 900, None),
}
GPUS = {
    name: Gpu(name, memory * 1e9, bandwidth * 1e9, None if flops is None else flops * 1e12)
    for name, (memory, bandwidth, flops) in _SHEETS.items()
}


def find_gpu(name: str) -> Gpu:
    """The card of this name, however its letters are written.

    Raises:
        UserError: it is not in the table.
    """
    known = {_plain(name): gpu for name, gpu in GPUS.items()}
    if gpu := known.get(_plain(name)):
        return gpu
    near = difflib.get_close_matches(_plain(name), known, n=1)
    hint = f"did you mean {known[near[0]].name}?" if near else f"known are {', '.join(GPUS)}."
    raise UserError(f"The GPU {name!r} is not known; give its memory with --gpu-memory GB, or: {hint}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
