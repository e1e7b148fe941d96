"""The grid rule on a GPU: four kernels in Triton, where torch would launch some hundred.

A GPU takes less time for the search than its host takes to launch it piece by piece. What is found is what
``rules.grid`` finds; its careful pass (sums in float64, near ties to the lowest weight) is the only one here, because
all candidates share two exponentials an entry, as powers of ``exp(step D)``:

1. ``_summarise``: of every block of the vocabulary, what a softmax and a mean over all of it need;
2. ``_combine``: their centres, and the experts' shares of a pool, of every row;
3. ``_add_up``: of every block, the sums that ``divergences`` describes, of every candidate and of the targets;
4. ``_choose``: the losses, and the best candidate of every row.

Rows that fp32 probabilities can't answer (see ``divergences``) and those that are refused have a loss that is not
finite. The kernels read what the models gave in its own precision, and nothing of a vocabulary's length is written.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from logitfusion.fusion.divergences import HIGHEST
from logitfusion.fusion.rules import RESOLUTION, Search, Solved

# Entries that a program works on, and its warps: sums of so many stay precise in fp32, where the centres are found.
BLOCK = 2_048
_WARPS = 8
MOST_CANDIDATES = 1_000  # of a ray: one program compares them all
# Numbers of a softmax's part: its highest logit, the sum of exp(logit - highest), and that sum weighted by a value.
_PARTS = tl.constexpr(3)
# Of a row and an expert: highest logit, sum and centre, of the large model and of the base; the expert's share.
_NUMBERS = tl.constexpr(7)


# Batches shrink while they are decoded: a kernel is compiled for a vocabulary, not for every number of rows.
_kernel = triton.jit(do_not_specialize=["rows", "blocks"])
_up = triton.next_power_of_2


def solve(large: Tensor, base: Tensor, experts: Tensor, search: Search) -> Solved:
    """Weights ``[T, n]`` and loss ``[n]`` in fp32; a loss that is not finite says that another way must answer.

    Args:
        large, base: logits ``[n, V]``, any float type.
        experts: logits ``[T, n, V]``.
    """
    (count, rows, vocabulary), (candidates, rays), selection = experts.shape, search.grids.shape, search.selection
    models = [part.contiguous() for part in (large, base, experts)]
    blocks, slots = triton.cdiv(vocabulary, BLOCK), candidates + 3
    empty = partial(torch.empty, dtype=torch.float32, device=large.device)
    parts, numbers = empty(rows, count, blocks, 3 * _PARTS.value), empty(rows, count, _NUMBERS.value)
    sums = empty(rows, rays, blocks, slots, 2, dtype=torch.float64)
    weights, loss = empty(count, rows), empty(rows)
    sizes, grid = {"rows": rows, "vocabulary": vocabulary, "blocks": blocks}, {"COUNT": candidates, "STEP": search.step}
    block = {"EXPERTS": count, "BLOCK": BLOCK, "num_warps": _WARPS}
    with torch.cuda.device_of(large):  # kernels run on the current device
        _summarise[rows * blocks, count](*models, parts, **sizes, **block)
        widths = {"EXPERTS": count, "EXPERTS_UP": _up(count), "BLOCKS_UP": _up(blocks)}
        _combine[(rows,)](parts, numbers, blocks, **widths, POOL=selection.pools, SHARPNESS=selection.sharpness or 0.0)
        members = count if selection.pools else 1
        _add_up[rows * blocks, rays](
            *models, numbers, search.grids, sums, **sizes, **block, **grid, MEMBERS=members, HIGHEST=HIGHEST
        )
        widths = {"EXPERTS": count, "RAYS": rays, "RAYS_UP": _up(rays), "SLOTS_UP": _up(slots)}
        decided = {"RESOLUTION": RESOLUTION, "EVERY_TARGET": selection.every_target, "POOL": selection.pools}
        _choose[(rows,)](sums.sum(2), search.grids, numbers, weights, loss, rows, **widths, **grid, **decided)
    return weights, loss


@triton.jit
def _read(large, base, experts, row, block, rows, vocabulary, EXPERTS: tl.constexpr, BLOCK: tl.constexpr):
    """A block of a row: where it is, the logits of large model and base there, and which entries take no part."""
    column = block * BLOCK + tl.arange(0, BLOCK)
    place = row * vocabulary + column
    inside = column < vocabulary
    large_logits = tl.load(large + place, mask=inside, other=float("-inf")).to(tl.float32)
    base_logits = tl.load(base + place, mask=inside, other=float("-inf")).to(tl.float32)
    left_out = (large_logits == float("-inf")) | (base_logits == float("-inf"))
    for expert in tl.static_range(EXPERTS):
        logits = _read_expert(experts, expert, rows, vocabulary, place, inside)
        left_out = left_out | (inside & (logits == float("-inf")))
    return place, large_logits, base_logits, left_out


@triton.jit
def _read_expert(experts, expert, rows, vocabulary, place, inside):
    return tl.load(experts + expert * rows * vocabulary + place, mask=inside, other=0.0).to(tl.float32)


@_kernel
def _summarise(
    large, base, experts, parts, rows, vocabulary, blocks, EXPERTS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Parts ``[n, T, blocks, 9]``: of the mean shift under large model and base, of the large logits' under expert."""
    row, block, expert = tl.program_id(0) // blocks, tl.program_id(0) % blocks, tl.program_id(1)
    place, large_logits, base_logits, left_out = _read(
        large, base, experts, row, block, rows, vocabulary, EXPERTS, BLOCK
    )
    logits = _read_expert(experts, expert, rows, vocabulary, place, ~left_out)
    shift = logits - base_logits
    part = parts + ((row * EXPERTS + expert) * blocks + block) * (3 * _PARTS)
    _store_part(part, large_logits, shift, left_out)
    _store_part(part + _PARTS, base_logits, shift, left_out)
    _store_part(part + 2 * _PARTS, logits, large_logits, left_out)


