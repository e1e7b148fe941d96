"""The hybrid loss against TRL's GOLD, whose formula is written out here in float64; from logits and from caches.

trl/experimental/gold/gold_trainer.py, ``ULDLoss._compute_hybrid_uld_loss`` and ``generalized_jsd_loss``, as of commit
f2cd577, "bayesian" merging, temperatures of 1. TRL is not needed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from logitfusion.distill import CachedTeacher, Teacher, distill_loss, predict
from logitfusion.distill.shared import SharedTokens

FORMS = ("forward", "reverse", "jsd")
EACH = pytest.mark.parametrize("form", FORMS)
SMALL = settings(max_examples=40, deadline=None, derandomize=True)
ALONE = {"uld_weight": 0.0, "gld_weight": 0.0, "sft_weight": 0.0, "hybrid_weight": 1.0}
# Positions of two responses of 5 and 2 student tokens, 3 and 4 of the teacher.
GROUPS = torch.tensor([[0, 1, 0, 0], [2, 2, 1, 1], [3, 4, 2, 2], [5, 5, 3, 4], [6, 6, 5, 6]])
COUNTS = ((5, 2), (3, 4))


def batch(seed: int, counts: tuple[int, int], width: int) -> tuple[Tensor, Tensor]:
    """Logits in float64, and labels of two responses, each after two tokens of a prompt."""
    generator = torch.Generator().manual_seed(seed)
    length = 2 + max(counts)
    logits = 2 * torch.randn(2, length, width, generator=generator, dtype=torch.float64)
    labels = torch.full((2, length), -100)
    for row, count in enumerate(counts):
        labels[row, 2 : 2 + count] = torch.randint(width, (count,), generator=generator)
    return logits, labels


def vocabularies(seed: int, sizes: tuple[int, int], count: int) -> SharedTokens:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randperm(size, generator=generator)[:count] for size in sizes)
    return SharedTokens(torch.full((sizes[1],), -1).index_put((teacher,), student))


def merge(logits: Tensor, labels: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """GOLD's "bayesian" merging: probabilities ``[G, V]``."""
    mask = labels[:, 1:] != -100
    chances, own = logits[:, :-1][mask].softmax(-1), labels[:, 1:][mask]
    rows = []
    for begin, end in zip(first.tolist(), last.tolist(), strict=True):
        row = chances[end]
        for place in range(begin, end):
            row = row * chances[place, own[place]]
        rows.append(row)
    return torch.stack(rows)


def gold(student: Tensor, teacher: Tensor, shared: SharedTokens, form: str, weights: tuple[float, float]) -> Tensor:
    """GOLD's hybrid loss of each group ``[G]`` of merged probabilities; its mean over groups is GOLD's of a text.

    But where all tokens of one side are shared, GOLD's sorted part is 0 whatever the other side's others have.
    """
    pairs = [(int(own), number) for number, own in enumerate(shared.places) if own >= 0]
    totals = []
    for p, q in zip(student, teacher, strict=True):
        matched = p.new_zeros(())
        for own, other in pairs:
            a, b = p[own], q[other]
            m = (a + b) / 2
            matched = (
                matched
                + {
                    "forward": b * (b.log() - a.log()),
                    "reverse": a * (a.log() - b.log()),
                    "jsd": (b * (b.log() - m.log()) + a * (a.log() - m.log())) / 2,
                }[form]
            )
        lists = [[p[i] for i in range(len(p)) if i not in {own for own, _ in pairs}],
                 [q[i] for i in range(len(q)) if i not in {other for _, other in pairs}]]  # fmt: skip
        sides = [sorted(side, key=lambda chance: float(chance.detach()), reverse=True) for side in lists]
        size = max(map(len, sides))
        sides = [[*side, *[p.new_zeros(())] * (size - len(side))] for side in sides]
        unmatched = sum((abs(x - y) for x, y in zip(*sides, strict=True)), p.new_zeros(()))
        totals.append(weights[0] * matched + weights[1] * unmatched)
    return torch.stack(totals)


def expected(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], shared: SharedTokens, form: str,
    weight: float | None = None,
) -> Tensor:  # fmt: skip
    """Of each group: GOLD's, and what the masses of the shared tokens add to it, so that it is a divergence."""
    p, q = merge(*student, *GROUPS.T[:2]), merge(*teacher, *GROUPS.T[2:])
    weight = len(shared.student) / len(shared.places) if weight is None else weight
    masses = q[:, shared.teacher].sum(1), p[:, shared.student].sum(1)
    extra = {"forward": masses[1] - masses[0], "reverse": masses[0] - masses[1], "jsd": 0.0}[form]
    return gold(p, q, shared, form, (weight, 1 - weight)) + weight * extra


