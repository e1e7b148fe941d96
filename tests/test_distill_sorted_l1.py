"""ULD over whole vocabularies, whose gradient is found without the order of the tokens."""

from __future__ import annotations

from itertools import permutations

import naive_gld as naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from logitfusion.distill import uld_loss
from logitfusion.distill.sorted_l1 import SortedL1OfRows

SMALL = settings(max_examples=20, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)


def draw(seed: int, *shapes: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


def by_sorting(student: Tensor, teacher: Tensor) -> Tensor:
    """The definition, by autograd through torch's sort; the mean over orders where tokens are equal is not in it."""
    sides = [part.softmax(-1).sort(dim=-1, descending=True).values for part in (student, teacher)]
    size = max(part.shape[-1] for part in sides)
    ours, theirs = (pad(part, (0, size - part.shape[-1])) for part in sides)
    return (ours - theirs).abs().sum()


@SMALL
@given(seed=SEEDS, levels=st.lists(st.sampled_from([-1.0, 0.5, 2.0]), min_size=4, max_size=4))
def test_equal_tokens_have_the_mean_of_the_gradients_of_all_orders(seed: int, levels: list[float]) -> None:
    (teacher,) = draw(seed, (1, 1, 6), dtype=torch.float64)
    student = torch.tensor(levels, dtype=torch.float64)[None, None].requires_grad_()
    orders = [torch.tensor(order) for order in permutations(range(4))]
    expected = [gradient(naive.uld(student[0, :, order], teacher[0]), student) for order in orders]
    torch.testing.assert_close(gradient(uld_loss(student, teacher), student), torch.stack(expected).mean(0))


@SMALL
@given(
    seed=SEEDS,
    widths=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    alike=st.booleans(),
)
def test_a_vocabulary_of_thousands_has_the_gradient_of_the_definition(
    seed: int, widths: tuple[int, int], dtype: torch.dtype, alike: bool
) -> None:
    student, teacher = draw(seed, *((1, 2, width) for width in widths), dtype=torch.float32)
    student, teacher = student.to(dtype), teacher.to(dtype)
    if alike:  # curves that cross everywhere
        size = min(widths)
        teacher[..., :size] = student[..., :size] + 1e-3 * teacher[..., :size]
    student.requires_grad_()
    exact = student.detach().double().requires_grad_()
    expected = gradient(by_sorting(exact, teacher.double()) / 2, exact)
    found = gradient(uld_loss(student, teacher), student)
    # Where the curves meet to rounding, either side is right.
    rounding = 1e-4 if dtype == torch.float32 else 1e-9
    assert (found.double() - expected).abs().sum() <= rounding * max(expected.abs().sum(), 0.1)


@SMALL
@given(seed=SEEDS, widths=st.tuples(st.integers(0, 40), st.integers(0, 40)), size=st.sampled_from([0.0, 1e-3, 1.0]))
def test_rows_of_given_probabilities_are_compared(seed: int, widths: tuple[int, int], size: float) -> None:
    """Parts of distributions, of which one side may have none."""
    student, teacher = (size * part.sigmoid() for part in draw(seed, *((3, n) for n in widths), dtype=torch.float64))
    student.requires_grad_()
    padded = [pad(part, (0, max(widths) - part.shape[1])).sort(dim=1).values for part in (student, teacher)]
    expected = (padded[0] - padded[1]).abs().sum(1)
    found = SortedL1OfRows.apply(student, teacher)
    torch.testing.assert_close(found, expected)
    weights = torch.arange(1.0, 4.0, dtype=torch.float64)
    if size > 0:  # else all are equal
        torch.testing.assert_close(*(gradient((weights * one).sum(), student) for one in (found, expected)))


def test_identical_models_have_no_gradient() -> None:
    (student,) = draw(1, (2, 4, 500), dtype=torch.float32)
    student.requires_grad_()
    loss = uld_loss(student, student.detach().flip(-1))
    assert loss == 0
    assert gradient(loss, student).abs().max() == 0


@pytest.mark.parametrize("excluded", [0, 3, 9])
def test_excluded_tokens_have_no_gradient(excluded: int) -> None:
    student, teacher = draw(2, (1, 3, 10), (1, 3, 6), dtype=torch.float64)
    student[..., :excluded] = -torch.inf
    student.requires_grad_()
    found = gradient(uld_loss(student, teacher), student)
    assert (found[..., :excluded] == 0).all()
    rest = student.detach()[..., excluded:].requires_grad_()
    torch.testing.assert_close(found[..., excluded:], gradient(uld_loss(rest, teacher), rest))
