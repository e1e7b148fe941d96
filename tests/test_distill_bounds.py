"""Bounds of the Gromov-Wasserstein distance: against all permutations of small graphs, and against POT where it is."""

from __future__ import annotations

import naive_gld as naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from logitfusion.distill import gld_loss
from logitfusion.distill.bounds import BOUNDS, LOWER, UPPER, gromov_bound

SMALL = settings(max_examples=12, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)
ORDERS = pytest.mark.parametrize("order", [1, 2])


def graph(seed: int, size: int, positions: int = 4) -> Tensor:
    """Positive semi-definite, as a sum of outer products."""
    rows = torch.randn(positions, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows.T @ rows


def bounds(first: Tensor, second: Tensor, order: int) -> dict[str, float]:
    return {name: float(gromov_bound(first, second, bound=name, order=order)) for name in BOUNDS}


@SMALL
@given(seed=SEEDS, size=st.integers(1, 5), positions=st.integers(1, 8))
def test_the_distance_lies_between_the_bounds(seed: int, size: int, positions: int) -> None:
    first, second = graph(seed, size, positions), graph(seed + 1, size, positions)
    found, exact = bounds(first, second, 2), naive.gromov(first, second, 2)
    assert all(found[name] <= exact + 1e-9 for name in LOWER)
    assert all(found[name] >= exact - 1e-9 for name in UPPER)


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_lies_between_the_bounds_at_six_nodes(seed: int) -> None:
    first, second = graph(seed, 6), graph(seed + 100, 6)
    found, exact = bounds(first, second, 2), naive.gromov(first, second, 2)
    assert max(found[name] for name in LOWER) <= exact + 1e-9
    assert min(found[name] for name in UPPER) >= exact - 1e-9


@ORDERS
@SMALL
@given(seed=SEEDS, sizes=st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_bounds_are_ordered(order: int, seed: int, sizes: tuple[int, int]) -> None:
    found = bounds(graph(seed, sizes[0]), graph(seed + 1, sizes[1]), order)
    assert max(found["flb"], found["slb"]) <= found["tlb"] + 1e-9
    assert found["tlb"] <= min(found[name] for name in UPPER) + 1e-9


@ORDERS
@pytest.mark.parametrize("bound", LOWER + ("sorted_plan",))
@SMALL
@given(seed=SEEDS, order_of_nodes=st.permutations(range(7)))
def test_equal_graphs_are_at_distance_0(bound: str, order: int, seed: int, order_of_nodes: list[int]) -> None:
    first = graph(seed, 7)
    moved = first[order_of_nodes][:, order_of_nodes]
    assert gromov_bound(first, moved, bound=bound, order=order) < 1e-9


@ORDERS
@pytest.mark.parametrize("bound", BOUNDS)
def test_splitting_nodes_changes_nothing(bound: str, order: int) -> None:
    first, second = graph(1, 4), graph(2, 6)
    split = first.repeat_interleave(3, 0).repeat_interleave(3, 1)
    expected = gromov_bound(first, second, bound=bound, order=order)
    torch.testing.assert_close(gromov_bound(split, second, bound=bound, order=order), expected)
    torch.testing.assert_close(gromov_bound(second, first, bound=bound, order=order), expected)


def test_gld_as_published_is_the_first_lower_bound() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = [torch.randn(1, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
    graphs = [(rows := naive.matrix(part[0], 3, "vocab", "logprob")).T @ rows for part in logits]
    assert all((rows != 0).any(0).all() for rows in graphs)  # every channel is a node
    found = gld_loss(*logits, k=3, signal="logprob", normalize="none")
    torch.testing.assert_close(found, 36 * gromov_bound(*graphs, bound="flb", order=1))


def test_a_cycle_of_six_and_two_triangles() -> None:
    """Zero to all lower bounds: rows have not only equal sums but equal entries."""
    cycle, triangles = torch.zeros(2, 6, 6, dtype=torch.float64)
    for node in range(6):
        cycle[node, (node + 1) % 6] = cycle[(node + 1) % 6, node] = 1.0
        for other in range(6):
            triangles[node, other] = float(node // 3 == other // 3 and node != other)
    exact = naive.gromov(cycle, triangles, 2)
    assert exact**2 == pytest.approx(2 / 9)
    found = bounds(cycle, triangles, 2)
    assert [found[name] for name in LOWER] == [0, 0, 0]
    assert min(found[name] for name in UPPER) >= exact - 1e-9


@ORDERS
@pytest.mark.parametrize("bound", BOUNDS)
def test_gradients_flow_through_entries(bound: str, order: int) -> None:
    first, second = graph(4, 5).requires_grad_(), graph(5, 4)
    # Of symmetric matrices only: pairs of equal entries are kinks where just one of the two moves.
    assert torch.autograd.gradcheck(
        lambda one: gromov_bound((one + one.T) / 2, second, bound=bound, order=order), first
    )
    assert torch.autograd.grad(gromov_bound(first, first, bound=bound, order=order), first)[0].isfinite().all()


def test_wrong_inputs_are_refused() -> None:
    square = torch.ones(3, 3)
    for given_graphs in ((square, torch.ones(3, 4)), (torch.ones(3), square), (square, torch.ones(0, 0))):
        with pytest.raises(ValueError, match="square matrix"):
            gromov_bound(*given_graphs, bound="flb")
    with pytest.raises(ValueError, match="bound is one of"):
        gromov_bound(square, square, bound="other")
    with pytest.raises(ValueError, match="order 1 or 2"):
        gromov_bound(square, square, bound="flb", order=3)
    with pytest.raises(ValueError, match="small graphs"):
        gromov_bound(torch.ones(64, 64), torch.ones(63, 63), bound="flb")


@pytest.mark.parametrize("sizes", [(5, 5), (4, 6), (7, 3)])
def test_against_pot(sizes: tuple[int, int]) -> None:
    import ot

    first, second = (graph(seed, size) for seed, size in enumerate(sizes))
    found = bounds(first, second, 2)
    means, entries = (
        [one.mean(1).numpy() for one in (first, second)],
        [one.flatten().numpy() for one in (first, second)],
    )
    assert found["flb"] ** 2 == pytest.approx(float(ot.wasserstein_1d(*means, p=2)))
    assert found["slb"] ** 2 == pytest.approx(float(ot.wasserstein_1d(*entries, p=2)))
    weights = [ot.unif(size) for size in sizes]
    generator = torch.Generator().manual_seed(0)
    reached = []
    for _ in range(10):  # a local search: whatever it finds is not less than the distance
        start = ot.sinkhorn(*weights, torch.rand(*sizes, generator=generator, dtype=torch.float64).numpy(), 0.1)
        graphs = first.numpy(), second.numpy()
        reached.append(ot.gromov.gromov_wasserstein2(*graphs, *weights, "square_loss", G0=start))
    assert max(found[name] for name in LOWER) ** 2 <= min(reached) + 1e-9
