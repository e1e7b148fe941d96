"""Divergences along a ray of fused distributions (Dynamic Logits Fusion, arXiv 2406.15480, eq. 5).

With ``D = expert - base``, the distributions ``P_a = softmax(large + a D)`` are a one-parameter exponential family, so
two numbers a candidate are enough for both divergences:

    A(a) = log E_0[exp(a D)],  m(a) = E_a[D]
    forward(a)  = KL(P_a || P_0) = a m(a) - A(a)
    backward(a) = KL(P_0 || P_a) = A(a) - a m(0)

``D`` is shifted so that ``m(0) = 0``; softmax does not see the shift. The targets ``KL(Q_t || Q)`` and ``KL(Q || Q_t)``
of the small models are the same two numbers at ``a = 1`` in the family whose base is the small base.

``Ray`` is the careful way, one candidate at a time; ``divergences_on_grid`` the fast one, all candidates in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Entries of a block of the fast pass on a CPU: its dozen temporaries are reused (8 MB), and the time that a
# call of torch takes is small beside its work. Best of 8,192 to 131,072 entries, on two cores.
_BLOCK = 131_072
_BLOCK_WIDTH = 8_192
# Entries that fp32 sums run over: their error grows with the length, so longer sums are made of these in float64.
_SLICE = 2_048
# A power above exp(50) may make something of a probability that fp32 has lost (below 1e-38), and leaves a small
# divergence as the difference of two numbers that are too large for fp32: such candidates are not answered.
HIGHEST = 50.0


class Ray:
    """The exponential family of one base and one or more directions: its divergences at any weight.

    Args:
        base: logits ``[n, V]``.
        shift: directions ``[R, n, V]``.
        masked: entries ``[R, n, V]`` (or fewer rays) that take no part, if any.
    """

    def __init__(self, base: Tensor, shift: Tensor, masked: Tensor | None) -> None:
        if masked is not None:
            base, shift = base.masked_fill(masked, -torch.inf), shift.masked_fill(masked, 0.0)
        log_base = base.float().log_softmax(-1)
        shift = shift - (log_base.exp() * shift).sum(-1, keepdim=True)
        self.log_base, self.shift = log_base, shift if masked is None else shift.masked_fill(masked, 0.0)
        self.log_norm_0, self.mean_0, _ = self._moments(torch.zeros(self.shift.shape[:-1], device=base.device))

    def _moments(self, weight: Tensor, with_variance: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """``A(a), m(a), v(a)`` for weights ``[R, n]``; fp32 terms, sums in float64 to keep small differences."""
        logits = self.log_base + weight.unsqueeze(-1) * self.shift
        highest = logits.amax(-1, keepdim=True)
        terms = (logits - highest).exp_()
        total = terms.sum(-1, dtype=torch.float64)
        terms *= self.shift
        mean = terms.sum(-1, dtype=torch.float64) / total
        variance = None
        if with_variance:
            terms *= self.shift
            variance = terms.sum(-1, dtype=torch.float64) / total - mean.square()
        return highest.squeeze(-1).double() + total.log(), mean, variance

    def divergences(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """``KL(P_a||P_0), KL(P_0||P_a)`` for weights ``[R, n]``, in float64."""
        log_norm, mean, _ = self._moments(weight)
        return self._divergences(weight, log_norm, mean)

    def divergences_and_slopes(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The two divergences and their derivatives ``a v(a)`` and ``m(a) - m(0)``."""
        log_norm, mean, variance = self._moments(weight, with_variance=True)
        forward, backward = self._divergences(weight, log_norm, mean)
        return forward, backward, weight.double() * variance, mean - self.mean_0

    def _divergences(self, weight: Tensor, log_norm: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        weight, rise = weight.double(), log_norm - self.log_norm_0
        return (weight * mean - rise).clamp(min=0), (rise - weight * self.mean_0).clamp(min=0)


def divergences_on_grid(base: Tensor, shift: Tensor, low: Tensor, step: float, count: int) -> tuple[Tensor, Tensor]:
    """Both divergences at the weights ``low + k step``, ``k < count``, from one pass over the vocabulary.

    A candidate's terms are ``p_0 exp(low D) r^k`` with ``r = exp(step D)``. With ``k = i n + j`` the power is the
    product of ``r^(i n)`` and ``r^j``, so the sums of all candidates over the vocabulary are one product of two thin
    matrices, of about ``sqrt(count)`` rows each: two exponentials an entry and few products, however many candidates.

    Args:
        base: logits ``[n, V]`` fp32, -inf where an entry takes no part.
        shift: directions ``[R, n, V]`` fp32, 0 where an entry takes no part.
        low: the lowest weight of each ray, ``[R]``.

    Returns:
        ``[count, R, n]`` each, fp32, with errors of at most 5e-6 and 2e-5 of the divergence, usually 1e-6; not
        finite where a power is beyond the range in which that holds.
    """
    rays, rows, vocabulary = shift.shape
    columns = math.isqrt(count - 1) + 1
    factors = -(-count // columns)
    width = min(vocabulary, max(_BLOCK_WIDTH, _BLOCK // max(rows, 1)))
    height = max(1, _BLOCK // width)
    if base.device.type != "cpu":  # a GPU wants few, large launches
        width, height = vocabulary, max(1, 2**26 // (vocabulary * (2 * factors + columns)))
    probabilities = base.softmax(-1)
    centre = torch.linalg.vecdot(probabilities, shift).unsqueeze(-1)
    sums = torch.empty(rays, rows, 2 * factors, columns, dtype=torch.float64, device=base.device)
    at_zero = torch.empty(rays, rows, 2, 1, dtype=torch.float64, device=base.device)
    room = torch.empty(min(height, rows) * width * (2 * factors + columns), device=base.device)
    for ray in range(rays):
        for start in range(0, rows, height):
            part = slice(start, start + height)
            sums[ray, part], at_zero[ray, part] = _sums_of_powers(
                probabilities[part],
                shift[ray, part],
                centre[ray, part],
                float(low[ray]),
                step,
                factors,
                columns,
                width,
                room,
            )
    total = sums[:, :, :factors].flatten(2)[..., :count]
    mean = sums[:, :, factors:].flatten(2)[..., :count] / total
    weight = low.double()[:, None, None] + step * torch.arange(count, device=base.device)
    # In fp32 neither the probabilities' sum is 1 nor the centre the mean: measured as the candidates are, it cancels.
    norm = total.log() - at_zero[:, :, 0].log()
    forward, backward = weight * mean - norm, norm - weight * at_zero[:, :, 1] / at_zero[:, :, 0]
    uncertain = weight * (shift.amax(-1, keepdim=True) - centre) > HIGHEST
    found = torch.stack([forward, backward]).clamp(min=0).masked_fill(uncertain, torch.nan)
    forward, backward = found.float().movedim(-1, 1)
    return forward, backward


def _sums_of_powers(
    probabilities: Tensor,
    shift: Tensor,
    centre: Tensor,
    low: float,
    step: float,
    factors: int,
    columns: int,
    width: int,
    room: Tensor,
) -> tuple[Tensor, Tensor]:
    """``sum_v p r^k`` and ``sum_v p r^k D``, ``k = i columns + j``: ``[rows, 2 factors, columns]``, and at weight 0."""
    rows, vocabulary = probabilities.shape
    sums = torch.zeros(rows, 2 * factors, columns, dtype=torch.float64, device=shift.device)
    at_zero = torch.zeros(rows, 2, 1, dtype=torch.float64, device=shift.device)
    for block, length in _blocks(vocabulary, width):
        shifted = (shift[:, block] - centre).unflatten(-1, (-1, length))  # [rows, slices, length]
        given = probabilities[:, block].unflatten(-1, (-1, length))
        # Room that is there already: fresh pages for every block would cost as much as the work in them.
        slices = shifted.shape[:2]
        terms = room[: shifted.numel() * 2 * factors].view(*slices, 2 * factors, length)
        powers = room[terms.numel() : terms.numel() + shifted.numel() * columns].view(*slices, columns, length)
        powers[:, :, 0] = 1.0
        ratio = (shifted * step).exp_() if columns > 1 else shifted
        for column in range(1, columns):
            torch.mul(powers[:, :, column - 1], ratio, out=powers[:, :, column])
        if factors > 1:  # anew, as a product would raise the rounding of the first ratio to every power
            torch.mul(shifted, step * columns, out=ratio).exp_()
        terms[:, :, 0] = given
        if low:
            at_zero[:, 0, 0] += given.sum(-1).sum(-1, dtype=torch.float64)
            at_zero[:, 1, 0] += torch.linalg.vecdot(given, shifted).sum(-1, dtype=torch.float64)
            terms[:, :, 0] *= (shifted * low).exp_()
        for factor in range(1, factors):
            torch.mul(terms[:, :, factor - 1], ratio, out=terms[:, :, factor])
        torch.mul(terms[:, :, :factors], shifted[:, :, None], out=terms[:, :, factors:])
        products = torch.bmm(terms.flatten(0, 1), powers.flatten(0, 1).transpose(1, 2))
        sums += products.unflatten(0, slices).sum(1, dtype=torch.float64)
    return sums, at_zero if low else sums[:, ::factors, :1][:, :2]


def _blocks(vocabulary: int, width: int) -> Iterator[tuple[slice, int]]:
    """Blocks of the vocabulary that are worked on at a time, and the length of the slices that each divides into."""
    whole = vocabulary - vocabulary % _SLICE
    for start in range(0, whole, max(width - width % _SLICE, _SLICE)):
        yield slice(start, min(start + max(width - width % _SLICE, _SLICE), whole)), _SLICE
    if whole < vocabulary:
        yield slice(whole, vocabulary), vocabulary - whole
