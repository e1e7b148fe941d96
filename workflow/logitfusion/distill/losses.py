"""Losses between the logits of a student and of a teacher whose vocabulary may be another one.

* ``uld_loss``: sorted L1 of each position (Universal Logit Distillation, Boizard et al. 2024, arXiv 2402.12030).
* ``gld_loss``: sorted L1 of the node features of a graph of each text (InfiGFusion, arXiv 2505.13893).

InfiGFusion's repository has no code of its loss. This follows the published formulas; k, the normalisation and the
signal of its experiments are not published, so no match with its numbers is claimed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitfusion.distill.bounds import BOUNDS, LARGEST, gromov_bound
from logitfusion.distill.graph import NODES, NORMALISATIONS, SIGNALS, build_graph, node_features, top_signals
from logitfusion.distill.selection import SortedL1

REDUCTIONS = ("mean", "sum", "none")
DISTANCES = ("sorted", *BOUNDS)


def gld_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    k: int,
    nodes: str = "vocab",
    signal: str = "logprob",
    student_mask: Tensor | None = None,
    teacher_mask: Tensor | None = None,
    normalize: str = "positions_and_k",
    reduction: str = "mean",
    distance: str = "sorted",
    order: int = 2,
) -> Tensor:
    """Graph-on-logits distillation: ``sum_i |f_student_(i) - f_teacher_(i)|``, features sorted in descending order.

    The features of a text are ``f = Z^T (Z 1)``, see ``logitfusion.distill.graph``. Published are the graph, the
    sorted row sums and their L1 distance; derived are the short form of f, the default signal (raw logits change the
    loss when a constant is added, which no probability sees) and the divisions by positions and k (without the first,
    a tokenizer that cuts the text finer is a loss by itself). Graphs with unlike numbers of nodes are filled up with
    isolated ones, whose feature is 0. No positions are aligned.

    With ``normalize="none"`` and n nodes each (after filling up), this is ``n^2 W_1 <= n^2 GW_1``: a scaled lower
    bound of the Gromov-Wasserstein distance, not the distance. **Known zero**: graphs of equal row sums look the same,
    such as a cycle of six nodes and two triangles, although their squared GW_2 is 2/9. ``distance`` names other
    bounds, which build the graphs and are for short texts. Also, in ``"logprob"`` a channel outside the top-k has
    signal 0, that of probability 1; ``"prob"`` is free of that.

    Args:
        student: raw logits ``[B, L, V_s]``, any float type; -inf entries take no part.
        teacher: raw logits ``[B, L', V_t]`` of the same texts; no gradient flows to them.
        k: entries of each position, at most the smaller vocabulary.
        nodes: ``"vocab"`` or ``"rank"`` (as drawn in the paper; sorting does nothing there).
        signal: ``"logprob"``, ``"prob"`` or ``"logit"`` (as published).
        student_mask: ``[B, L]``, true where a position counts (the response); all by default.
        teacher_mask: ``[B, L']``.
        normalize: ``"positions_and_k"``, ``"positions"`` or ``"none"`` (as published).
        reduction: over texts: ``"mean"``, ``"sum"`` or ``"none"``, which gives ``[B]``. A text without a position
            that counts, on either side, has loss 0 and is no part of the mean.
        distance: ``"sorted"`` (published), or a bound of ``logitfusion.distill.bounds.gromov_bound``: ``"flb"``,
            ``"slb"``, ``"tlb"``, ``"sorted_plan"`` or ``"spread"``, for graphs of up to 2,048 nodes.
        order: of such a bound, 1 or 2.

    Returns:
        A scalar (``[B]`` with ``"none"``), fp32, or float64 where the student's logits are. Its unit is that of the
        signal, squared: squared nats for ``"logprob"``.

    Raises:
        ValueError: shapes, masks or names that can't be used; k below 1 or beyond a vocabulary; a graph too large for
            a bound; no text with a position that counts; logits z-scored over the same top-k (then ``Z 1 = 0`` and the
            loss is 0 whatever the models say).
        ImportError: ``distance="tlb"`` without scipy.
    """
    masks = _checked(student, teacher, student_mask, teacher_mask)
    _check_k(k, student, teacher)
    _check_name("nodes", nodes, NODES)
    _check_signal(signal)
    _check_name("normalize", normalize, NORMALISATIONS)
    _check_name("reduction", reduction, REDUCTIONS)
    _check_name("distance", distance, DISTANCES)
    with torch.no_grad():
        theirs = top_signals(teacher, masks[1], k=k, signal=signal)
    ours = top_signals(student, masks[0], k=k, signal=signal)
    if signal == "logit":
        _refuse_z_scores(ours[0], masks[0], student.dtype, "student")
        _refuse_z_scores(theirs[0], masks[1], teacher.dtype, "teacher")
    counted = masks[0].any(1) & masks[1].any(1)
    losses = []
    for row, counts in enumerate(counted.tolist()):
        if counts:
            texts = [
                (values[row, mask[row]].to(ours[0].dtype), ids[row, mask[row]] if nodes == "vocab" else None)
                for (values, ids), mask in ((ours, masks[0]), (theirs, masks[1]))
            ]
            if distance == "sorted":
                losses.append(sorted_l1(*(node_features(*text, normalize=normalize) for text in texts)))
            else:
                graphs = _filled_up(*(build_graph(*text, normalize=normalize) for text in texts))
                losses.append(gromov_bound(*graphs, bound=distance, order=order))
        else:
            losses.append(ours[0].new_zeros(()))
    return _reduced(torch.stack(losses), int(counted.sum()), reduction)


def sorted_l1(found: Tensor, wanted: Tensor) -> Tensor:
    """``sum_i |found_(i) - wanted_(i)|`` of ``[n]`` and ``[m]``, the shorter filled up with zeros."""
    size = max(len(found), len(wanted))
    found, wanted = (
        torch.nn.functional.pad(part, (0, size - len(part))).sort(descending=True).values for part in (found, wanted)
    )
    return (found - wanted).abs().sum()


def _filled_up(*graphs: Tensor) -> list[Tensor]:
    """The graphs with isolated nodes, as many as the largest has."""
    size = max(map(len, graphs))
    if size > LARGEST:
        raise ValueError(f'bounds are for graphs of at most {LARGEST} nodes, not {size}: use distance="sorted"')
    return [torch.nn.functional.pad(graph, (0, size - len(graph)) * 2) for graph in graphs]


def uld_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    k: int | None = None,
    signal: str = "prob",
    student_mask: Tensor | None = None,
    teacher_mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Universal logit distillation: ``sum_i |p_(i) - q_(i)|`` of each position, entries in descending order.

    The i-th position of the student that counts is held against the i-th of the teacher, and what is left of the
    longer text is cut off (the published fallback for unlike tokenizers; give aligned positions to do better).

    Args:
        student: raw logits ``[B, L, V_s]``, any float type; -inf entries have probability 0.
        teacher: raw logits ``[B, L', V_t]`` of the same texts; no gradient flows to them.
        k: only the k largest of each position (their probabilities are not made to sum to 1, the rest is left out);
            None for whole vocabularies, the smaller filled up with tokens of probability 0.
        signal: ``"prob"`` (published); with k also ``"logprob"`` and ``"logit"``.
        student_mask: ``[B, L]``, true where a position counts (the response); all by default.
        teacher_mask: ``[B, L']``.
        reduction: over pairs of positions: ``"mean"``, ``"sum"``, or ``"none"`` for the sum of each text, ``[B]``.

    Returns:
        A scalar (``[B]`` with ``"none"``), fp32, or float64 where the student's logits are; for probabilities between
        0 and 2 a position, without unit.

    Raises:
        ValueError: shapes, masks or names that can't be used; k below 1 or beyond a vocabulary; another signal than
            probabilities with whole vocabularies (a logarithm of 0 can't fill them up); no pair of positions.
    """
    masks = _checked(student, teacher, student_mask, teacher_mask)
    _check_signal(signal)
    _check_name("reduction", reduction, REDUCTIONS)
    pairs = _pairs(*masks)
    if k is None:
        if signal != "prob":
            raise ValueError(f'uld_loss over whole vocabularies compares probabilities: signal="prob", not {signal!r}')
        losses = SortedL1.apply(student, teacher.detach(), pairs)
    else:
        _check_k(k, student, teacher)
        with torch.no_grad():
            theirs, _ = top_signals(teacher, masks[1], k=k, signal=signal)
        ours, _ = top_signals(student, masks[0], k=k, signal=signal)
        wanted = theirs[pairs[:, 0], pairs[:, 2]].to(ours.dtype)
        losses = (ours[pairs[:, 0], pairs[:, 1]] - wanted).abs().sum(-1)
    by_text = losses.new_zeros(len(student)).index_add(0, pairs[:, 0], losses)
    return _reduced(by_text, len(pairs), reduction)


def _pairs(student_mask: Tensor, teacher_mask: Tensor) -> Tensor:
    """Sequence, student's and teacher's position of every pair, ``[N, 3]`` int64."""
    pairs = []
    for row, (ours, theirs) in enumerate(zip(student_mask, teacher_mask, strict=True)):
        places = [mask.nonzero()[:, 0] for mask in (ours, theirs)]
        count = min(map(len, places))
        pairs.append(torch.stack([torch.full_like(places[0][:count], row), *(place[:count] for place in places)], 1))
    return torch.cat(pairs)


def _reduced(losses: Tensor, count: int, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.sum() / count if reduction == "mean" else losses.sum()


def _checked(
    student: Tensor, teacher: Tensor, student_mask: Tensor | None, teacher_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both masks as bool, of inputs that fit together."""
    if student.ndim != 3 or teacher.ndim != 3 or len(student) != len(teacher):
        raise ValueError(
            "the student's logits are [B, L, V] and the teacher's [B, L', V'] of the same B texts, not"
            f" {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    for name, logits in (("student", student), ("teacher", teacher)):
        if not logits.is_floating_point():
            raise ValueError(f"the {name}'s logits are floating-point numbers, not {logits.dtype}")
    masks = _mask(student_mask, student, "student"), _mask(teacher_mask, teacher, "teacher")
    if not (masks[0].any(1) & masks[1].any(1)).any():
        raise ValueError(
            "no text has a position that counts in the student and in the teacher: the masks leave nothing"
        )
    return masks


def _mask(mask: Tensor | None, logits: Tensor, name: str) -> Tensor:
    if mask is None:
        return torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
    if mask.shape != logits.shape[:2]:
        raise ValueError(f"{name}_mask is [B, L] = {tuple(logits.shape[:2])}, not {tuple(mask.shape)}")
    return mask.to(logits.device, torch.bool)


def _check_k(k: int, student: Tensor, teacher: Tensor) -> None:
    smaller = min(student.shape[-1], teacher.shape[-1])
    if not 1 <= k <= smaller:
        raise ValueError(f"k is between 1 and the size of the smaller vocabulary, {smaller}, not {k}")


def _check_name(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ValueError(f"{what} is one of {known}, not {given!r}")


_Z_SCORED = (
    "entries z-scored over the same top-k sum to 0 at every position, so all node features are 0 and the loss is 0"
    ' whatever the models say; use signal="logprob" or "prob"'
)


def _check_signal(signal: str) -> None:
    if signal in ("zscore", "z-score", "z_score"):
        raise ValueError(f"signal {signal!r} can't be used: {_Z_SCORED}")
    _check_name("signal", signal, SIGNALS)


def _refuse_z_scores(values: Tensor, mask: Tensor, dtype: torch.dtype, name: str) -> None:
    """Whether every position's top-k sums to 0 within rounding, which no model's raw logits do."""
    tolerance = max(torch.finfo(dtype).eps, 1e-5)
    size = values.detach().abs().sum(-1)
    balanced = (values.detach().sum(-1).abs() <= tolerance * size) & (size > 0)
    if mask.any() and (balanced | ~mask).all():
        raise ValueError(f"the {name}'s logits look z-scored: {_Z_SCORED}")