@triton.jit
def _store_part(part, logits, values, left_out):
    highest = tl.max(tl.where(left_out, float("-inf"), logits), 0)
    terms = tl.where(left_out, 0.0, tl.exp(logits - highest))
    tl.store(part, highest)
    tl.store(part + 1, tl.sum(terms, 0))
    tl.store(part + 2, tl.sum(terms * tl.where(left_out, 0.0, values), 0))


@triton.jit
def _merge(part, there):
    """Highest logit, sum and mean value ``[T]`` of a softmax, from its parts ``[T, blocks]``."""
    highest = tl.load(part, mask=there, other=float("-inf"))
    of_all = tl.max(highest, 1)
    scale = tl.where(highest == float("-inf"), 0.0, tl.exp(highest - of_all[:, None]))
    total = tl.sum(scale * tl.load(part + 1, mask=there, other=0.0), 1)
    return of_all, total, tl.sum(scale * tl.load(part + 2, mask=there, other=0.0), 1) / total


@_kernel
def _combine(
    parts, numbers, blocks,
    EXPERTS: tl.constexpr, EXPERTS_UP: tl.constexpr, BLOCKS_UP: tl.constexpr,
    POOL: tl.constexpr, SHARPNESS: tl.constexpr,
):  # fmt: skip
    """Numbers ``[n, T, 7]``; names that end in UP are the next powers of 2."""
    row, expert, block = tl.program_id(0), tl.arange(0, EXPERTS_UP), tl.arange(0, BLOCKS_UP)
    known = expert < EXPERTS
    there = known[:, None] & (block < blocks)[None]
    part = parts + ((row * EXPERTS + expert[:, None]) * blocks + block[None]) * (3 * _PARTS)
    number = numbers + (row * EXPERTS + expert) * _NUMBERS
    for model in tl.static_range(2):
        highest, total, centre = _merge(part + model * _PARTS, there)
        tl.store(number + 3 * model, highest, mask=known)
        tl.store(number + 3 * model + 1, total, mask=known)
        tl.store(number + 3 * model + 2, centre, mask=known)
    share = tl.full((EXPERTS_UP,), 1.0, tl.float32)
    if POOL:
        _, _, opinion = _merge(part + 2 * _PARTS, there)
        opinion = tl.where(known, SHARPNESS * opinion, float("-inf"))
        share = tl.exp(opinion - tl.max(opinion, 0))
        share = share / tl.sum(share, 0)
    tl.store(number + 6, share, mask=known)


