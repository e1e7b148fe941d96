"""Byte groups and merged positions, held against TRL's GOLD trainer, whose formula is written out here in float64.

trl/experimental/gold/gold_trainer.py, class ULDLoss (extended ULD, no hybrid loss, temperatures of 1), as of commit
f2cd577. TRL is not needed.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from logitfusion.distill import CachedTeacher, Predictions, distill_loss, predict, predict_at
from logitfusion.distill.alignment import align
from logitfusion.distill.terms import uld_of_predictions

SMALL = settings(max_examples=60, deadline=None, derandomize=True)
EPS = 1e-8
Groups = list[tuple[list[int], list[int]]]


def gold_groups(student: list[int], teacher: list[int]) -> Groups:
    """Of the byte where each token ends: a group closes at every common end; what is left is one more group."""
    groups, first, other = [], 0, 0
    s = t = 0
    while s < len(student) and t < len(teacher):
        if student[s] == teacher[t]:
            groups.append((list(range(first, s + 1)), list(range(other, t + 1))))
            first, other = s + 1, t + 1
            s, t = first, other
        elif student[s] < teacher[t]:
            s += 1
        else:
            t += 1
    rest = list(range(first, len(student))), list(range(other, len(teacher)))
    return [*groups, rest] if all(rest) else groups


def gold_terms(student: Tensor, teacher: Tensor, labels: list[list[int]], groups: Groups) -> Tensor:
    """Sorted L1 of each group, over whole vocabularies, of logits ``[n, V]`` that predict the labels ("bayesian")."""
    terms = []
    for group in groups:
        merged = []
        for logits, own, places in zip((student, teacher), labels, group, strict=True):
            chances = logits.softmax(-1)
            row = chances[places[-1]]
            for place in places[:-1]:
                row = row * max(float(chances[place, own[place]]), EPS)
            merged.append(row.sort(descending=True).values)
        size = max(map(len, merged))
        first, second = (torch.nn.functional.pad(row, (0, size - len(row))) for row in merged)
        terms.append((first - second).abs().sum())
    return torch.stack(terms)


def response_ends(size: int) -> st.SearchStrategy[list[int]]:
    """Of a response of so many bytes, without tokens of no bytes; what closes it ends one byte later."""
    inner = st.sets(st.integers(1, size - 1), max_size=size - 1).map(sorted)
    return inner.map(lambda ends: [*ends, size, size + 1])


def draw(seed: int, *shapes: tuple[int, int]) -> tuple[list[Tensor], list[list[int]]]:
    generator = torch.Generator().manual_seed(seed)
    logits = [2 * torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return logits, [torch.randint(width, (n,), generator=generator).tolist() for n, width in shapes]


def read(logits: Tensor, labels: list[int], k: int) -> Predictions:
    """Of one response whose every position counts."""
    everywhere = torch.ones(1, len(logits), dtype=torch.bool)
    return predict_at(logits[None], everywhere, k, labels=torch.tensor(labels))


@SMALL
@given(seed=st.integers(0, 10**6), ends=st.tuples(response_ends(9), response_ends(9)), width=st.integers(2, 14))
def test_whole_responses_have_golds_groups_and_golds_loss(
    seed: int, ends: tuple[list[int], list[int]], width: int
) -> None:
    """Equal vocabulary sizes and k = V: the sum over groups is GOLD's mean over them, times their number."""
    logits, labels = draw(seed, *((len(side), width) for side in ends))
    groups = align(*ends)
    theirs = gold_groups(*ends)
    assert groups.tolist() == [[s[0], s[-1], t[0], t[-1]] for s, t in theirs]
    found = uld_of_predictions(*(read(*side, width) for side in zip(logits, labels, strict=True)), groups, k=width)
    gold = gold_terms(*logits, labels, theirs).mean()
    torch.testing.assert_close(found[0], len(theirs) * gold, rtol=1e-12, atol=1e-12)


@SMALL
@given(
    seed=st.integers(0, 10**6),
    ends=st.tuples(response_ends(9), response_ends(9)),
    widths=st.tuples(st.integers(3, 14), st.integers(3, 14)),
    k=st.integers(1, 3),
)
def test_the_top_k_leave_out_golds_tails(
    seed: int, ends: tuple[list[int], list[int]], widths: tuple[int, int], k: int
) -> None:
    """Any vocabularies: what is missing is the rest of the sorted entries, whose chances bound it."""
    logits, labels = draw(seed, *((len(side), width) for side, width in zip(ends, widths, strict=True)))
    sides, groups = [read(*side, k) for side in zip(logits, labels, strict=True)], align(*ends)
    found = uld_of_predictions(*sides, groups, k=k)[0]
    gold = gold_terms(*logits, labels, gold_groups(*ends)).sum()
    tails = sum(
        (1 - side.log_probs.exp().sum(-1))[last].sum() for side, last in zip(sides, groups.T[1::2], strict=True)
    )
    assert found <= gold + 1e-12
    assert gold <= found + tails + 1e-12


