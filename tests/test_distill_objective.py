"""The objective of a student: labels and several teachers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from logitfusion.distill import CachedTeacher, Teacher, distill_loss, gld_loss, predict_at, uld_loss

OPTIONS = {"k": 4, "uld_weight": 0.3, "gld_weight": 0.2}


def batch(seed: int, length: int = 7, width: int = 12, texts: int = 3) -> tuple[Tensor, Tensor]:
    """Logits in float64 and labels, whose prompts are of unlike length."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(texts, length, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(width, (texts, length), generator=generator)
    for row in range(texts):
        labels[row, : 2 + row % 3] = -100
    return logits, labels


def teacher(seed: int, weight: float = 1.0, **shape: int) -> Teacher:
    return Teacher(*batch(seed, **shape), weight)


def alone(student: Tensor, labels: Tensor, one: Teacher) -> tuple[Tensor, Tensor]:
    """Sums of ULD and GLD of each text, ``[B]``."""
    masks = {"student_mask": labels[:, 1:] != -100, "teacher_mask": one.labels[:, 1:] != -100, "reduction": "none"}
    pair = student[:, :-1], one.logits[:, :-1]
    return uld_loss(*pair, **masks), gld_loss(*pair, k=4, **masks)


def test_sft_is_the_cross_entropy_of_shifted_labels() -> None:
    student, labels = batch(1)
    student.requires_grad_()
    found = distill_loss(student, labels, [teacher(2)], k=4, uld_weight=0.0, gld_weight=0.0)
    expected = torch.nn.functional.cross_entropy(student[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(found.total, expected)
    torch.testing.assert_close(*(torch.autograd.grad(part, student)[0] for part in (found.total, expected)))
    assert found.uld == found.gld == 0


@pytest.mark.parametrize("combine", ["sum", "weighted", "min_ce"])
def test_the_objective_is_made_of_its_parts(combine: str) -> None:
    student, labels = batch(3)
    teachers = [teacher(4, 0.3), teacher(5, 2.0, length=9, width=20), teacher(6, 0.0, width=6)]
    found = distill_loss(student, labels, teachers, combine=combine, **OPTIONS)
    shares = [{"sum": 1.0, "weighted": one.weight}.get(combine, 0.0) for one in teachers]
    shares = torch.tensor(shares, dtype=torch.float64)[:, None].repeat(1, 3)
    if combine == "min_ce":
        entropies = torch.stack([entropy(one) for one in teachers])
        shares.scatter_(0, entropies.argmin(0, keepdim=True), 1.0)
        assert torch.equal(found.teacher, entropies.argmin(0))
    parts = [alone(student, labels, one) for one in teachers]
    tokens = (labels[:, 1:] != -100).sum()
    uld = (shares * torch.stack([part[0] for part in parts])).sum() / tokens
    gld = (shares * torch.stack([part[1] for part in parts])).sum() / 3
    exactly = {"rtol": 1e-12, "atol": 0.0}
    torch.testing.assert_close(found.uld, uld, **exactly)
    torch.testing.assert_close(found.gld, gld, **exactly)
    torch.testing.assert_close(found.total, 0.5 * found.sft + 0.3 * uld + 0.2 * gld, **exactly)


def entropy(one: Teacher) -> Tensor:
    """Of the responses, ``[B]``, by definition."""
    totals = []
    for logits, labels in zip(one.logits, one.labels, strict=True):
        scored = [(row, int(label)) for row, label in zip(logits[:-1], labels[1:], strict=True) if label != -100]
        totals.append(-sum(row.log_softmax(-1)[label] for row, label in scored))
    return torch.stack(totals)


def test_min_ce_does_not_choose_a_teacher_that_knows_no_labels() -> None:
    student, labels = batch(7)
    known = teacher(8)
    unknown = CachedTeacher(predict_at(known.logits, torch.ones(known.labels.shape, dtype=torch.bool), 4))
    assert unknown.predictions.label_log_probs.isnan().all()
    assert distill_loss(student, labels, [unknown, known], combine="min_ce", **OPTIONS).teacher.tolist() == [1, 1, 1]


def test_min_ce_chooses_for_each_text() -> None:
    student, labels = batch(7)
    poor, rich = teacher(8), teacher(9)
    for row, one in enumerate((rich, poor, rich)):
        one.logits[row, :-1].scatter_add_(1, labels[row, 1:, None].clamp(min=0), torch.full((6, 1), 20.0).double())
        one.labels[row] = labels[row]
    found = distill_loss(student, labels, [poor, rich], combine="min_ce", **OPTIONS)
    assert found.teacher.tolist() == [1, 0, 1]


def test_min_ce_counts_whole_responses() -> None:
    """A tokenizer that cuts a text in two needs half the nats a token to be as good, not fewer of them in all."""
    student, labels = batch(7, texts=1)
    likely = [torch.tensor(2.0), torch.tensor(1.5)]  # nats a token: 4 of them, and 8
    found = []
    for nats, length in zip(likely, (5, 9), strict=True):
        logits = torch.stack([-nats, (1 - (-nats).exp()).log()]).double().expand(1, length, 2)
        found.append(Teacher(logits, torch.tensor([[-100] + [0] * (length - 1)])))
    options = OPTIONS | {"k": 2}
    assert distill_loss(student, labels, found, combine="min_ce", **options).teacher.tolist() == [0]
    assert distill_loss(student, labels, found[::-1], combine="min_ce", **options).teacher.tolist() == [1]


def test_min_ce_leaves_out_a_teacher_without_labels_of_a_text() -> None:
    student, labels = batch(7)
    one, other = teacher(8), teacher(9)
    one.labels[1] = -100
    assert distill_loss(student, labels, [one, other], combine="min_ce", **OPTIONS).teacher[1] == 1


@pytest.mark.parametrize("kind", [int, torch.as_tensor])
def test_accumulation_is_one_large_batch(kind: Callable[[Tensor], int | Tensor]) -> None:
    student, labels = batch(10, texts=5)
    others = [teacher(11, texts=5), teacher(12, length=9, width=15, texts=5)]
    student.requires_grad_()
    (expected,) = torch.autograd.grad(distill_loss(student, labels, others, **OPTIONS).total, student)
    tokens = kind((labels[:, 1:] != -100).sum())
    for part in (slice(0, 1), slice(1, 3), slice(3, 5)):
        some = [Teacher(one.logits[part], one.labels[part]) for one in others]
        distill_loss(student[part], labels[part], some, tokens=tokens, texts=5, **OPTIONS).total.backward()
    torch.testing.assert_close(student.grad, expected)


def test_prompts_do_not_matter() -> None:
    student, labels = batch(13)
    other = teacher(14)
    expected = distill_loss(student, labels, [other], **OPTIONS).total
    student[0, :1], student[:, -1] = 99.0, 99.0  # before the last prompt token, and behind the last label
    other.logits[0, :1], other.logits[:, -1] = 99.0, 99.0
    torch.testing.assert_close(distill_loss(student, labels, [other], **OPTIONS).total, expected)
    student[0, 1, 0] += 1.0  # the last prompt token predicts the first of the response
    assert not torch.isclose(distill_loss(student, labels, [other], **OPTIONS).total, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teachers": []}, "at least one teacher"),
        ({"tokens": 0}, "tokens is at least 1"),
        ({"combine": "mean"}, "combine is one of"),
        ({"uld_weight": -0.1}, "not negative"),
        ({"uld_weight": 0.9}, "not negative"),
        ({"labels": torch.full((3, 7), -100)}, "no label"),
        ({"labels": torch.zeros(3, 6, dtype=torch.int64)}, r"labels \[B, L\]"),
        ({"teachers": [teacher(1, -1.0)], "combine": "weighted"}, "weights of teachers"),
        ({"teachers": [Teacher(batch(1)[0], batch(1)[1][:, 1:])]}, r"teacher's logits are"),
    ],
)
def test_what_can_not_be_used_is_refused(change: dict[str, object], message: str) -> None:
    student, labels = batch(1)
    given = {"student": student, "labels": labels, "teachers": [teacher(2)]} | OPTIONS | change
    with pytest.raises(ValueError, match=message):
        distill_loss(**given)