@_kernel
def _add_up(
    large, base, experts, numbers, grids, sums, rows, vocabulary, blocks,
    EXPERTS: tl.constexpr, MEMBERS: tl.constexpr, COUNT: tl.constexpr, STEP: tl.constexpr, HIGHEST: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums ``[n, R, blocks, COUNT + 3, 2]``: large model at weight 0 and all candidates, base at weights 0 and 1."""
    row, block, ray = tl.program_id(0) // blocks, tl.program_id(0) % blocks, tl.program_id(1)
    place, large_logits, base_logits, left_out = _read(
        large, base, experts, row, block, rows, vocabulary, EXPERTS, BLOCK
    )
    shift = tl.zeros((BLOCK,), tl.float32)
    large_centre, base_centre = 0.0, 0.0
    number = numbers + (row * EXPERTS + ray) * _NUMBERS
    for member in tl.static_range(MEMBERS):
        share = tl.load(number + member * _NUMBERS + 6)
        shift += share * (_read_expert(experts, ray + member, rows, vocabulary, place, ~left_out) - base_logits)
        large_centre += share * tl.load(number + member * _NUMBERS + 2)
        base_centre += share * tl.load(number + member * _NUMBERS + 5)
    stored = sums + ((row * tl.num_programs(1) + ray) * blocks + block) * (2 * COUNT + 6)
    low = tl.load(grids + ray)
    _store_sums(stored, number, large_logits, shift - large_centre, left_out, low, COUNT, STEP, HIGHEST)
    _store_sums(stored + 2 * COUNT + 2, number + 3, base_logits, shift - base_centre, left_out, 1.0, 1, STEP, HIGHEST)


@triton.jit
def _store_sums(
    stored, number, logits, shift, left_out, low, COUNT: tl.constexpr, STEP: tl.constexpr, HIGHEST: tl.constexpr
):  # fmt: skip
    """``sum_v p exp(a D)`` and ``sum_v p exp(a D) D`` at the weights 0, low, low + STEP, ...: ``[COUNT + 1, 2]``."""
    terms = tl.where(left_out, 0.0, tl.exp(logits - tl.load(number)) / tl.load(number + 1)).to(tl.float64)
    shift = tl.where(left_out, 0.0, shift).to(tl.float64)
    beyond = tl.max(shift, 0) * (low + (COUNT - 1) * STEP) > HIGHEST
    tl.store(stored, tl.sum(terms, 0))
    tl.store(stored + 1, tl.sum(terms * shift, 0))
    terms *= tl.where(beyond, float("nan"), tl.exp(shift * low))
    ratio = tl.exp(shift * STEP)
    for slot in range(1, COUNT + 1):
        tl.store(stored + 2 * slot, tl.sum(terms, 0))
        tl.store(stored + 2 * slot + 1, tl.sum(terms * shift, 0))
        terms *= ratio


@_kernel
def _choose(
    sums, grids, numbers, weights, losses, rows,
    EXPERTS: tl.constexpr, RAYS: tl.constexpr, RAYS_UP: tl.constexpr, COUNT: tl.constexpr, SLOTS_UP: tl.constexpr,
    STEP: tl.constexpr, RESOLUTION: tl.constexpr, EVERY_TARGET: tl.constexpr, POOL: tl.constexpr,
):  # fmt: skip
    """Weights ``[T, n]`` and losses ``[n]``: of losses that are as good as equal the lowest weight, then ray."""
    row, ray, slot = tl.program_id(0), tl.arange(0, RAYS_UP)[:, None], tl.arange(0, SLOTS_UP)[None]
    there = (ray < RAYS) & (slot >= 1) & (slot <= COUNT)
    grid = tl.load(grids + (slot - 1) * RAYS + ray, mask=there, other=float("inf"))
    forward, backward = _divergences(sums + 2 * row * RAYS * (COUNT + 3), grid, ray, slot, RAYS, COUNT, STEP)
    loss = _loss(forward, backward, ray, slot == COUNT + 2, RAYS, EVERY_TARGET)
    there = there & (grid < float("inf"))
    finite = _of_all(tl.where(there, loss, 0.0)) < float("inf")
    loss = tl.where(there, loss, float("inf"))
    lowest = tl.min(tl.min(loss, 1), 0)
    tied = loss <= lowest + 2 * tl.sqrt(lowest) * RESOLUTION + RESOLUTION * RESOLUTION
    weight = tl.min(tl.min(tl.where(tied, grid, float("inf")), 1), 0)
    tied = tied & (grid == weight)
    first = tl.min(tl.min(tl.where(tied, ray, RAYS), 1), 0)
    tl.store(losses + row, tl.where(finite, _of_all(tl.where(tied & (ray == first), loss, 0.0)), float("nan")))
    for expert in tl.static_range(EXPERTS):
        share = tl.load(numbers + (row * EXPERTS + expert) * _NUMBERS + 6)
        if not POOL:
            share = tl.where(first == expert, share, 0.0)
        tl.store(weights + expert * rows + row, weight * share)


@triton.jit
def _divergences(sums, grid, ray, slot, RAYS: tl.constexpr, COUNT: tl.constexpr, STEP: tl.constexpr):
    """Both divergences ``[R, slots]`` at the weights that ``_add_up`` has."""
    place, there = sums + 2 * (ray * (COUNT + 3) + slot), (ray < RAYS) & (slot < COUNT + 3)
    total, weighted = tl.load(place, mask=there, other=1.0), tl.load(place + 1, mask=there, other=0.0)
    of_base = slot > COUNT
    none_total = tl.where(of_base, _at(total, slot == COUNT + 1), _at(total, slot == 0))
    none_weighted = tl.where(of_base, _at(weighted, slot == COUNT + 1), _at(weighted, slot == 0))
    # The multiples of the step, as the sums have them; what the grid holds is rounded to fp32.
    weight = _at(grid, slot == 1).to(tl.float64) + (slot - 1).to(tl.float64) * STEP
    weight = tl.where(of_base, (slot - (COUNT + 1)).to(tl.float64), weight)
    rise = tl.log(total) - tl.log(none_total)
    forward, backward = weight * weighted / total - rise, rise - weight * none_weighted / none_total
    return tl.where(forward < 0, 0.0, forward), tl.where(backward < 0, 0.0, backward)  # NaN stays


@triton.jit
def _loss(forward, backward, ray, aimed, RAYS: tl.constexpr, EVERY_TARGET: tl.constexpr):
    """The loss ``[R, slots]`` of divergences, whose targets are in the column ``aimed``."""
    if EVERY_TARGET:
        loss = forward * 0.0
        for target in tl.static_range(RAYS):
            aim = aimed & (ray == target)
            loss += _square(forward - _of_all(tl.where(aim, forward, 0.0)))
            loss += _square(backward - _of_all(tl.where(aim, backward, 0.0)))
    else:
        loss = _square(forward - _at(forward, aimed)) + _square(backward - _at(backward, aimed))
    return loss


@triton.jit
def _square(values):
    return values * values


@triton.jit
def _at(values, where):
    """What ``values [R, slots]`` are in the one column that is true, ``[R, 1]``."""
    return tl.sum(tl.where(where, values, 0.0), 1)[:, None]


@triton.jit
def _of_all(values):
    return tl.sum(tl.sum(values, 1), 0)
