"""Every loss of docs/methods/losses.md against the formula of its source, written out here in float64.

The sources as read: TRL f2cd577 (``experimental/gold/gold_trainer.py``, ``experimental/gkd/gkd_trainer.py``),
DistillKit a61c2e7 (``lossfuncs/kl.py``, ``jsd.py``), llm-recipes 0bfcb37 (``models/distillation_model.py``), and the
papers. None of them is needed, and nothing of this package is in a formula.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from logitfusion.distill import CachedTeacher, Teacher, distill_loss, gld_loss, predict
from logitfusion.distill.shared import SharedTokens

PAGE = Path(__file__).parent.parent / "docs/methods/losses.md"
# Tokens of the two responses: of the student, of a teacher that cuts the texts alike, and of one that does not.
STUDENT, ALIKE, OTHER = (4, 2), (4, 2), (3, 5)
GROUPS = [[([0, 1], [0]), ([2], [1]), ([3], [2])], [([0], [0, 1, 2]), ([1], [3, 4])]]
SHARED = {0: 5, 2: 1, 3: 3, 6: 0}  # the teacher's tokens, and the student's
K, TEMPERATURE = 3, 2.0

# A response: the logits that predict its tokens, ``[n, V]``, and these tokens.
Response = tuple[Tensor, Tensor]
Formula = Callable[[list[Response], list[Response]], Tensor]


def batch(seed: int, counts: tuple[int, int], width: int) -> tuple[Tensor, Tensor]:
    """Logits and labels of two texts, each with two tokens of a prompt."""
    generator = torch.Generator().manual_seed(seed)
    length = 2 + max(counts)
    labels = torch.full((2, length), -100)
    for row, count in enumerate(counts):
        labels[row, 2 : 2 + count] = torch.randint(width, (count,), generator=generator)
    return 2 * torch.randn(2, length, width, generator=generator, dtype=torch.float64), labels


def responses(logits: Tensor, labels: Tensor, counts: tuple[int, int]) -> list[Response]:
    return [(logits[row, 1 : 1 + n], labels[row, 2 : 2 + n]) for row, n in enumerate(counts)]


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def tokens(student: list[Response], teacher: list[Response], loss: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """A loss of each pair of positions."""
    return [loss(s, t) for (a, _), (b, _) in zip(student, teacher, strict=True) for s, t in zip(a, b, strict=True)]


def sorted_distance(first: Tensor, second: Tensor) -> Tensor:
    size = max(len(first), len(second))
    parts = [torch.cat([x.sort(descending=True).values, x.new_zeros(size - len(x))]) for x in (first, second)]
    return (parts[0] - parts[1]).abs().sum()


def merged(response: Response, places: list[int]) -> Tensor:
    """GOLD's "bayesian": the last distribution of a group, times the chances of its earlier tokens."""
    logits, labels = response
    row = logits[places[-1]].softmax(-1)
    for place in places[:-1]:
        row = row * logits[place].softmax(-1)[labels[place]]
    return row


def relative(q: Tensor, p: Tensor) -> Tensor:
    return (q * (q.log() - p.log())).sum()


def jsd(q: Tensor, p: Tensor) -> Tensor:
    return (relative(q, (q + p) / 2) + relative(p, (q + p) / 2)) / 2


# ---- the sources' formulas


def cross_entropy(student: list[Response], _: list[Response]) -> Tensor:
    return mean(
        [-row.log_softmax(-1)[label] for rows, labels in student for row, label in zip(rows, labels, strict=True)]
    )


def uld_positions(student: list[Response], teacher: list[Response]) -> Tensor:
    texts = []
    for (ours, _), (theirs, _) in zip(student, teacher, strict=True):
        pairs = zip(ours.softmax(-1), theirs.softmax(-1), strict=False)
        texts.append(mean([sorted_distance(*pair) for pair in pairs]))
    return mean(texts)


def uld_groups(student: list[Response], teacher: list[Response]) -> Tensor:
    return mean([
        mean([sorted_distance(merged(ours, first), merged(theirs, second)) for first, second in groups])
        for ours, theirs, groups in zip(student, teacher, GROUPS, strict=True)
    ])  # fmt: skip