def grad(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


@EACH
@SMALL
@given(
    seed=st.integers(0, 10**6), sizes=st.tuples(st.integers(3, 9), st.integers(3, 9)), share=st.floats(0, 1),
    weight=st.sampled_from([None, 0.0, 0.3, 1.0]),
)  # fmt: skip
def test_it_is_golds(form: str, seed: int, sizes: tuple[int, int], share: float, weight: float | None) -> None:
    """Values and gradients of merged groups, tokens that are shared, and such that are not."""
    student, teacher = batch(seed, COUNTS[0], sizes[0]), batch(seed + 1, COUNTS[1], sizes[1])
    student[0].requires_grad_()
    shared = vocabularies(seed, sizes, round(share * min(sizes)))
    found = distill_loss(
        *student, [Teacher(*teacher, groups=GROUPS, shared=shared)], divergence=form, shared_weight=weight, **ALONE
    )
    right = expected(student, teacher, shared, form, weight).sum() / sum(COUNTS[0])
    torch.testing.assert_close(found.hybrid, right, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grad(found.total, student[0]), grad(right, student[0]), rtol=1e-8, atol=1e-11)


@EACH
@SMALL
@given(seed=st.integers(0, 10**6), sizes=st.tuples(st.integers(3, 9), st.integers(3, 9)), share=st.floats(0, 1))
def test_a_cache_of_all_tokens_is_the_teacher_itself(
    form: str, seed: int, sizes: tuple[int, int], share: float
) -> None:
    student, teacher = batch(seed, COUNTS[0], sizes[0]), batch(seed + 1, COUNTS[1], sizes[1])
    student[0].requires_grad_()
    shared = vocabularies(seed, sizes, round(share * min(sizes)))
    kept = CachedTeacher(predict(*teacher, sizes[1]), GROUPS, tail=torch.zeros(7).double(), shared=shared)
    found = [
        distill_loss(*student, [one], divergence=form, **ALONE).total
        for one in (Teacher(*teacher, groups=GROUPS, shared=shared), kept)
    ]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(*(grad(part, student[0]) for part in found), rtol=1e-7, atol=1e-10)


@SMALL
@given(
    seed=st.integers(0, 10**6), k=st.integers(1, 8), count=st.integers(0, 8), weight=st.sampled_from([0.0, 0.4, 1.0])
)
def test_what_a_cache_loses_is_bounded_by_the_tails(seed: int, k: int, count: int, weight: float) -> None:
    """With jsd: half ln 2 of both sides' chances of the entry that stands for the tail, and the tail itself."""
    student, teacher = batch(seed, (3, 2), 8), batch(seed + 1, (3, 2), 9)
    shared = vocabularies(seed, (8, 9), count)
    options = {"divergence": "jsd", "shared_weight": weight, **ALONE}
    kept = predict(*teacher, k)
    whole = distill_loss(*student, [Teacher(*teacher, shared=shared)], **options).hybrid
    some = distill_loss(*student, [CachedTeacher(kept, shared=shared)], **options).hybrid
    tail = 1 - kept.log_probs.exp().sum(1)
    own = student[0][:, 1:-1][student[1][:, 2:] != -100].softmax(-1)
    named = [{int(shared.places[token]) for token in row} for row in kept.ids]
    left = torch.stack([
        sum((row[token] for token in shared.student.tolist() if token not in others), row.new_zeros(()))
        for row, others in zip(own, named, strict=True)
    ])  # fmt: skip
    bound = (weight * math.log(2) / 2 * (left + tail) + (1 - weight) * tail).sum() / 5
    assert abs(whole - some) <= bound + 1e-9


@EACH
def test_it_is_at_least_zero_and_zero_for_equals(form: str) -> None:
    """GOLD's own forward and reverse forms are neither, as probabilities of the shared tokens don't sum to 1."""
    student, teacher = batch(1, (3, 2), 8), batch(2, (3, 2), 8)
    some = SharedTokens(torch.tensor([0, 1, 2, -1, -1, 5, -1, -1]))
    assert distill_loss(*student, [Teacher(*student, shared=some)], divergence=form, **ALONE).hybrid.abs() < 1e-12
    for seed in range(20):
        teacher = batch(seed + 2, (3, 2), 8)
        assert distill_loss(*student, [Teacher(*teacher, shared=some)], divergence=form, **ALONE).hybrid > 0


@EACH
def test_with_one_vocabulary_it_is_the_divergence(form: str) -> None:
    student, teacher = batch(3, (3, 2), 8), batch(4, (3, 2), 8)
    every = Teacher(*teacher, shared=SharedTokens(torch.arange(8)))
    found = distill_loss(*student, [every], divergence=form, kl_weight=0.5, **ALONE)
    torch.testing.assert_close(found.hybrid, found.kl)


def test_without_a_shared_token_it_is_uld_over_whole_vocabularies() -> None:
    student, teacher = batch(5, COUNTS[0], 8), batch(6, COUNTS[1], 11)
    strangers = Teacher(*teacher, groups=GROUPS, shared=SharedTokens(torch.full((11,), -1)))
    found = distill_loss(*student, [strangers], uld_weight=0.5, gld_weight=0.0, hybrid_weight=0.5)
    torch.testing.assert_close(found.hybrid, found.uld)


def test_numbers_of_tokens_do_not_matter() -> None:
    """Another order of either vocabulary is the same loss."""
    student, teacher = batch(7, COUNTS[0], 8), batch(8, COUNTS[1], 9)
    shared = vocabularies(9, (8, 9), 5)
    first = distill_loss(*student, [Teacher(*teacher, groups=GROUPS, shared=shared)], **ALONE)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    labels = torch.where(teacher[1] < 0, teacher[1], order.argsort()[teacher[1].clamp(min=0)])
    other = Teacher(teacher[0][..., order], labels, groups=GROUPS, shared=SharedTokens(shared.places[order]))
    torch.testing.assert_close(distill_loss(*student, [other], **ALONE).hybrid, first.hybrid)


def test_half_precision_is_near() -> None:
    student, teacher = batch(10, COUNTS[0], 40), batch(11, COUNTS[1], 30)
    shared = vocabularies(12, (40, 30), 20)
    one = Teacher(*teacher, groups=GROUPS, shared=shared)
    exact = distill_loss(*student, [one], **ALONE).hybrid
    leaf = student[0].bfloat16().requires_grad_()
    found = distill_loss(leaf, student[1], [replace(one, logits=teacher[0].bfloat16())], **ALONE)
    assert found.hybrid == pytest.approx(float(exact), rel=0.05)
    assert grad(found.total, leaf).isfinite().all()


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        (None, "tokens that student and teacher share"),
        (SharedTokens(torch.tensor([0, 9, -1, -1, -1, -1, -1, -1])), "token 9 is none of the student's 8"),
        (SharedTokens(torch.tensor([0, 1])), "has 8 tokens, and the shared ones are of 2"),
    ],
)
def test_what_can_not_be_used_is_refused(shared: SharedTokens | None, message: str) -> None:
    student, teacher = batch(13, (3, 2), 8), batch(14, (3, 2), 8)
    with pytest.raises(ValueError, match=message):
        distill_loss(*student, [Teacher(*teacher, shared=shared)], **ALONE)


