"""How a form of the gate does on answers that it was not fitted on, and on tasks that no expert at hand knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gating.answers import Answers
from gating.forms import Form, Rule
from gating.views import AS_THEY_ARE, Scales, View
from logitfusion.fusion.gate.nested import Nested
from logitfusion.fusion.ways import FOLDS, Way, best_way, choose, fold_of


@dataclass(frozen=True)
class Judged:
    """The answers of one task: log-likelihood of each in nats, and whether greedy decoding says it."""

    likelihoods: Tensor
    exact: Tensor

    @classmethod
    def of(cls, rule: Rule, view: View) -> Judged:
        weights = rule(view)
        return cls(view.evidence.log_likelihood(weights), view.exact(weights))


def judge_fixed(
    views: Mapping[str, View], weights: Sequence[float], groups: Sequence[Sequence[str]] | None = None
) -> dict[str, Judged]:
    """By the likeliest of some fixed weights for each group of tasks, chosen without the fold that is judged.

    By default every task is a group.
    """
    found = {}
    for group in groups or [[name] for name in views]:
        tried = {name: [_judge_fixed(views[name], weight) for weight in weights] for name in group}
        likelihoods = {name: torch.stack([one.likelihoods for one in some]) for name, some in tried.items()}
        way = best_way("fixed", likelihoods, [{"place": place} for place in range(len(weights))])
        for name, some in tried.items():
            places = torch.tensor([way.without[fold]["place"] for fold in fold_of(views[name].answers).tolist()])
            exact = torch.stack([one.exact for one in some]).gather(0, places[None])[0]
            found[name] = Judged(way.likelihoods[name], exact)
    return found


def _judge_fixed(view: View, weight: float) -> Judged:
    return Judged.of(lambda view: view.fixed(weight), view)


def judge_chosen(
    ways: Sequence[Mapping[str, Judged]], groups: Sequence[Sequence[str]], by_metric: bool
) -> dict[str, Judged]:
    """By the way that ``ways.choose`` takes for each group of tasks, chosen without the fold that is judged.

    Args:
        ways: by task, from the simplest on.
        by_metric: that an answer is said counts as its metric.
    """
    found = {}
    for group in groups:
        folds = {name: fold_of(len(ways[0][name].exact)) for name in group}
        taken = [_choose(ways, {name: folds[name] != fold for name in group}, by_metric) for fold in range(FOLDS)]
        for name in group:
            held = [(ways[taken[fold]][name], place) for place, fold in enumerate(folds[name].tolist())]
            likelihoods = torch.stack([one.likelihoods[place] for one, place in held])
            found[name] = Judged(likelihoods, torch.stack([one.exact[place] for one, place in held]))
    return found


def _choose(ways: Sequence[Mapping[str, Judged]], kept: Mapping[str, Tensor], by_metric: bool) -> int:
    """The place of the way to take, by some answers of each task."""
    named = []
    for way in ways:
        likelihoods = {name: way[name].likelihoods[some] for name, some in kept.items()}
        metrics = {name: way[name].exact[some].double() for name, some in kept.items()} if by_metric else {}
        named.append(Way("tuned", {"place": len(named)}, [], likelihoods, metrics))
    return choose(named).options["place"]


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
            views = {other: see(answers[other], left, form.scales) for other in left}
            known[left] = Nested(views, ridges, form.fit, _judge).choose()[1]
        found[name] = Judged.of(known[left], View.of(task, left, scales=form.scales))
    return found


def see(task: Answers, experts: Sequence[str], scales: Scales = AS_THEY_ARE) -> View:
    """A task with all experts; and, to fit on, without its own one."""
    others = [expert for expert in experts if expert != task.task]
    return View.of(task, experts, *([others] if others and len(others) < len(experts) else []), scales=scales)


def _judge(rule: Rule, view: View) -> Tensor:
    return view.evidence.log_likelihood(rule(view))
