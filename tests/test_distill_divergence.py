"""Divergences of a student from a teacher of the same tokens: from logits, and from what a cache keeps of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import kl_div

from logitfusion.distill import CachedTeacher, Teacher, distill_loss, predict
from logitfusion.distill.divergence import diverge, divergence_of_logits, divergence_of_tops

FORMS = ("forward", "reverse", "jsd")
EACH = pytest.mark.parametrize("form", FORMS)
SMALL = settings(max_examples=30, deadline=None)


def draw(seed: int, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def places_of(logits: Tensor) -> Tensor:
    return torch.ones(logits.shape[:2]).nonzero()


def expected(ours: Tensor, theirs: Tensor, form: str) -> Tensor:
    """Of probabilities ``[N, V]``, entry by entry, by definition."""
    total = []
    for p, q in zip(ours, theirs, strict=True):
        m = (p + q) / 2
        pairs = {"forward": [(q, p)], "reverse": [(p, q)], "jsd": [(p, m), (q, m)]}[form]
        total.append(sum((a * (a / b).log()).sum() for a, b in pairs) / len(pairs))
    return torch.stack(total)


def merged(probabilities: Tensor, ids: Tensor) -> Tensor:
    top = probabilities.gather(1, ids)
    return torch.cat([top, probabilities.scatter(1, ids, 0.0).sum(1, keepdim=True)], dim=1)


@EACH
@SMALL
@given(seed=st.integers(0, 2**31), size=st.integers(2, 30), temperature=st.floats(0.3, 4))
def test_from_logits_it_is_the_definition(form: str, seed: int, size: int, temperature: float) -> None:
    student, teacher = draw(seed, 2, 3, size).requires_grad_(), draw(seed + 1, 2, 3, size)
    places = places_of(student)
    found = divergence_of_logits(student, places, teacher, places, form, temperature)
    right = expected(*((side / temperature).softmax(-1).flatten(0, 1) for side in (student, teacher)), form)
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)
    slopes = [torch.autograd.grad(part.sum(), student)[0] for part in (found, right)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-11)


def test_forward_and_reverse_are_torch_s() -> None:
    student, teacher = draw(1, 1, 4, 9), draw(2, 1, 4, 9)
    ours, theirs = student[0].log_softmax(-1), teacher[0].log_softmax(-1)
    found = [
        divergence_of_logits(student, places_of(student), teacher, places_of(teacher), form, 1.0) for form in FORMS
    ]
    torch.testing.assert_close(found[0], kl_div(ours, theirs, reduction="none", log_target=True).sum(1))
    torch.testing.assert_close(found[1], kl_div(theirs, ours, reduction="none", log_target=True).sum(1))


@EACH
@SMALL
@given(seed=st.integers(0, 2**31), k=st.integers(1, 11), temperature=st.sampled_from([1.0, 0.5, 3.0]))
def test_from_a_cache_it_is_that_of_merged_distributions(form: str, seed: int, k: int, temperature: float) -> None:
    student, teacher = draw(seed, 2, 3, 12).requires_grad_(), draw(seed + 1, 2, 3, 12)
    p, q = (side.softmax(-1).flatten(0, 1) for side in (student, teacher))
    top = q.topk(k)
    tail = 1 - top.values.sum(1)
    found = divergence_of_tops(student, places_of(student), top.values.log(), top.indices, tail, form, temperature)
    sides = [merged(side, top.indices) ** (1 / temperature) for side in (p, q)]
    right = expected(*(side / side.sum(1, keepdim=True) for side in sides), form)
    torch.testing.assert_close(found, right, rtol=1e-7, atol=1e-9)
    slopes = [torch.autograd.grad(part.sum(), student)[0] for part in (found, right)]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-8)


@EACH
@SMALL
@given(seed=st.integers(0, 2**31), k=st.integers(1, 11))
def test_what_a_cache_loses_is_the_tail_s_own_share(form: str, seed: int, k: int) -> None:
    student, teacher = draw(seed, 1, 5, 12), draw(seed + 1, 1, 5, 12)
    places = places_of(student)
    p, q = (side.softmax(-1)[0] for side in (student, teacher))
    top = q.topk(k)
    rest = torch.ones_like(q).scatter(1, top.indices, 0.0)
    tail = (q * rest).sum(1)
    whole = divergence_of_logits(student, places, teacher, places, form, 1.0)
    lost = whole - divergence_of_tops(student, places, top.values.log(), top.indices, tail, form, 1.0)
    own = (p * rest).sum(1)
    within = [((side * rest) / mass[:, None]).clamp(min=1e-300) for side, mass in ((p, own), (q, tail))]
    share = {"forward": tail, "reverse": own, "jsd": (own + tail) / 2}[form]
    assert (lost >= -1e-9).all()
    if form == "jsd":
        assert (lost <= math.log(2) * share + 1e-9).all()
    else:
        torch.testing.assert_close(lost, share * expected(*within, form), rtol=1e-6, atol=1e-9)


@EACH
def test_all_tokens_in_a_cache_are_the_logits(form: str) -> None:
    student, teacher = draw(3, 2, 3, 8).requires_grad_(), draw(4, 2, 3, 8)
    places, top = places_of(student), draw(4, 2, 3, 8).log_softmax(-1).flatten(0, 1).sort(descending=True)
    for temperature in (1.0, 2.0):
        whole = divergence_of_logits(student, places, teacher, places, form, temperature)
        kept = divergence_of_tops(student, places, top.values, top.indices, torch.zeros(6).double(), form, temperature)
        torch.testing.assert_close(kept, whole)
        torch.testing.assert_close(*(torch.autograd.grad(part.sum(), student)[0] for part in (kept, whole)))


@EACH
@pytest.mark.parametrize("sizes", [(8, 11), (11, 8)])
def test_padding_of_a_vocabulary_has_no_part(form: str, sizes: tuple[int, int]) -> None:
    student, teacher = draw(5, 1, 4, sizes[0]), draw(6, 1, 4, sizes[1])
    places = places_of(student)
    found = divergence_of_logits(student, places, teacher, places, form, 1.0)
    right = divergence_of_logits(student[..., :8], places, teacher[..., :8], places, form, 1.0)
    torch.testing.assert_close(found, right)


@EACH
@pytest.mark.parametrize(("sizes", "k"), [((11, 8), 8), ((8, 11), 11), ((8, 11), 9)])
def test_padding_has_no_part_from_a_cache(form: str, sizes: tuple[int, int], k: int) -> None:
    """Of a cache that names all common tokens, whether or not it names padding, too."""
    student, teacher = draw(5, 1, 4, sizes[0]).requires_grad_(), draw(6, 1, 4, sizes[1])
    teacher[..., 8:] -= 20
    places, top = places_of(student), teacher[0].softmax(-1).topk(k)
    tail = 1 - top.values.sum(1) if k < sizes[1] else torch.zeros(4)
    cached = top.values.log(), top.indices, tail
    for temperature in (1.0, 2.0):
        whole = divergence_of_logits(student, places, teacher, places, form, temperature)
        kept = divergence_of_tops(student, places, *cached, form, temperature, sizes[1])
        torch.testing.assert_close(kept, whole)
        torch.testing.assert_close(*(torch.autograd.grad(part.sum(), student)[0] for part in (kept, whole)))


@EACH
def test_it_is_zero_for_equals_and_nowhere_negative(form: str) -> None:
    student = draw(7, 2, 5, 20)
    places = places_of(student)
    assert divergence_of_logits(student, places, student, places, form, 1.3).abs().max() < 1e-12
    assert (divergence_of_logits(student, places, draw(8, 2, 5, 20), places, form, 1.3) > 0).all()


def test_excluded_tokens() -> None:
    ours, theirs = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.5, 0.0, 0.5]]).log()
    assert diverge(ours, theirs, "forward").isinf()
    assert diverge(ours, theirs, "reverse").isinf()
    assert diverge(ours, theirs, "jsd").item() == pytest.approx(math.log(2) / 2)
    both = torch.tensor([[0.2, 0.8, 0.0]]).log().requires_grad_()
    for form in FORMS:
        value = diverge(both, torch.tensor([[0.6, 0.4, 0.0]]).log(), form)
        (slope,) = torch.autograd.grad(value.sum(), both)
        assert value.isfinite().all()
        assert slope.isfinite().all()


@EACH
@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_the_gradient_beside_excluded_tokens_is_autograd_s(form: str, side: str) -> None:
    if (form, side) == ("reverse", "teacher"):
        pytest.skip("infinite, and so is its gradient")
    student, teacher = draw(1, 1, 4, 9), draw(2, 1, 4, 9)
    for excludes in {"student": [student], "teacher": [teacher], "both": [student, teacher]}[side]:
        excludes[0, 1:3, 4:6] = -torch.inf
    student.requires_grad_()
    places = places_of(student)
    found = divergence_of_logits(student, places, teacher, places, form, 1.0)
    right = diverge(student[0].log_softmax(-1), teacher[0].log_softmax(-1), form)
    slopes = [torch.autograd.grad(part.sum(), student)[0] for part in (found, right)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("form", "excluding"), [("forward", "student"), ("reverse", "teacher")])
def test_a_token_that_one_side_excludes_and_the_other_finds_all_but_impossible_has_no_part(
    form: str, excluding: str
) -> None:
    """So small a probability is 0 in any precision: 0 times infinity is no number, and the limit is 0."""
    logits = {"student": draw(1, 1, 4, 9), "teacher": draw(2, 1, 4, 9)}
    for side, values in logits.items():
        values[..., 3] = -torch.inf if side == excluding else -5000.0
    student = logits["student"].requires_grad_()
    places = places_of(student)
    found = divergence_of_logits(student, places, logits["teacher"], places, form, 1.0)
    (slope,) = torch.autograd.grad(found.sum(), student)
    left = [values[..., [0, 1, 2, 4, 5, 6, 7, 8]].detach() for values in logits.values()]
    torch.testing.assert_close(found, divergence_of_logits(left[0], places, left[1], places, form, 1.0))
    assert slope.isfinite().all()


@EACH
def test_the_order_of_places_does_not_matter(form: str) -> None:
    """Neighbours are read as a slice, others are picked."""
    student, teacher = draw(1, 2, 5, 9).requires_grad_(), draw(2, 2, 5, 9)
    places = places_of(student)
    order = torch.tensor([0, 2, 1, 3, 9, 8, 7, 6, 5, 4])
    found = divergence_of_logits(student, places, teacher, places, form, 1.0)
    mixed = divergence_of_logits(student, places[order], teacher, places[order], form, 1.0)
    torch.testing.assert_close(mixed, found[order])
    slopes = [torch.autograd.grad(part.square().sum(), student)[0] for part in (found, mixed)]
    torch.testing.assert_close(*slopes)


def test_a_token_that_the_student_lacks_is_refused() -> None:
    student, ids = draw(9, 1, 2, 5), torch.tensor([[7], [1]])
    with pytest.raises(ValueError, match="token 7 is none of the student's 5"):
        divergence_of_tops(student, places_of(student), torch.zeros(2, 1), ids, torch.zeros(2), "forward", 1.0)


# Within the objective


def batch(seed: int, width: int = 12) -> tuple[Tensor, Tensor]:
    labels = torch.randint(width, (3, 7), generator=torch.Generator().manual_seed(seed))
    for row in range(3):
        labels[row, : 2 + row] = -100
    return draw(seed, 3, 7, width), labels


def naive_part(student: Tensor, teacher: Tensor, labels: Tensor, form: str) -> Tensor:
    mask = labels[:, 1:] != -100
    sides = (side[:, :-1][mask].softmax(-1) for side in (student, teacher))
    return expected(*sides, form).sum() / mask.sum()


@EACH
def test_the_objective_adds_it_to_the_others(form: str) -> None:
    (student, labels), (teacher, _) = batch(10), batch(11)
    one = Teacher(teacher, labels)
    found = distill_loss(student, labels, [one], k=4, uld_weight=0.1, gld_weight=0.2, kl_weight=0.3, divergence=form)
    torch.testing.assert_close(found.kl, naive_part(student, teacher, labels, form))
    parts = 0.4 * found.sft + 0.1 * found.uld + 0.2 * found.gld + 0.3 * found.kl
    torch.testing.assert_close(found.total, parts)


@EACH
def test_a_cache_of_all_tokens_is_the_teacher_itself(form: str) -> None:
    (student, labels), (teacher, _) = batch(12), batch(13)
    student.requires_grad_()
    options = {"uld_weight": 0.0, "gld_weight": 0.0, "kl_weight": 0.7, "divergence": form, "temperature": 2.0}
    kept = CachedTeacher(predict(teacher, labels, 12))
    found = [distill_loss(student, labels, [one], **options).total for one in (Teacher(teacher, labels), kept)]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(part, student)[0] for part in found))


def test_merged_groups_have_no_divergence() -> None:
    (student, labels), (teacher, _) = batch(14), batch(15)
    predictions = predict(teacher, labels, 5)
    groups = torch.tensor([[0, 0, 0, 0], [1, 2, 1, 1], [3, 3, 2, 3], [4, 4, 4, 4]])
    options = {"uld_weight": 0.0, "gld_weight": 0.0, "kl_weight": 1.0, "sft_weight": 0.0}
    some = distill_loss(student, labels, [CachedTeacher(predictions, groups)], **options)
    alone = distill_loss(student, labels, [CachedTeacher(predictions, groups[[0, 3]])], **options)
    torch.testing.assert_close(some.kl, alone.kl)
    assert some.kl > 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none(temperature: float) -> None:
    student, labels = batch(16)
    with pytest.raises(ValueError, match="temperature"):
        distill_loss(
            student, labels, [Teacher(student, labels)], uld_weight=0.0, gld_weight=0.0, kl_weight=0.5,
            temperature=temperature,
        )  # fmt: skip