def test_a_cache_of_more_tokens_than_the_vocabulary_is_refused() -> None:
    student, teacher = batch(13, (3, 2), 8), batch(14, (3, 2), 8)
    kept = CachedTeacher(predict(*teacher, 8), shared=SharedTokens(torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="none of its 2"):
        distill_loss(*student, [kept], **ALONE)


def test_one_token_of_the_student_is_of_one_of_the_teacher() -> None:
    with pytest.raises(ValueError, match="two tokens"):
        SharedTokens(torch.tensor([0, 0]))


# Means of texts


@pytest.mark.parametrize("term", ["uld", "kl", "hybrid"])
def test_means_of_texts_count_every_text_alike(term: str) -> None:
    """GOLD's normalisation: the mean over a text's groups, then over texts."""
    student, teacher = batch(15, COUNTS[0], 8), batch(16, COUNTS[1], 8)
    one = Teacher(*teacher, groups=GROUPS, shared=vocabularies(17, (8, 8), 5))
    options = {"uld_weight": 0.0, "gld_weight": 0.0, "sft_weight": 0.0} | {f"{term}_weight": 1.0}
    means = getattr(distill_loss(*student, [one], normalisation="texts", **options), term)
    sums = []
    for row, groups in ((0, GROUPS[:3]), (1, GROUPS[3:] - torch.tensor([5, 5, 3, 3]))):
        part = slice(row, row + 1)
        alone = Teacher(teacher[0][part], teacher[1][part], groups=groups, shared=one.shared)
        total = getattr(distill_loss(student[0][part], student[1][part], [alone], tokens=1, **options), term)
        single = (groups[:, 0] == groups[:, 1]) & (groups[:, 2] == groups[:, 3])
        sums.append(total / max(int(single.sum()) if term == "kl" else len(groups), 1))
    torch.testing.assert_close(means, (sums[0] + sums[1]) / 2)


@pytest.mark.parametrize("normalisation", ["labels", "texts"])
def test_accumulation_is_one_large_batch(normalisation: str) -> None:
    student, teacher = batch(18, (5, 2), 8), batch(19, (5, 2), 9)
    student[0].requires_grad_()
    shared = vocabularies(20, (8, 9), 5)
    options = {"uld_weight": 0.1, "gld_weight": 0.1, "hybrid_weight": 0.3, "k": 4, "normalisation": normalisation}
    whole = grad(distill_loss(*student, [Teacher(*teacher, shared=shared)], **options).total, student[0])
    for row in (0, 1):
        part = slice(row, row + 1)
        one = Teacher(teacher[0][part], teacher[1][part], shared=shared)
        distill_loss(student[0][part], student[1][part], [one], tokens=7, texts=2, **options).total.backward()
    torch.testing.assert_close(student[0].grad, whole)


def test_merged_groups_shrink_a_term_by_groups_to_labels() -> None:
    """How the two normalisations of one text differ."""
    student, teacher = batch(21, (4, 0), 8), batch(22, (2, 0), 8)
    groups = torch.tensor([[0, 2, 0, 0], [3, 3, 1, 1]])
    options = {"uld_weight": 1.0, "gld_weight": 0.0, "sft_weight": 0.0}
    one = Teacher(*teacher, groups=groups)
    found = [distill_loss(*student, [one], normalisation=way, **options).uld for way in ("labels", "texts")]
    torch.testing.assert_close(found[0], found[1] * 2 / 4)
