"""ULD over whole vocabularies, whose gradient is found without the order of the tokens."""

from __future__ import annotations

from itertools import permutations

import naive_gld as naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from logitfusion.distill import uld_loss

SMALL = settings(max_examples=40, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)


def draw(seed: int, *shapes: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


@SMALL
@given(seed=SEEDS, levels=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=5, max_size=5))
def test_equal_tokens_have_the_mean_of_the_gradients_of_all_orders(seed: int, levels: list[float]) -> None:
    (teacher,) = draw(seed, (1, 1, 7), dtype=torch.float64)
    student = torch.tensor(levels, dtype=torch.float64)[None, None].requires_grad_()
    orders = [torch.tensor(order) for order in permutations(range(5))]
    expected = [gradient(naive.uld(student[0, :, order], teacher[0]), student) for order in orders]
    torch.testing.assert_close(gradient(uld_loss(student, teacher), student), torch.stack(expected).mean(0))


@SMALL
@given(
    seed=SEEDS,
    widths=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    shift=st.sampled_from([0.0, -40.0, 700.0]),
    alike=st.booleans(),
)
def test_a_vocabulary_of_thousands_has_the_gradient_of_the_definition(
    seed: int, widths: tuple[int, int], dtype: torch.dtype, shift: float, alike: bool
) -> None:
    student, teacher = (shift + part for part in draw(seed, *((1, 2, width) for width in widths), dtype=torch.float32))
    if alike:  # curves that cross all the time
        size = min(widths)
        teacher[..., :size] = student[..., :size] + 1e-3 * teacher[..., :size]
    student, teacher = student.to(dtype).requires_grad_(), teacher.to(dtype)
    exact = student.detach().double().requires_grad_()
    expected = gradient(uld_loss(exact, teacher.double()), exact)
    found = gradient(uld_loss(student, teacher), student)
    assert (found.double() - expected).abs().sum() <= (1e-4 if dtype == torch.float32 else 1e-2) * max(
        expected.abs().sum(), 1e-3
    )


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
