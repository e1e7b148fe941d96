"""A model's predictions along responses, and the objective over teachers that were cached."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from logitfusion.distill import CachedTeacher, Teacher, distill_loss, gld_loss, predict, selection
from logitfusion.distill.alignment import pair_in_order
from logitfusion.distill.terms import gld_of_predictions, uld_of_predictions

IGNORED = -100


def batch(seed: int, texts: int = 3, length: int = 8, width: int = 11) -> tuple[Tensor, Tensor]:
    """Logits in float64 and labels: responses of unlike length, one of them of a single token, one absent."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(texts, length, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(width, (texts, length), generator=generator)
    for row in range(texts):
        labels[row, : (length - 1, 2, length, 3)[row % 4]] = IGNORED
    return logits, labels


def naive(logits: Tensor, labels: Tensor, k: int) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
    """Of each text and each position with a label: the sorted log-probabilities, their ids, the label's."""
    found = []
    for rows, tokens in zip(logits, labels, strict=True):
        found.append([])
        for place in range(1, len(tokens)):
            if tokens[place] != IGNORED:
                log_probs = rows[place - 1].log_softmax(-1)
                order = log_probs.argsort(descending=True, stable=True)[:k]
                found[-1].append((log_probs[order], order, log_probs[tokens[place]]))
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 14), st.integers(1, 5), st.integers(2, 9))
def test_predictions_are_those_of_log_softmax(seed: int, k: int, texts: int, length: int) -> None:
    logits, labels = batch(seed, texts, length)
    read = predict(logits, labels, k)
    expected = naive(logits, labels, k)
    assert read.counts.tolist() == list(map(len, expected))
    flat = [position for text in expected for position in text]
    if flat:
        torch.testing.assert_close(read.log_probs, torch.stack([values for values, _, _ in flat]))
        assert torch.equal(read.ids, torch.stack([ids for _, ids, _ in flat]))
        torch.testing.assert_close(read.label_log_probs, torch.stack([label for _, _, label in flat]))
    assert read.texts.tolist() == [text for text, positions in enumerate(expected) for _ in positions]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 700), st.sampled_from([0.0, 0.5, 4.0]))
def test_the_top_k_are_those_of_a_sorted_row(seed: int, k: int, width: int, scale: float) -> None:
    """Where blocks are searched and where not, with ties, excluded tokens and rows that have nothing else."""
    generator = torch.Generator().manual_seed(seed)
    rows = (scale * torch.randn(3, 2, width, generator=generator)).round()
    rows[0][torch.rand(2, width, generator=generator) < 0.9] = -torch.inf
    rows[1, 1] = -torch.inf
    k = min(k, width)
    values, ids = selection.top_k(rows, k)
    assert torch.equal(values, rows.sort(descending=True).values[..., :k])
    assert torch.equal(rows.gather(-1, ids), values)
    assert all(len(set(row)) == k for row in ids.flatten(0, 1).tolist())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([-300.0, 0.0, 50.0]), st.sampled_from([0.1, 3.0, 100.0]))