def uld_top(student: list[Response], teacher: list[Response]) -> Tensor:
    def top(s: Tensor, t: Tensor) -> Tensor:
        return (s.softmax(-1).sort(descending=True)[0][:K] - t.softmax(-1).sort(descending=True)[0][:K]).abs().sum()

    return mean(tokens(student, teacher, top))


def features(response: Response) -> Tensor:
    """The graph ``C = Z^T Z`` of the top-k logits over the whole vocabulary, and the sums of its rows."""
    logits, _ = response
    z = torch.zeros_like(logits)
    for row, values in zip(z, logits, strict=True):
        top = values.topk(K)
        row[top.indices] = top.values
    return (z.T @ z).sum(1)


def gld(student: list[Response], teacher: list[Response]) -> Tensor:
    return mean([sorted_distance(features(s), features(t)) for s, t in zip(student, teacher, strict=True)])


def tempered(loss: Callable[[Tensor, Tensor], Tensor], power: int) -> Formula:
    def formula(student: list[Response], teacher: list[Response]) -> Tensor:
        def one(s: Tensor, t: Tensor) -> Tensor:
            return loss((t / TEMPERATURE).softmax(-1), (s / TEMPERATURE).softmax(-1))

        return mean(tokens(student, teacher, one)) * TEMPERATURE**power

    return formula


def sparse_kl(student: list[Response], teacher: list[Response]) -> Tensor:
    """DistillKit's ``symmetric_uniform``: the top-k, and what they leave of 1 on both sides."""

    def one(s: Tensor, t: Tensor) -> Tensor:
        p, (q, ids) = s.softmax(-1), t.softmax(-1).topk(K)
        return relative(q, p[ids]) + relative((1 - q.sum())[None], (1 - p[ids].sum())[None])

    return mean(tokens(student, teacher, one))


def hybrid(student: list[Response], teacher: list[Response]) -> Tensor:
    texts = []
    for ours, theirs, groups in zip(student, teacher, GROUPS, strict=True):
        losses = []
        for first, second in groups:
            p, q = merged(ours, first), merged(theirs, second)
            matched = jsd(q[list(SHARED)], p[list(SHARED.values())])
            rest = [torch.stack([x for n, x in enumerate(side) if n not in known])
                    for side, known in ((p, SHARED.values()), (q, SHARED))]  # fmt: skip
            weight = len(SHARED) / len(q)
            losses.append(weight * matched + (1 - weight) * sorted_distance(*rest))
        texts.append(mean(losses))
    return mean(texts)


def reverse(q: Tensor, p: Tensor) -> Tensor:
    return relative(p, q)


ONE = {"forward": {}, "reverse": {"divergence": "reverse"}, "jsd": {"divergence": "jsd"}}
TEXTS = {"normalisation": "texts"}
# The name in the table -> the source's formula, the part of ours, its options, and ours by the source's.
CASES: dict[str, tuple[Formula, str, dict[str, Any], float]] = {
    "SFT": (cross_entropy, "sft", {}, 1.0),
    "ULD, whole vocabularies": (uld_positions, "uld", TEXTS, 1.0),
    "ULD, groups of bytes": (uld_groups, "uld", TEXTS, 1.0),
    "ULD, top-k": (uld_top, "uld", {"uld_k": K}, 1.0),
    "KL, forward": (tempered(relative, 0), "kl", {"temperature": TEMPERATURE}, 1.0),
    "KL, forward, with the temperature's square": (
        tempered(relative, 2), "kl", {"temperature": TEMPERATURE}, TEMPERATURE**-2,
    ),
    "KL, reverse": (tempered(reverse, 0), "kl", ONE["reverse"] | {"temperature": TEMPERATURE}, 1.0),
    "KL, jsd": (tempered(jsd, 0), "kl", ONE["jsd"] | {"temperature": TEMPERATURE}, 1.0),
    "KL, from a cache": (sparse_kl, "kl", {}, 1.0),
    "Hybrid": (hybrid, "hybrid", TEXTS | ONE["jsd"], 1.0),
}  # fmt: skip
CUT_OTHERWISE = ("ULD, whole vocabularies", "ULD, groups of bytes", "Hybrid")