@SMALL
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 8), ends=st.tuples(response_ends(9), response_ends(9)))
def test_what_is_left_of_a_cut_text_is_in_no_group_of_ours(
    seed: int, cut: int, ends: tuple[list[int], list[int]]
) -> None:
    """GOLD closes one more group over it, although its sides are of unlike bytes."""
    student, teacher = ends[0][:cut], ends[1]
    logits, labels = draw(seed, (len(student), 8), (len(teacher), 8))
    groups, theirs = align(student, teacher), gold_groups(student, teacher)
    assert len(theirs) - len(groups) in (0, 1)
    found = uld_of_predictions(*(read(*side, 8) for side in zip(logits, labels, strict=True)), groups, k=8)[0]
    terms = gold_terms(*logits, labels, theirs)
    torch.testing.assert_close(found, terms[: len(groups)].sum(), rtol=1e-12, atol=1e-12)


def test_tokens_without_bytes_end_our_groups_and_begin_golds() -> None:
    student, teacher = [2, 2, 4], [2, 4]
    assert align(student, teacher).tolist() == [[0, 1, 0, 0], [2, 2, 1, 1]]
    assert gold_groups(student, teacher) == [([0], [0]), ([1, 2], [1])]


def test_golds_floor_keeps_merged_groups_from_vanishing() -> None:
    """An earlier token of chance 0 is 0 here, and 1e-8 there: all of the difference between the two."""
    logits = torch.zeros(2, 4, dtype=torch.float64)
    logits[0, 1] = -torch.inf
    teacher, labels, groups = torch.zeros(1, 4, dtype=torch.float64), [[1, 0], [0]], align([1, 3], [3])
    sides = read(logits, labels[0], 4), read(teacher, labels[1], 4)
    found = uld_of_predictions(*sides, groups, k=4)[0]
    gold = gold_terms(logits, teacher, labels, gold_groups([1, 3], [3]))[0]
    assert found == pytest.approx(1.0)
    assert float(found - gold) == pytest.approx(EPS, rel=1e-6)


def test_labels_belong_to_the_logits_before_them() -> None:
    """As in GOLD's "bayesian" merging; its default, "observed", takes each token's chance one position too late."""
    (logits,), (labels,) = draw(3, (5, 6))
    padded = torch.tensor([[-100, *labels[1:]]])
    found = predict(logits[None], padded, 6)
    expected = logits[:-1].log_softmax(-1)[range(4), labels[1:]]
    torch.testing.assert_close(found.label_log_probs, expected)


def test_the_objective_weighs_texts_by_their_tokens() -> None:
    """GOLD takes the mean of the texts' means."""
    ends = ([1, 2, 3, 5, 6], [3, 5, 6]), ([4, 5], [2, 4, 5])
    drawn = [draw(seed, *((len(side) + 1, 7) for side in pair)) for seed, pair in enumerate(ends)]
    sides = []
    for side in (0, 1):  # the last logits predict nothing, and the first label is of the prompt
        logits = torch.nn.utils.rnn.pad_sequence([one[0][side] for one in drawn], batch_first=True)
        labels = [torch.tensor([-100, *one[1][side][1:]]) for one in drawn]
        sides.append((logits, torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)))
    groups = [align(*pair) for pair in ends]
    both = torch.cat([groups[0], groups[1] + torch.tensor([5, 5, 3, 3])])
    teacher = CachedTeacher(predict(*sides[1], 7), both)
    found = distill_loss(*sides[0], [teacher], k=7, uld_k=7, uld_weight=0.5, gld_weight=0.0)
    means = [
        gold_terms(*(one[:-1] for one in logits), [own[1:] for own in labels], gold_groups(*pair)).mean()
        for (logits, labels), pair in zip(drawn, ends, strict=True)
    ]
    tokens = 5 + 2
    torch.testing.assert_close(found.uld, (len(groups[0]) * means[0] + len(groups[1]) * means[1]) / tokens)
