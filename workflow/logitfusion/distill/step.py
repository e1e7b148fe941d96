"""The loss of a batch: an objective over the student's logits and what teachers predict."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from logitfusion.config.objective import TERMS, Objective
from logitfusion.distill.objective import CachedTeacher, DistillLoss, Teacher, distill_loss
from logitfusion.distill.sources import Source

PARTS = ("sft", *TERMS)


def objective_loss(
    objective: Objective, logits: Tensor, labels: Tensor, teachers: list[Teacher | CachedTeacher], **counts: int | None
) -> DistillLoss:
    """``distill_loss`` with the factors and forms of an objective, and the ``tokens`` and ``texts`` of a step."""
    return distill_loss(
        logits,
        labels,
        teachers,
        k=objective.k,
        uld_k=objective.k,
        uld_weight=objective.uld,
        gld_weight=objective.gld,
        kl_weight=objective.kl,
        hybrid_weight=objective.hybrid,
        divergence=objective.divergence,
        temperature=objective.temperature,
        shared_weight=objective.shared_weight,
        normalisation=objective.normalisation,
        nodes=objective.nodes,
        signal=objective.signal,
        combine=objective.combine,
        **counts,
    )


def gradient_norms(
    objective: Objective, logits: Tensor, labels: Tensor, teachers: list[Teacher | CachedTeacher]
) -> str:
    """How hard each part pulls: the norms of its factor times its gradient with respect to the logits.

    How the paper splits lambda is not published, and the graph term's size depends on signal and k by orders of
    magnitude, so whoever chooses factors should see what they do.
    """
    norms = []
    factors = {name: getattr(objective, name) for name in TERMS}
    for name, factor in {"sft": 1 - objective.taught, **factors}.items():
        if factor:
            alone = {other: float(other == name) for other in factors}
            leaf = logits.detach().float().requires_grad_()
            objective_loss(objective.model_copy(update=alone), leaf, labels, teachers).total.backward()
            norms.append(f"{name.upper()} {factor * leaf.grad.norm():.2g}")
    return ", ".join(norms)


def labels_alone(objective: Objective) -> Objective:
    """The same without teachers."""
    return objective.model_copy(update=dict.fromkeys(TERMS, 0.0) | {"combine": "sum", "weights": None})


def read_teachers(
    sources: Sequence[Source], columns: Sequence[dict[str, Tensor]], objective: Objective
) -> list[Teacher | CachedTeacher]:
    """The teachers of a batch, from what the collator made of each."""
    weights = objective.weights or (1.0,) * len(sources)
    return [
        source.read({name: value for name, value in own.items() if name != "groups"}, own["groups"], weight)
        for source, own, weight in zip(sources, columns, weights, strict=True)
    ]
