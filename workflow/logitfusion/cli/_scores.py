"""How the few-shot commands print scores, and the images that are left out."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from logitfusion.evaluate.intervals import wilson_interval


def format_score(predicted: Tensor, labels: Tensor) -> str:
    """``"33 of 40 right, 0.825 [0.680, 0.913]"``, with Wilson's 95% interval."""
    right = int(torch.count_nonzero(predicted == labels))
    low, high = wilson_interval(right, len(labels))
    return f"{right} of {len(labels)} right, {right / len(labels):.3f} [{low:.3f}, {high:.3f}]"


def print_skipped(skipped: dict[str, str], total: int) -> None:
    """Name the images that were left out, on the standard error."""
    if skipped:
        named = "; ".join(f"{name} ({' '.join(reason.split())})" for name, reason in skipped.items())
        are = "is" if len(skipped) == 1 else "are"
        print(f"{len(skipped)} of {total} images can't be read and {are} left out: {named}", file=sys.stderr)
