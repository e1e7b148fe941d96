"""stub, the align branch brings the real one"""

from __future__ import annotations

import torch
from torch import Tensor


def group_factors(label_log_probs: Tensor, groups: Tensor, side: str) -> Tensor:
    first, last = {"student": (0, 1), "teacher": (2, 3)}[side]
    out = []
    for g in groups.tolist():
        out.append(label_log_probs[g[first] : g[last]].sum())
    return torch.stack(out) if out else label_log_probs.new_zeros(0)
