"""Groups of tokens that two tokenizers have in common, and the factors of the shifted chain rule."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitfusion.distill.alignment import align, group_factors, share, truncate

ENDS = st.lists(st.integers(0, 12), max_size=12).map(sorted)


def naive_groups(student: list[int], teacher: list[int]) -> list[list[int]]:
    """Boundaries are the ends that both sides have; a token belongs to the first boundary not before its end."""
    boundaries = sorted(set(student) & set(teacher))
    groups = []
    for place, boundary in enumerate(boundaries):
        group = []
        for ends in (student, teacher):
            below = boundaries[place - 1] if place else -1
            members = [token for token, end in enumerate(ends) if below < end <= boundary]
            group += [members[0], members[-1]]
        groups.append(group)
    return groups


@settings(max_examples=400, deadline=None)
@given(student=ENDS, teacher=ENDS)
def test_groups_are_the_finest_common_ones(student: list[int], teacher: list[int]) -> None:
    groups = align(student, teacher)
    assert groups.dtype == torch.int64
    assert groups.shape[1:] == (4,)
    assert groups.tolist() == naive_groups(student, teacher)


@settings(max_examples=300, deadline=None)
@given(student=ENDS, teacher=ENDS)
def test_groups_are_contiguous_and_end_together(student: list[int], teacher: list[int]) -> None:
    groups = align(student, teacher)
    assert torch.equal(align(teacher, student), groups[:, [2, 3, 0, 1]])
    for first, last in ((groups[:, 0], groups[:, 1]), (groups[:, 2], groups[:, 3])):
        assert (first <= last).all()
        assert (first[1:] == last[:-1] + 1).all()
        assert not len(groups) or first[0] == 0
    for _, ours, _, theirs in groups.tolist():
        assert student[ours] == teacher[theirs]


@given(ends=st.sets(st.integers(0, 100)).map(sorted))
def test_equal_tokenizers_give_one_group_a_token(ends: list[int]) -> None:
    assert torch.equal(align(ends, ends), truncate(len(ends), len(ends)))


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([], [1], []),
        ([1], [1], [[0, 0, 0, 0]]),
        # "hello" in two tokens against one, and what closes it
        ([3, 5, 6], [5, 6], [[0, 1, 0, 0], [2, 2, 1, 1]]),
        # ends that cross
        ([2, 5, 6], [3, 5, 6], [[0, 1, 0, 1], [2, 2, 2, 2]]),
        # tokens without bytes: one before the text, two after a byte that both reach
        ([0, 3, 3, 3, 4], [3, 4], [[0, 3, 0, 0], [4, 4, 1, 1]]),
        # the teacher's text was cut: nothing closes, and the student's rest is in no group
        ([2, 4, 6, 7], [2, 3], [[0, 0, 0, 0]]),
    ],
)
def test_groups_by_hand(student: list[int], teacher: list[int], expected: list[list[int]]) -> None:
    assert align(student, teacher).tolist() == expected


def test_descending_ends_are_refused() -> None:
    with pytest.raises(ValueError, match="teacher's tokens descend"):
        align([1, 2], [2, 1])


def test_truncation_pairs_positions() -> None:
    assert truncate(3, 2).tolist() == truncate(2, 3).tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    assert truncate(0, 2).shape == (0, 4)


def test_shares_count_the_students_tokens() -> None:
    texts = [([1, 3, 5, 6], [1, 2, 3, 5, 6]), ([2, 4, 6, 7], [4]), ([], [])]
    groups = [align(*ends) for ends in texts]
    # First text: 1, 5 and 6 alone, 3 against two tokens. Second: 2 and 4 together, 6 and 7 in none.
    assert share(groups, [4, 4, 0]) == {"one_to_one": 3 / 8, "merged": 3 / 8, "dropped": 2 / 8}
    assert share([], []) == {"one_to_one": 0.0, "merged": 0.0, "dropped": 0.0}
    with pytest.raises(ValueError, match="don't belong"):
        share(groups[:1], [3])


LOG_PROBS = st.one_of(st.floats(-40, 0), st.just(-math.inf), st.just(0.0))


@settings(max_examples=200, deadline=None)
@given(student=ENDS, teacher=ENDS, data=st.data())
def test_factors_are_products_of_probabilities(student: list[int], teacher: list[int], data: st.DataObject) -> None:
    groups = align(student, teacher)
    for side, ends, column in (("student", student, 0), ("teacher", teacher, 2)):
        values = data.draw(st.lists(LOG_PROBS, min_size=len(ends), max_size=len(ends)))
        found = group_factors(torch.tensor(values, dtype=torch.float64), groups, side)
        expected = [math.prod(map(math.exp, values[row[column] : row[column + 1]])) for row in groups.tolist()]
        assert found.shape == (len(groups),)
        torch.testing.assert_close(found.exp(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
        alone = groups[:, column] == groups[:, column + 1]
        assert (found[alone] == 0).all()


def test_an_impossible_token_stays_in_its_group() -> None:
    groups = torch.tensor([[0, 1, 0, 0], [2, 4, 1, 1], [5, 5, 2, 3]])
    log_probs = torch.tensor([-torch.inf, -1.0, -2.0, -0.5, -torch.inf, -torch.inf], requires_grad=True)
    factors = group_factors(log_probs, groups, "student")
    assert factors.tolist() == [-math.inf, -2.5, 0.0]
    # The last tokens of groups, and nothing else, are left out.
    factors.exp().sum().backward()
    torch.testing.assert_close(log_probs.grad, torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0]) * math.exp(-2.5))


def test_gradients_and_dtypes_of_factors() -> None:
    groups = torch.tensor([[0, 2, 0, 1], [3, 3, 2, 2], [4, 5, 3, 5]])
    log_probs = torch.linspace(-3, -0.1, 7, dtype=torch.float64, requires_grad=True)
    for side in ("student", "teacher"):
        assert torch.autograd.gradcheck(lambda values, side=side: group_factors(values, groups, side), log_probs)
    assert group_factors(log_probs.detach().half(), groups, "student").dtype == torch.float32
    assert group_factors(log_probs[:0], groups[:0], "student").shape == (0,)


def test_the_factor_makes_the_last_entry_the_probability_of_the_group() -> None:
    """The chain rule: merged distributions of all groups give the whole text the probability that its tokens gave."""
    log_probs = torch.log_softmax(torch.randn(6, 11, generator=torch.Generator().manual_seed(0)).double(), -1)
    labels = torch.tensor([3, 1, 4, 1, 5, 9])
    of_labels = log_probs[torch.arange(6), labels]
    groups = align([1, 2, 4, 5, 7, 8], [2, 7, 8])
    last = groups[:, 1]
    merged = log_probs[last] + group_factors(of_labels, groups, "student")[:, None]
    torch.testing.assert_close(merged[torch.arange(3), labels[last]].sum(), of_labels.sum())


def test_wrong_sides_and_groups_are_refused() -> None:
    groups = torch.tensor([[0, 1, 0, 4]])
    with pytest.raises(ValueError, match="side is one of"):
        group_factors(torch.zeros(2), groups, "pupil")
    with pytest.raises(ValueError, match="tokens 0 to 4 of the teacher, which has 2"):
        group_factors(torch.zeros(2), groups, "teacher")
