"""The distillation losses: against their definitions, and what must not change them."""

from __future__ import annotations

from pathlib import Path

import naive_gld as naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from logitfusion.distill import gld_loss, selection, uld_loss
from logitfusion.distill.bounds import BOUNDS, gromov_bound
from logitfusion.distill.graph import NODES, build_graph, node_features
from logitfusion.distill.losses import SIGNALS
from logitfusion.distill.predictions import predict_at

INF = torch.inf
SMALL = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)
BOTH = pytest.mark.parametrize("loss", ["gld", "uld", "uld_top"])


def draw(seed: int, *shapes: tuple[int, ...], scale: float = 3.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]


def run(loss: str, student: Tensor, teacher: Tensor, **options: object) -> Tensor:
    if loss == "gld":
        return gld_loss(student, teacher, k=4, **options)
    return uld_loss(student, teacher, k=4 if loss == "uld_top" else None, **options)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that even these texts are cut into several chunks, and vocabularies into blocks."""
    monkeypatch.setattr(selection, "_CHUNK", 60)
    monkeypatch.setattr(selection, "_BLOCK", 2)


# Definitions


@SMALL
@given(seed=SEEDS, length=st.integers(1, 7), k=st.integers(1, 9), nodes=st.sampled_from(NODES))
def test_features_are_the_row_sums_of_the_graph(seed: int, length: int, k: int, nodes: str) -> None:
    (logits,) = draw(seed, (1, length, 9))
    read = predict_at(logits, torch.ones(1, length, dtype=torch.bool), k)
    values, ids = read.signals("logprob", k), read.ids if nodes == "vocab" else None
    graph = build_graph(values, ids, normalize="none")
    torch.testing.assert_close(node_features(values, ids, normalize="none"), graph.sum(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(graph, graph.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("nodes", NODES)
@SMALL
@given(
    seed=SEEDS,
    lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    widths=st.tuples(st.integers(5, 30), st.integers(5, 30)),
    k=st.integers(1, 5),
)
def test_gld_and_its_gradient_are_the_definitions(
    nodes: str, signal: str, seed: int, lengths: tuple[int, int], widths: tuple[int, int], k: int
) -> None:
    student, teacher = draw(seed, *((2, *size) for size in zip(lengths, widths, strict=True)))
    student.requires_grad_()
    found = gld_loss(student, teacher, k=k, nodes=nodes, signal=signal)
    expected = sum(naive.gld(*texts, k, nodes, signal) for texts in zip(student, teacher, strict=True)) / 2
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    gradients = [torch.autograd.grad(part, student)[0] for part in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("k", [None, 1, 4])
@SMALL
@given(
    seed=SEEDS,
    lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    widths=st.tuples(st.integers(5, 30), st.integers(5, 30)),
)
def test_uld_and_its_gradient_are_the_definitions(
    k: int | None, seed: int, lengths: tuple[int, int], widths: tuple[int, int]
) -> None:
    student, teacher = draw(seed, *((2, *size) for size in zip(lengths, widths, strict=True)))
    student.requires_grad_()
    found = uld_loss(student, teacher, k=k)
    expected = sum(naive.uld(*texts, k) for texts in zip(student, teacher, strict=True)) / (2 * min(lengths))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    gradients = [torch.autograd.grad(part, student)[0] for part in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@BOTH
def test_gradients_are_those_of_finite_differences(loss: str) -> None:
    student, teacher = draw(1, (2, 3, 7), (2, 4, 6))
    assert torch.autograd.gradcheck(lambda logits: run(loss, logits, teacher), student.requires_grad_())


@BOTH
def test_no_gradient_flows_to_the_teacher(loss: str) -> None:
    student, teacher = (part.requires_grad_() for part in draw(2, (2, 3, 8), (2, 3, 8)))
    run(loss, student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("normalize", ["positions_and_k", "positions", "none"])
def test_normalisations_are_factors(normalize: str) -> None:
    student, teacher = draw(3, (1, 6, 12), (1, 6, 12))
    factor = {"positions_and_k": 1, "positions": 4, "none": 24}[normalize]
    found = gld_loss(student, teacher, k=4, normalize=normalize)
    torch.testing.assert_close(found, factor * naive.gld(student[0], teacher[0], 4), rtol=1e-11, atol=0)


def test_ranks_come_sorted() -> None:
    """Known: with nodes as drawn in the paper, sorting changes nothing."""
    for seed in range(20):
        student, teacher = draw(seed, (5, 12), (6, 9))
        curves = [naive.features(part, 4, "rank", "logprob") for part in (student, teacher)]
        found = gld_loss(student[None], teacher[None], k=4, nodes="rank", signal="logprob")
        torch.testing.assert_close(found, (curves[0] - curves[1]).abs().sum(), rtol=1e-11, atol=1e-12)


# What must not change the loss


@BOTH
def test_identical_models_are_at_distance_0(loss: str) -> None:
    (student,) = draw(4, (2, 5, 12), dtype=torch.float32)
    assert run(loss, student.requires_grad_(), student.detach().clone()) == 0
    run(loss, student, student.detach().clone()).backward()
    assert student.grad.abs().max() < 1e-6


@BOTH
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@SMALL
@given(seed=SEEDS, order=st.permutations(range(10)))
def test_the_order_of_either_vocabulary_does_not_matter(loss: str, reduction: str, seed: int, order: list[int]) -> None:
    student, teacher = draw(seed, (2, 4, 10), (2, 5, 10))
    expected = run(loss, student, teacher, reduction=reduction)
    torch.testing.assert_close(run(loss, student[..., order], teacher, reduction=reduction), expected)
    torch.testing.assert_close(run(loss, student, teacher[..., order], reduction=reduction), expected)


@BOTH
def test_constants_at_a_position_do_not_matter(loss: str) -> None:
    student, teacher, *moves = draw(5, (2, 4, 10), (2, 5, 9), (2, 4, 1), (2, 5, 1))
    torch.testing.assert_close(run(loss, student + moves[0], teacher + 100 * moves[1]), run(loss, student, teacher))


def test_constants_matter_to_raw_logits() -> None:
    """Why raw logits, the published signal, are not the default."""
    student, _ = draw(6, (2, 4, 10), (1, 1))
    assert gld_loss(student, student + 5, k=4, signal="logit") > 10
    assert gld_loss(student, student + 5, k=4) < 1e-12


@BOTH
@pytest.mark.parametrize("filler", [0.0, 7.0, -INF, INF, torch.nan])
def test_padding_does_not_matter(loss: str, filler: float) -> None:
    student, teacher = draw(7, (2, 4, 10), (2, 5, 9))
    plain = run(loss, student.requires_grad_(), teacher)
    (expected,) = torch.autograd.grad(plain, student)
    padded = [torch.full((2, 8, width), filler, dtype=torch.float64) for width in (10, 9)]
    masks = torch.zeros(2, 2, 8, dtype=torch.bool)
    masks[0, :, 2:6], masks[1, :, :5] = True, True
    padded[0][masks[0]], padded[1][masks[1]] = student.detach().flatten(0, 1), teacher.flatten(0, 1)
    padded[0].requires_grad_()
    found = run(loss, *padded, student_mask=masks[0], teacher_mask=masks[1].int())
    torch.testing.assert_close(found, plain)
    (gradient,) = torch.autograd.grad(found, padded[0])
    torch.testing.assert_close(gradient[:, 2:6], expected)
    assert (gradient[~masks[0]] == 0).all()


@BOTH
def test_a_text_without_positions_has_no_share(loss: str) -> None:
    student, teacher = draw(8, (3, 4, 10), (3, 5, 9))
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1] = False
    kept = run(loss, student[[0, 2]], teacher[[0, 2]])
    torch.testing.assert_close(run(loss, student, teacher, student_mask=mask), kept)
    assert run(loss, student, teacher, student_mask=mask, reduction="none")[1] == 0


@pytest.mark.parametrize("nodes", NODES)
def test_doubling_a_text_does_not_double_the_loss(nodes: str) -> None:
    student, teacher = draw(9, (2, 4, 10), (2, 5, 9))
    once, twice, unlike = (
        gld_loss(student.repeat(1, times, 1), teacher.repeat(1, again, 1), k=4, nodes=nodes)
        for times, again in ((1, 1), (2, 2), (3, 1))
    )
    torch.testing.assert_close(twice, once)
    torch.testing.assert_close(unlike, once)  # the same text cut three times as fine


@BOTH
def test_texts_do_not_see_each_other(loss: str) -> None:
    student, teacher = draw(10, (3, 4, 10), (3, 5, 9))
    together = run(loss, student, teacher, reduction="none")
    alone = [run(loss, student[row : row + 1], teacher[row : row + 1], reduction="sum") for row in range(3)]
    torch.testing.assert_close(together, torch.stack(alone))


@BOTH
def test_tokens_that_a_model_excludes_are_as_if_they_were_not_there(loss: str) -> None:
    student, teacher = draw(11, (2, 4, 10), (2, 5, 9))
    wider = torch.nn.functional.pad(student, (3, 2), value=-INF)
    torch.testing.assert_close(run(loss, wider, teacher), run(loss, student, teacher))


@pytest.mark.parametrize("signal", SIGNALS)
def test_masked_positions_have_no_signal(signal: str) -> None:
    (logits,) = draw(20, (2, 3, 8))
    logits[0, 1], logits[1, 2, 2:] = torch.nan, -INF
    mask = torch.tensor([[True, False, True], [False, True, True]])
    read = predict_at(logits, mask, 4, normalised=signal != "logit")
    values = read.signals(signal, 4)
    assert read.counts.tolist() == [2, 2]
    assert ((values[3] == 0).tolist()) == [False, False, True, True]
    assert values.isfinite().all()


def test_method_folders_do_not_import_each_other() -> None:
    package = Path(selection.__file__).parents[1]
    for folder, other in (("fusion", "distill"), ("distill", "fusion")):
        sources = [path.read_text() for path in (package / folder).glob("*.py")]
        assert sources
        assert not any(f"import logitfusion.{other}" in text or f"from logitfusion.{other}" in text for text in sources)


# Known zeros


def test_a_cycle_of_six_and_two_triangles_look_the_same() -> None:
    """Known zero: all row sums are equal, although the graphs are not (squared GW_2 of 2/9)."""
    cycle = [(node, (node + 1) % 6) for node in range(6)]
    triangles = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
    texts = []
    for edges in (cycle, triangles):  # one edge a position: Z is the incidence matrix
        logits = torch.zeros(1, 6, 6, dtype=torch.float64)
        for position, edge in enumerate(edges):
            logits[0, position, list(edge)] = 1.0
        texts.append(logits)
    assert gld_loss(*texts, k=2, signal="logit") == 0
    graphs = [naive.matrix(text[0], 2, "vocab", "logit") for text in texts]
    graphs = [rows.T @ rows for rows in graphs]
    assert naive.gromov(*graphs, 2) ** 2 == pytest.approx(2 / 9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_z_scored_logits_are_refused(dtype: torch.dtype) -> None:
    student, teacher = draw(12, (2, 4, 10), (2, 4, 10), scale=20.0, dtype=dtype)
    top = (student + 50).topk(5).values
    scored = (top - top.mean(-1, keepdim=True)) / top.std(-1, keepdim=True)
    for pair in ((scored, teacher), (teacher, scored)):
        with pytest.raises(ValueError, match="z-scored over the same top-k"):
            gld_loss(*pair, k=5, signal="logit")
    with pytest.raises(ValueError, match="z-scored over the same top-k"):
        gld_loss(student, teacher, k=5, signal="zscore")
    assert gld_loss(scored, teacher, k=5) > 0  # log-probabilities of the same are fine


# Memory


class LargeTensors(TorchDispatchMode):
    """Counts the tensors that are made with at least so many bytes."""

    def __init__(self, size: int, known: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.size, self.kept = size, list(known)
        self.storages = {part.untyped_storage().data_ptr() for part in known}
        self.count = 0

    def __torch_dispatch__(self, func: object, types: object, args: object = (), kwargs: object = None) -> object:
        made = func(*args, **(kwargs or {}))
        for part in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(part, Tensor) and part.nbytes >= self.size:
                place = part.untyped_storage().data_ptr()
                self.count += place not in self.storages
                self.storages.add(place)
                self.kept.append(part)  # so that no place is used again
        return made


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_nothing_as_large_as_the_logits_is_made_but_their_gradient(loss: str, dtype: torch.dtype, masked: bool) -> None:
    student, teacher = draw(16, (2, 20, 30), (2, 20, 30), dtype=dtype)
    student.requires_grad_()
    mask = torch.ones(2, 20) if masked else None
    with LargeTensors(student.nbytes, (student, teacher)) as seen:
        value = run(loss, student, teacher, student_mask=mask, teacher_mask=mask)
        assert seen.count == 0
        torch.autograd.grad(value, student)
    assert seen.count == 1


@pytest.mark.parametrize("threads", [2, 3, 50])
def test_sorting_in_threads_changes_nothing(threads: int) -> None:
    student, teacher = draw(18, (2, 7, 40), (2, 7, 25))
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            leaf = student.clone().requires_grad_()
            value = uld_loss(leaf, teacher)
            found.append((value, *torch.autograd.grad(value, leaf)))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


# Bounds as the distance


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("distance", BOUNDS)
@pytest.mark.parametrize("nodes", NODES)
def test_bounds_take_the_same_texts(nodes: str, distance: str, order: int) -> None:
    student, teacher = draw(17, (2, 4, 8), (2, 5, 6))
    options = {"nodes": nodes, "signal": "logprob", "distance": distance, "order": order}
    found = gld_loss(student, teacher, k=3, reduction="none", **options)
    for row, value in enumerate(found):
        graphs = []
        for logits, length in ((student[row], 4), (teacher[row], 5)):
            rows = naive.matrix(logits, 3, nodes, "logprob")
            rows = rows[:, (rows != 0).any(0)]
            graphs.append(torch.zeros(8, 8, dtype=torch.float64))
            graphs[-1][: rows.shape[1], : rows.shape[1]] = rows.T @ rows / (3 * length)
        size = max(int((graph != 0).any(0).sum()) for graph in graphs)
        graphs = [graph[:size, :size] for graph in graphs]
        torch.testing.assert_close(value, gromov_bound(*graphs, bound=distance, order=order))


@pytest.mark.parametrize("nodes", NODES)
def test_sorted_features_are_the_first_lower_bound(nodes: str) -> None:
    student, teacher = draw(18, (1, 30, 8), (1, 30, 8))  # so long that every token is a node
    size = 8 if nodes == "vocab" else 3
    flb = gld_loss(student, teacher, k=3, nodes=nodes, distance="flb", order=1)
    torch.testing.assert_close(size**2 * flb, gld_loss(student, teacher, k=3, nodes=nodes))


def test_bounds_refuse_large_graphs() -> None:
    student, teacher = draw(19, (1, 2100, 3000), (1, 1, 3000), dtype=torch.float32)
    with pytest.raises(ValueError, match="at most 2048 nodes"):
        gld_loss(student, teacher, k=3, distance="slb")


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k is between 1 and .* 9, not 0"),
        ({"k": 10}, "k is between"),
        ({"k": -1}, "k is between"),
        ({"student": torch.zeros(4, 10)}, r"\[B, L, V\]"),
        ({"teacher": torch.zeros(3, 4, 9)}, "same B texts"),
        ({"student_mask": torch.ones(2, 5)}, r"student_mask is \[B, L\] = \(2, 4\)"),
        ({"teacher_mask": torch.ones(2)}, "teacher_mask"),
        ({"student_mask": torch.zeros(2, 4)}, "masks leave nothing"),
        ({"student_mask": torch.eye(2).repeat(1, 2), "teacher_mask": torch.zeros(2, 5)}, "masks leave nothing"),
        ({"student": torch.zeros(2, 0, 10)}, "nothing"),
        ({"student": torch.zeros(0, 4, 10), "teacher": torch.zeros(0, 5, 9)}, "nothing"),
        ({"signal": "log"}, "signal is one of"),
        ({"reduction": "all"}, "reduction is one of"),
    ],
)
@pytest.mark.parametrize("loss", [gld_loss, uld_loss])
def test_what_can_not_be_used_is_refused(loss: object, change: dict[str, object], message: str) -> None:
    given = {"student": torch.zeros(2, 4, 10), "teacher": torch.zeros(2, 5, 9), "k": 4} | change
    with pytest.raises(ValueError, match=message):
        loss(**given)


def test_other_names_are_refused() -> None:
    student = torch.zeros(2, 4, 10)
    for name in ("nodes", "normalize", "distance"):
        with pytest.raises(ValueError, match=f"{name} is one of"):
            gld_loss(student, student, k=4, **{name: "other"})
    with pytest.raises(ValueError, match="compares probabilities"):
        uld_loss(student, student, signal="logprob")


# Extremes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=SEEDS,
    batch=st.integers(1, 3),
    lengths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    widths=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    scale=st.sampled_from([0.0, 1e-4, 1.0, 100.0, 5000.0]),
    level=st.sampled_from([None, 0.0, 2.0]),
    excluded=st.floats(0, 1),
    data=st.data(),
)
def test_extremes_stay_finite(
    dtype: torch.dtype,
    seed: int,
    batch: int,
    lengths: tuple[int, int],
    widths: tuple[int, int],
    scale: float,
    level: float | None,
    excluded: float,
    data: st.DataObject,
) -> None:
    shapes = [(batch, *size) for size in zip(lengths, widths, strict=True)]
    models = draw(seed, *shapes, scale=scale, dtype=torch.float32)
    for model, chance in zip(models, draw(seed + 1, *shapes, scale=1.0), strict=True):
        if level is not None:
            model[chance > 0.5] = level  # ties
        model[chance.abs() < excluded] = -INF
    student, teacher = (model.to(dtype) for model in models)
    student.requires_grad_()
    k = data.draw(st.integers(1, min(widths)))
    for signal in ("logprob", "prob"):
        for value in (
            gld_loss(student, teacher, k=k, signal=signal, nodes=data.draw(st.sampled_from(NODES))),
            uld_loss(student, teacher, k=k, signal=signal),
            uld_loss(student, teacher),
        ):
            (gradient,) = torch.autograd.grad(value, student)
            assert value.dtype == torch.float32
            assert value.isfinite()
            assert value >= 0
            assert gradient.isfinite().all() or (dtype == torch.float16 and scale > 100)
            assert gradient.dtype == dtype


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_worked_on_in_fp32(loss: str, dtype: torch.dtype) -> None:
    halves = [part.to(dtype) for part in draw(13, (2, 40, 50), (2, 40, 50), dtype=torch.float32)]
    expected = run(loss, *(part.double() for part in halves)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(loss, *halves)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_published_sums_leave_the_range_of_fp16() -> None:
    """And stay exact here: 1,000 positions of raw logits."""
    student, teacher = ((part + 20).half() for part in draw(14, (1, 1000, 50), (1, 1000, 50), dtype=torch.float32))
    options = {"k": 10, "signal": "logit", "normalize": "none"}
    found, expected = gld_loss(student, teacher, **options), gld_loss(student.double(), teacher.double(), **options)
    assert expected > 65504
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=0)


def test_slices_of_logits_are_taken_as_they_are() -> None:
    student, teacher = draw(15, (2, 6, 10), (2, 10, 6))
    teacher = teacher.transpose(1, 2)
    for loss in ("gld", "uld", "uld_top"):
        found = run(loss, student[:, :-1].requires_grad_(), teacher[:, 1:])
        torch.testing.assert_close(found, run(loss, student[:, :-1].clone(), teacher[:, 1:].clone()))
        found.backward()


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6, 1e30])
@pytest.mark.parametrize("k", [None, 4])
def test_probabilities_of_large_logits_are_exact(size: float, k: int | None) -> None:
    """Logits far from 0 have the same softmax as nearer ones where all differ by as much."""
    student, teacher = (torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    near = uld_loss(student.double() * size, teacher.double() * size, k=k)
    found = uld_loss(student * size, teacher * size, k=k)
    torch.testing.assert_close(found.double(), near, rtol=1e-4, atol=1e-5)
