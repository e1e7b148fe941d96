"""How much each expert steers, at every decoding step (Dynamic Logits Fusion, arXiv 2406.15480, eq. 5 and 6)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from numbers import Real
from types import ModuleType

import torch
from torch import Tensor

from logitfusion.config.fusion_options import MOST_CANDIDATES
from logitfusion.config.gate import Gate
from logitfusion.fusion.logits import logit_shift
from logitfusion.fusion.rules import RULES, Rows, Rule, Search, Solved
from logitfusion.fusion.selections import POOLS, SELECTIONS, Selection
from logitfusion.tensors import check_logits

Bounds = tuple[float, float] | Sequence[tuple[float, float]]

# Numbers of one model in a chunk of rows: about 16 MB of fp32 for each temporary.
_CHUNK = 4_000_000
# The same where kernels search on a GPU, which hardly write anything.
_KERNELS_CHUNK = 2**26


@dataclass(frozen=True)
class SolvedWeights:
    """What ``solve_weights`` found.

    Attributes:
        weights: ``[T, ...]`` fp32. At most one of the T is not zero where ``one_hot`` and ``matched`` are searched.
        loss: ``[...]`` fp32, the squared distance to the targets at the chosen weights; each distance is exact to about
            1e-6 (relative above 1). None with ``"gate"``, which has no targets.
        expert: ``[...]`` int64, index of the expert that steers most, -1 where all weights are 0.
    """

    weights: Tensor
    loss: Tensor | None
    expert: Tensor


@torch.no_grad()
def solve_weights(
    large: Tensor,
    base: Tensor,
    experts: Tensor,
    *,
    rule: str = "grid",
    selection: str = "judged",
    bounds: Bounds = (0.0, 2.0),
    step: float = 0.1,
    gate: Gate | None = None,
) -> SolvedWeights:
    """Choose the experts' weights so that the large model moves as far as the small one did, or as a gate learned.

    Every search minimises ``(KL(P~||P) - KL(Q_s||Q))^2 + (KL(P||P~) - KL(Q||Q_s))^2`` along rays: each expert's own
    direction, or that of a pool of all. With one expert all selections are the same, the paper's. Gradients do not flow
    through a search, and stop here.

    Args:
        large: raw logits of the large model, ``[..., V]``, any float type; -inf entries are left out.
        base: raw logits of the small base, ``[..., V]``.
        experts: raw logits of the experts, ``[T, ..., V]``.
        rule: ``"grid"`` tries the multiples of ``step`` within the bounds (the paper: 0.0, 0.1, ..., 2.0) and of equal
            losses keeps the lowest weight, then the lowest expert; ``"newton"`` refines the grid's answer to a
            continuous one, never with a greater loss; ``"gate"`` searches nothing and gives each expert the weight that
            ``gate`` learned for such predictions, whatever selection, bounds and step are.
        selection: how several experts share the work.
            ``"one_hot"``: one expert, by the loss summed over the targets of all experts (the paper);
            ``"matched"``: one expert, each ray held against the target of its own expert;
            ``"pooled"``: all of them as one, the normalised geometric mean of their distributions (a logarithmic
            opinion pool; Genest and Zidek 1986), ``Q_s = softmax(base + mean_t (expert_t - base))``;
            ``"judged"``: a pool weighted by how plausible the large model finds what each expert predicts,
            ``softmax_t(0.2 * sum_v Q_t(v) log P(v))``.
        bounds: lowest and highest weight, or one pair for each expert (not with pools, which have one weight).
        step: the grid's distance.
        gate: see ``fit_gate``; for the rule of this name alone.

    Raises:
        TypeError: logits that are no tensors of floating-point numbers.
        ValueError: shapes, devices, rule, selection, bounds or step that can't be used; an empty vocabulary; logits
            that are NaN or infinite, except -inf, or whose differences or divergences leave fp32.
    """
    check_logits(large=large, base=base, experts=experts)
    if rule not in RULES:
        raise ValueError(f"rule is one of {tuple(RULES)}, not {rule!r}")
    if (rule == "gate") != (gate is not None):
        raise ValueError("the rule gate goes by a gate, and no other rule does")
    if selection not in SELECTIONS:
        raise ValueError(f"selection is one of {tuple(SELECTIONS)}, not {selection!r}")
    if base.shape != large.shape or experts.shape[1:] != large.shape or len(experts) == 0:
        raise ValueError(
            "solve_weights needs large [..., V], base [..., V] and experts [T, ..., V] with T > 0, and was given"
            f" {tuple(large.shape)}, {tuple(base.shape)} and {tuple(experts.shape)}"
        )
    grids = make_grids(bounds, step, len(experts), pooled=selection in POOLS).to(large.device)
    leading, vocabulary = large.shape[:-1], large.shape[-1]
    rows = math.prod(leading)
    flat_large, flat_base = large.reshape(rows, vocabulary), base.reshape(rows, vocabulary)
    flat_experts = experts.reshape(len(experts), rows, vocabulary)
    search = Search(grids, float(step), SELECTIONS[selection], gate)
    kernels = _load_kernels(large.device, rule, search)
    width = max(vocabulary, kernels.BLOCK) if kernels else vocabulary
    chunk = max(1, (_KERNELS_CHUNK if kernels else _CHUNK) // (width * len(experts)))
    chunk = math.ceil(rows / math.ceil(rows / chunk)) if rows else 1  # of one size: a small last one would cost as much
    with torch.autocast(large.device.type, enabled=False):  # which would make the sums bf16
        parts = [
            _solve_rows(
                flat_large[start : start + chunk],
                flat_base[start : start + chunk],
                flat_experts[:, start : start + chunk],
                RULES[rule],
                search,
                kernels,
            )
            for start in range(0, rows, chunk)
        ]
    if not parts:
        empty = torch.zeros(leading, device=large.device)
        loss = None if gate else empty
        return SolvedWeights(torch.zeros(len(experts), *leading, device=large.device), loss, empty.long() - 1)
    weights = torch.cat([part[0] for part in parts], dim=1)
    loss = None if gate else torch.cat([part[1] for part in parts]).reshape(leading)
    if not (weights if loss is None else loss).isfinite().all():
        raise ValueError("the models' logits are too far apart: the squares of their divergences leave fp32")
    expert = torch.where(weights.amax(0) == 0, -1, weights.argmax(0))
    return SolvedWeights(weights.reshape(len(experts), *leading), loss, expert.reshape(leading))


def make_grids(bounds: Bounds, step: float, experts: int, *, pooled: bool = False) -> Tensor:
    """The candidates of each ray, fp32 ``[K, rays]``: the lowest weight and every multiple of the step above it.

    A ray with fewer candidates than the others is filled up with infinity.

    Raises:
        ValueError: bounds out of order, negative or infinite, not one or one for each expert, or a step that is not
            positive or makes too many candidates.
    """
    pairs = [bounds] if bounds and isinstance(bounds[0], Real) else list(bounds)
    if not pairs or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"bounds are a pair (lowest, highest), or one pair for each expert, not {bounds!r}")
    if len(pairs) == 1:
        pairs = pairs * (1 if pooled else experts)
    elif pooled:
        raise ValueError("a pool of experts has one weight, so its bounds are one pair")
    elif len(pairs) != experts:
        raise ValueError(f"{experts} experts need one pair of bounds or one for each, not {len(pairs)}")
    grids = [_grid(*pair, step) for pair in pairs]
    return torch.nn.utils.rnn.pad_sequence(grids, padding_value=math.inf)


def _grid(low: float, high: float, step: float) -> Tensor:
    if not 0 <= low <= high < math.inf or not 0 < step < math.inf:
        raise ValueError(f"bounds must satisfy 0 <= low <= high and step be positive, not {(low, high)} and {step}")
    if (high - low) / step >= MOST_CANDIDATES:
        raise ValueError(f"a step of {step} makes more than {MOST_CANDIDATES} weights of {low} to {high}")
    # 2.0 is the twentieth multiple of 0.1 although 2.0 / 0.1 may round to a little less.
    candidates = math.floor((high - low) / step + 1e-9) + 1
    return torch.tensor([low + step * k for k in range(candidates)], dtype=torch.float32)


def _load_kernels(device: torch.device, rule: str, search: Search) -> ModuleType | None:
    """The kernels that search on a GPU, where this rule has some and they can run; they decide as ``rules.grid``."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if rule != "grid" or not (device.type == "cuda" or interpreted) or find_spec("triton") is None:
        return None
    from logitfusion.fusion import grid_kernels  # only now: other machines need no Triton

    known = type(search.selection) is Selection  # kernels know nothing of shares that somebody adds
    return grid_kernels if known and len(search.grids) <= grid_kernels.MOST_CANDIDATES else None


