"""A teacher at hand whose positions are grouped by bytes, against loops over groups and against its own cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_distill_gold import response_ends
from torch import Tensor

from logitfusion.distill import CachedTeacher, Teacher, distill_loss, predict
from logitfusion.distill.alignment import align
from logitfusion.distill.predictions import IGNORED
from logitfusion.distill.sorted_l1 import SortedL1

SMALL = settings(max_examples=40, deadline=None, derandomize=True)
Ends = list[tuple[list[int], list[int]]]  # of each text: the student's and the teacher's


def side(seed: int, ends: list[list[int]], width: int) -> tuple[Tensor, Tensor]:
    """Logits in float64 of responses of so many tokens behind prompts of unlike length, and labels."""
    generator = torch.Generator().manual_seed(seed)
    length = max(map(len, ends)) + len(ends) + 1
    labels = torch.full((len(ends), length), IGNORED)
    for row, text in enumerate(ends):
        labels[row, row + 1 : row + 1 + len(text)] = torch.randint(width, (len(text),), generator=generator)
    return 2 * torch.randn(*labels.shape, width, generator=generator, dtype=torch.float64), labels


def count_through(ends: Ends) -> Tensor:
    """The groups of all texts, whose tokens are counted over the batch."""
    groups, first, other = [], 0, 0
    for ours, theirs in ends:
        groups.append(align(ours, theirs) + torch.tensor([first, first, other, other]))
        first, other = first + len(ours), other + len(theirs)
    return torch.cat(groups)


def responses(logits: Tensor, labels: Tensor) -> tuple[list[Tensor], list[int]]:
    """The distribution before each label of the batch, and the labels."""
    places = [
        (row, place) for row, text in enumerate(labels.tolist()) for place in range(len(text)) if text[place] >= 0
    ]
    return [logits[row, place - 1].softmax(-1) for row, place in places], [int(labels[place]) for place in places]


def naive_uld(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], groups: Tensor) -> Tensor:
    """Sorted L1 of the distributions of all groups, each times the probabilities of the group's earlier tokens."""
    total = student[0].new_zeros(())
    (ours, own), (theirs, others) = responses(*student), responses(*teacher)
    for first, last, start, end in groups.tolist():
        merged = []
        for rows, labels, begin, stop in ((ours, own, first, last), (theirs, others, start, end)):
            chance = (
                torch.stack([rows[place][labels[place]] for place in range(begin, stop)]).prod() if stop > begin else 1
            )
            merged.append((chance * rows[stop]).sort(descending=True).values)
        size = max(map(len, merged))
        first, second = (torch.nn.functional.pad(row, (0, size - len(row))) for row in merged)
        total = total + (first - second).abs().sum()
    return total


@SMALL
@given(
    seed=st.integers(0, 10**6),
    ends=st.lists(st.tuples(response_ends(7), response_ends(7)), min_size=1, max_size=3),
    widths=st.tuples(st.integers(2, 12), st.integers(2, 12)),
)
def test_whole_vocabularies_are_compared_group_by_group(seed: int, ends: Ends, widths: tuple[int, int]) -> None:
    """The loss and its gradient, which flows through the earlier tokens of a group as well."""
    student, labels = side(seed, [text for text, _ in ends], widths[0])
    teacher, others = side(seed + 1, [text for _, text in ends], widths[1])
    student.requires_grad_()
    groups = count_through(ends)
    options: dict[str, Any] = {"uld_weight": 1.0, "gld_weight": 0.0, "tokens": 1}
    found = distill_loss(student, labels, [Teacher(teacher, others, groups=groups)], **options)
    expected = naive_uld((student, labels), (teacher, others), groups)
    torch.testing.assert_close(found.total, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (found.total, expected)))


@pytest.mark.parametrize("combine", ["sum", "weighted", "min_ce"])
@pytest.mark.parametrize("k", [None, 12])
@pytest.mark.parametrize("kl", [0.0, 0.2])
def test_a_teacher_at_hand_is_its_cache_of_all_tokens(combine: str, k: int | None, kl: float) -> None:
    """With byte groups, of which some are merged and some tokens are in none: values and gradients of all terms."""
    ends = [([1, 3, 4, 6, 7], [2, 3, 6, 7]), ([1, 2], [1, 2]), ([4, 5], [1, 2, 3, 4])]
    student, labels = side(1, [text for text, _ in ends], 12)
    student.requires_grad_()
    groups, losses = count_through(ends), []
    sides = [side(seed, [text for _, text in ends], 12) for seed in (2, 3)]
    for made in ("at hand", "cached"):
        teachers = [
            Teacher(*one, weight, groups) if made == "at hand" else CachedTeacher(predict(*one, 12), groups, weight)
            for one, weight in zip(sides, (0.5, 2.0), strict=True)
        ]
        options = {"k": 12, "uld_k": k if made == "at hand" else 12, "combine": combine, "divergence": "jsd"}
        losses.append(distill_loss(student, labels, teachers, uld_weight=0.3, gld_weight=0.2, kl_weight=kl, **options))
    for part in ("total", "sft", "uld", "gld", "kl"):
        torch.testing.assert_close(*(getattr(loss, part) for loss in losses))
    torch.testing.assert_close(*(torch.autograd.grad(loss.total, student)[0] for loss in losses))
    assert (losses[0].kl > 0) == bool(kl)


def test_a_group_of_an_impossible_token_has_no_probability() -> None:
    """And no gradient that is not a number: the student can't make the earlier token of the group."""
    student, labels = side(4, [[1, 2]], 5)
    teacher, others = side(5, [[2]], 5)
    student[0, 0, labels[0, 1]] = -torch.inf
    student.requires_grad_()
    groups = torch.tensor([[0, 1, 0, 0]])
    one = Teacher(teacher, others, groups=groups)
    found = distill_loss(student, labels, [one], sft_weight=0.0, uld_weight=1.0, gld_weight=0.0, tokens=1)
    torch.testing.assert_close(found.total, torch.ones((), dtype=torch.float64))  # all that the teacher has
    assert torch.autograd.grad(found.total, student)[0].isfinite().all()


def test_sorting_takes_gradients_of_what_multiplies_the_students_side() -> None:
    """By finite differences, of logits and of the logarithm of the factor."""
    generator = torch.Generator().manual_seed(6)
    student, teacher = (torch.randn(1, 3, width, generator=generator, dtype=torch.float64) for width in (7, 5))
    factors = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    pairs = torch.tensor([[0, 0, 1], [0, 1, 2], [0, 2, 0]])

    def loss(logits: Tensor, own: Tensor) -> Tensor:
        return SortedL1.apply(logits, teacher, pairs, torch.stack([own, factors[:, 1]], dim=1))

    torch.autograd.gradcheck(loss, (student.requires_grad_(), factors[:, 0].clone().requires_grad_()))


def test_groups_of_tokens_that_are_not_there_are_refused() -> None:
    student, labels = side(7, [[1, 2]], 5)
    teacher, others = side(8, [[1, 2]], 5)
    for groups in ([[0, 0, 0, 2]], [[2, 2, 0, 0]], [[-1, 0, 0, 0]]):
        one = Teacher(teacher, others, groups=torch.tensor(groups))
        for name in ("uld_weight", "kl_weight"):
            options = {"uld_weight": 0.0, "gld_weight": 0.0} | {name: 0.5}
            with pytest.raises(ValueError, match="groups name tokens"):
                distill_loss(student, labels, [one], **options)