def make_teacher(name: str, width: int) -> tuple[Teacher | CachedTeacher, list[Response]]:
    counts = OTHER if name in CUT_OTHERWISE else ALIKE
    logits, labels = batch(2, counts, width)
    if name == "KL, from a cache":
        return CachedTeacher(predict(logits, labels, K)), responses(logits, labels, counts)
    starts = [[0, 0], [STUDENT[0], OTHER[0]]]
    groups = torch.tensor([
        [start[side] + edge for side in (0, 1) for edge in (pair[side][0], pair[side][-1])]
        for start, pairs in zip(starts, GROUPS, strict=True) for pair in pairs
    ])  # fmt: skip
    shared = SharedTokens(torch.tensor([SHARED.get(token, -1) for token in range(width)]))
    grouped = name in ("ULD, groups of bytes", "Hybrid")
    return Teacher(logits, labels, 1.0, groups if grouped else None, shared), responses(logits, labels, counts)


@pytest.mark.parametrize("name", CASES)
def test_it_is_its_source_s(name: str) -> None:
    """Values and gradients."""
    formula, part, options, scale = CASES[name]
    width = 9 if part == "kl" else 11
    logits, labels = batch(1, STUDENT, 9)
    logits.requires_grad_()
    teacher, theirs = make_teacher(name, width)
    weights = {f"{term}_weight": float(term == part) for term in ("sft", "uld", "gld", "kl", "hybrid")}
    found = distill_loss(logits, labels, [teacher], **weights, **options)
    expected = scale * formula(responses(logits, labels, STUDENT), theirs)
    torch.testing.assert_close(getattr(found, part), expected.detach(), rtol=1e-10, atol=1e-12)
    slopes = [torch.autograd.grad(value, logits)[0] for value in (found.total, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("width", [9, 11])
def test_gld_is_the_paper_s(width: int) -> None:
    """Of raw logits and undivided, as published; the objective's is of probabilities, by positions and k."""
    (logits, labels), (others, own) = batch(1, STUDENT, 9), batch(2, OTHER, width)
    sides = responses(logits, labels, STUDENT), responses(others, own, OTHER)
    masks = [torch.nn.functional.pad(one[:, 1:] != -100, (0, 1)) for one in (labels, own)]
    options = {"k": K, "student_mask": masks[0], "teacher_mask": masks[1]}
    found = gld_loss(logits, others, signal="logit", normalize="none", **options)
    torch.testing.assert_close(found, gld(*sides))
    means = [[features((rows.softmax(-1), labels)) / len(rows) / K for rows, labels in side] for side in sides]
    expected = mean([sorted_distance(*pair) for pair in zip(*means, strict=True)])
    loss = distill_loss(logits, labels, [Teacher(others, own)], k=K, uld_weight=0.0, gld_weight=1.0)
    torch.testing.assert_close(loss.gld, expected)


def test_min_ce_is_fusellm_s() -> None:
    """Of each text, the loss of the teacher with the lowest cross-entropy of it alone."""
    logits, labels = batch(1, STUDENT, 9)
    teachers = [batch(seed, ALIKE, 9) for seed in (2, 3, 4)]
    found = distill_loss(
        logits, labels, [Teacher(*one) for one in teachers], uld_weight=0.0, gld_weight=0.0, kl_weight=1.0,
        combine="min_ce",
    )  # fmt: skip
    total, chosen = 0.0, []
    for text in (0, 1):
        ours = responses(logits, labels, STUDENT)[text]
        theirs = [responses(*one, ALIKE)[text] for one in teachers]
        entropies = [float(cross_entropy([one], [])) for one in theirs]
        chosen.append(entropies.index(min(entropies)))
        pairs = tokens([ours], [theirs[chosen[-1]]], lambda s, t: relative(t.softmax(-1), s.softmax(-1)))
        total += sum(map(float, pairs))
    assert found.teacher.tolist() == chosen
    assert len(set(chosen)) == 2
    assert float(found.kl) == pytest.approx(total / sum(STUDENT))


def test_the_page_has_a_row_for_each() -> None:
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", PAGE.read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted([*CASES, "GLD", "min_ce"])