def _solve_rows(
    large: Tensor, base: Tensor, experts: Tensor, rule: Rule, search: Search, kernels: ModuleType | None
) -> Solved:
    """Weights ``[T, n]`` and loss ``[n]``."""
    if kernels is None:
        return rule(Rows(*_without_masked(large.float(), base.float(), experts)), search)
    weights, loss = kernels.solve(large, base, experts, search)
    left = (~loss.isfinite()).nonzero()[:, 0]
    if len(left):  # extreme numbers, or such as are refused
        weights[:, left], loss[left] = _solve_rows(large[left], base[left], experts[:, left], rule, search, None)
    return weights, loss


def _without_masked(large: Tensor, base: Tensor, experts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """An entry that any model excludes takes no part: -inf in large and base, 0 in the shift; and the mask, if any.

    In a row in which nothing is left no model predicts anything, and so does no expert otherwise than the base.
    """
    shift = experts.float() - base
    if torch.stack([*large.aminmax(), *shift.aminmax()]).isfinite().all():
        return large, base, shift, None
    masked = torch.isneginf(large) | torch.isneginf(base) | torch.isneginf(experts).any(0)
    shift = logit_shift(base, experts).masked_fill(masked, 0.0)
    large, base = large.masked_fill(masked, 0.0), base.masked_fill(masked, 0.0)
    if not torch.stack([*large.aminmax(), *base.aminmax(), *shift.aminmax()]).isfinite().all():
        raise ValueError("logits and their differences are numbers of fp32 or -inf, and some are NaN or infinite")
    masked = masked & ~masked.all(-1, keepdim=True)
    return large.masked_fill(masked, -torch.inf), base.masked_fill(masked, -torch.inf), shift, masked
