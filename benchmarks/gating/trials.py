"""How a form of the gate does on answers that it was not fitted on, and on tasks that no expert at hand knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gating.answers import Answers
from gating.forms import Form, Rule
from gating.views import View
from logitfusion.fusion.gate.nested import Nested
from logitfusion.fusion.ways import FOLDS, best_way, fold_of


@dataclass(frozen=True)
class Judged:
    """The answers of one task: log-likelihood of each in nats, and whether greedy decoding says it."""

    likelihoods: Tensor
    exact: Tensor

    @classmethod
    def of(cls, rule: Rule, view: View) -> Judged:
        weights = rule(view)
        return cls(view.evidence.log_likelihood(weights), view.exact(weights))


def judge_fixed(views: Mapping[str, View], weights: Sequence[float]) -> dict[str, Judged]:
    """By the likeliest of some fixed weights for each task, chosen without the fold that is judged."""
    found = {}
    for name, view in views.items():
        tried = [Judged.of(lambda view, weight=weight: view.fixed(weight), view) for weight in weights]
        likelihoods = {name: torch.stack([one.likelihoods for one in tried])}
        way = best_way("fixed", likelihoods, [{"place": place} for place in range(len(weights))])
        places = torch.tensor([way.without[fold]["place"] for fold in fold_of(view.answers).tolist()])
        exact = torch.stack([one.exact for one in tried]).gather(0, places[None])[0]
        found[name] = Judged(way.likelihoods[name], exact)
    return found


def judge_held_out(form: Form, views: Mapping[str, View], ridges: Sequence[float]) -> dict[str, Judged]:
    """A nested cross-validation over the answers of all tasks."""
    rules, likelihoods = Nested(views, ridges, form.fit, _judge).hold_out()
    found = {}
    for name, view in views.items():
        folds, exact = fold_of(view.answers), torch.zeros(view.answers, dtype=torch.bool)
        for fold in range(FOLDS):
            part = view.select(folds == fold)
            exact[folds == fold] = part.exact(rules[fold](part))
        found[name] = Judged(likelihoods[name], exact)
    return found


def judge_strangers(
    form: Form, answers: Mapping[str, Answers], experts: Sequence[str], ridges: Sequence[float]
) -> dict[str, Judged]:
    """Each task, by a gate that has seen neither it nor its expert, with the experts of the others.

    A task without an expert is judged by the gate of all tasks that have one.
    """
    found, known = {}, {}
    for name, task in answers.items():
        left = tuple(expert for expert in experts if expert != name)
        if left not in known:
            views = {other: see(answers[other], left, form.base) for other in left}
            known[left] = Nested(views, ridges, form.fit, _judge).choose()[1]
        found[name] = Judged.of(known[left], View.of(task, left, base=form.base))
    return found


def see(task: Answers, experts: Sequence[str], base: float = 1.0) -> View:
    """A task with all experts; and, to fit on, without its own one."""
    others = [expert for expert in experts if expert != task.task]
    return View.of(task, experts, *([others] if others and len(others) < len(experts) else []), base=base)


def _judge(rule: Rule, view: View) -> Tensor:
    return view.evidence.log_likelihood(rule(view))