def test_the_normaliser_is_the_logsumexp(seed: int, level: float, scale: float) -> None:
    rows = level + scale * torch.randn(4, 3000, generator=torch.Generator().manual_seed(seed))
    rows[0, 1:] = -torch.inf
    rows[1] = -torch.inf
    found, expected = selection.log_normaliser(rows), rows.double().logsumexp(-1, keepdim=True)
    expected[1] = 0.0
    precision = 2e-7 * (10 + expected.abs())
    assert ((found - expected).abs() <= precision).all()
    chances = selection.shifted_exp(rows, found)
    assert ((chances - (rows - expected).exp()).abs() <= 2 * precision).all()
    double = selection.log_normaliser(rows.double())
    torch.testing.assert_close(double, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("width", [11, 700])
def test_parts_are_slices_or_copies(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses that end in the middle of a part, labels with gaps, and logits that are not contiguous."""
    logits, labels = batch(4, texts=4, length=9, width=width)
    labels[1, 5] = IGNORED
    logits.requires_grad_()
    factors = torch.randn(100, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = []
    for rows, given_logits in ((1, logits), (4, logits), (4, logits.transpose(0, 1).contiguous().transpose(0, 1))):
        monkeypatch.setattr(selection, "_CHUNK", rows * width)
        read = predict(given_logits, labels, 5)
        values = torch.cat([read.log_probs, read.label_log_probs[:, None]], dim=1)
        found.append((values, torch.autograd.grad((values * factors[: len(values)]).sum(), logits)[0]))
    counted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED) != IGNORED
    log_probs = logits.log_softmax(-1)[counted]
    expected = torch.cat(
        [log_probs.topk(5).values, log_probs.gather(1, labels[:, 1:][counted[:, :-1]][:, None])], dim=1
    )
    (gradient,) = torch.autograd.grad((expected * factors[: len(expected)]).sum(), logits)
    for values, slope in found:
        torch.testing.assert_close(values, expected)
        torch.testing.assert_close(slope, gradient)


def test_gradients_of_predictions() -> None:
    logits, labels = batch(1)
    logits.requires_grad_()

    def both(values: Tensor) -> tuple[Tensor, Tensor]:
        read = predict(values, labels, 4)
        return read.log_probs, read.label_log_probs

    assert torch.autograd.gradcheck(both, (logits,))


def test_prompts_that_are_not_numbers_do_no_harm() -> None:
    logits, labels = batch(2)
    counted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED) != IGNORED
    logits[~counted] = float("nan")
    logits.requires_grad_()
    predict(logits, labels, 3).log_probs.sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[~counted].any()


def test_excluded_tokens_have_no_signal() -> None:
    logits = torch.tensor([[[0.0, -torch.inf, -torch.inf], [0.0, 0.0, 0.0]]])
    read = predict(logits, torch.tensor([[IGNORED, 0]]), 3)
    assert read.signals("logprob", 3).tolist() == [[0.0, 0.0, 0.0]]
    assert read.signals("prob", 3).tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("nodes", ["vocab", "rank"])
@pytest.mark.parametrize("signal", ["logprob", "prob"])
def test_gld_of_predictions_is_gld_of_logits(nodes: str, signal: str) -> None:
    student, labels = batch(3, texts=4)
    teacher, others = batch(4, texts=4, length=10, width=17)
    masks = [torch.nn.functional.pad(part[:, 1:], (0, 1), value=IGNORED) != IGNORED for part in (labels, others)]
    options: dict[str, Any] = {"k": 5, "nodes": nodes, "signal": signal}
    expected = gld_loss(student, teacher, student_mask=masks[0], teacher_mask=masks[1], reduction="none", **options)
    read = predict(student, labels, 6), predict(teacher, others, 9)
    found = gld_of_predictions(*read, mask=torch.ones(4, dtype=torch.bool), **options)
    torch.testing.assert_close(found, expected)
    assert not gld_of_predictions(*read, mask=torch.zeros(4, dtype=torch.bool), **options).any()


def cached(teacher: Teacher, k: int, groups: Tensor | None = None) -> CachedTeacher:
    return CachedTeacher(predict(teacher.logits, teacher.labels, k), groups, teacher.weight)


@pytest.mark.parametrize("combine", ["sum", "weighted", "min_ce"])
def test_a_cached_teacher_is_the_teacher(combine: str) -> None:
    student, labels = batch(5)
    teachers = [Teacher(*batch(6), 0.5), Teacher(*batch(7, length=12, width=20), 1.5)]
    options: dict[str, Any] = {"k": 4, "uld_k": 4, "uld_weight": 0.3, "gld_weight": 0.2, "combine": combine}
    expected = distill_loss(student, labels, teachers, **options)
    found = distill_loss(student, labels, [cached(one, 6) for one in teachers], **options)
    for part in ("total", "sft", "uld", "gld"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part))
    assert found.uld > 0
    assert found.gld > 0


def test_merged_groups_multiply_the_probabilities_of_their_earlier_tokens() -> None:
    """Two student tokens against one of the teacher, then one against three."""
    student, labels = batch(8, texts=2, length=5)
    labels[:] = torch.tensor([[IGNORED, IGNORED, 1, 2, 3]] * 2)
    teacher, others = batch(9, texts=2, length=6)
    others[:] = torch.tensor([[IGNORED, IGNORED, 4, 5, 6, 7]] * 2)
    groups = torch.tensor([[0, 1, 0, 0], [2, 2, 1, 3]])
    both = torch.cat([groups, groups + torch.tensor([3, 3, 4, 4])])
    found = uld_of_predictions(predict(student, labels, 3), predict(teacher, others, 3), both, k=3)
    for text in range(2):
        ours = [row.softmax(-1) for row in student[text, 1:4]]
        theirs = [row.softmax(-1) for row in teacher[text, 1:5]]
        pairs = [(ours[0][1] * ours[1], theirs[0]), (ours[2], theirs[1][5] * theirs[2][6] * theirs[3])]
        expected = sum((a.sort(descending=True)[0][:3] - b.sort(descending=True)[0][:3]).abs().sum() for a, b in pairs)
        torch.testing.assert_close(found[text], expected)


def test_without_groups_the_longer_text_is_cut() -> None:
    ours, theirs = predict(*batch(10), 2), predict(*batch(11, length=5), 2)
    groups = pair_in_order(ours.counts, theirs.counts)
    starts = [one.counts.cumsum(0) - one.counts for one in (ours, theirs)]
    counts = torch.minimum(ours.counts, theirs.counts).tolist()
    expected = [[start[text] + place for start in starts] for text in range(3) for place in range(counts[text])]
    assert groups[:, [0, 2]].tolist() == torch.tensor(expected).tolist()
    assert torch.equal(groups[:, [0, 2]], groups[:, [1, 3]])


def test_what_a_cache_does_not_hold_is_refused() -> None:
    student, labels = batch(12)
    one = cached(Teacher(*batch(13)), 3)
    for options, words in (
        ({"k": 4, "uld_weight": 0.0, "gld_weight": 0.5}, "top 3"),
        ({"k": 3, "uld_weight": 0.5, "gld_weight": 0.0}, "no whole vocabularies"),
        ({"k": 3, "uld_weight": 0.5, "gld_weight": 0.0, "uld_k": 3, "signal": "logit"}, "signal"),
    ):
        with pytest.raises(ValueError, match=words):
            distill_loss(student, labels, [one], **options)
    fewer = replace(one.predictions, counts=one.predictions.counts[:2])
    with pytest.raises(ValueError, match="same texts"):
        distill_loss(student, labels, [CachedTeacher(fewer)], k=3, uld_weight=0.0, gld_weight=0.5)


def test_sft_alone_needs_no_teacher() -> None:
    student, labels = batch(14)
    found = distill_loss(student, labels, [], k=10, uld_weight=0.0, gld_weight=0.0)
    expected = torch.nn.functional.cross_entropy(student[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(found.total, expected)
