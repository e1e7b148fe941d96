"""The forms of a gate that are tried: what it sees, what it is fitted on, how scores become weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from sklearn.tree import DecisionTreeRegressor
from torch import Tensor

from gating.views import AS_THEY_ARE, Scales, View
from logitfusion.fusion.gate.evidence import Evidence
from logitfusion.fusion.gate.features import FEATURES
from logitfusion.fusion.gate.fit import LARGEST, Problem

TOKEN = tuple(FEATURES)
FIRST = tuple(f"first {name}" for name in FEATURES)
PROMPT = ("prompt gap", "prompt gain", "prompt moved")
SO_FAR = ("begins", "so far from large", "so far from base")


class Margins(Problem):
    """The log-odds of each right token against the likeliest other one alone: a greedy answer asks no more."""

    def likelihood_of(self, scores: Sequence[Tensor]) -> Tensor:
        return torch.stack([one.mean() for one in _log_margins(self.tasks, scores)]).mean()


class ExpectedlySaid(Problem):
    """The share of answers that are said where each token is right with those odds; hopeless answers hardly count."""

    def likelihood_of(self, scores: Sequence[Tensor]) -> Tensor:
        return torch.stack([one.exp().mean() for one in _log_margins(self.tasks, scores)]).mean()


def _log_margins(tasks: Sequence[Evidence], scores: Sequence[Tensor]) -> list[Tensor]:
    """Of each answer of each task, ``[answers]``."""
    found = []
    for task, score in zip(tasks, scores, strict=True):
        fused = (task.large + torch.einsum("tn,tnk->nk", LARGEST * score.sigmoid(), task.shift))[:, :-2]
        right = task.right[:, :-2]
        best = fused.masked_fill(~right, -1e4).amax(-1)
        ahead = best - fused.masked_fill(right, -torch.inf).amax(-1)
        odds = torch.nn.functional.logsigmoid(ahead.clamp(min=-_HOPELESS))
        found.append(odds.new_zeros(task.answers).index_add(0, task.answer, odds))
    return found


OBJECTIVES = {"likelihood": Problem, "margins": Margins, "expectedly said": ExpectedlySaid}

_HOPELESS = 30.0  # nats behind: a right token that is not among the kept entries, or might as well not be

# The experts' weights ``[T, N]``.
Rule = Callable[[View], Tensor]


@dataclass(frozen=True)
class Form:
    """One form.

    Attributes:
        name: in tables.
        features: what it sees of each expert.
        crossed: also the products of all pairs of these.
        strangers: it is fitted on each task's answers without the task's own expert, too.
        trees: boosted regression trees instead of a linear score.
        biases: each expert has a bias of its own.
        scales: of the large model and the base.
        objective: what is maximised; see ``OBJECTIVES``.
        as_read: it is fitted on the tokens alone that the tasks' metrics read.
        familiar: a feature of prompts, by which the 5 % of those it was fitted on are strange that have the most of it
            (by the expert that has the least); these and stranger ones are left to the large model. None is if None.
    """

    name: str
    features: Sequence[str] = TOKEN
    crossed: bool = False
    strangers: bool = False
    trees: bool = False
    biases: bool = False
    scales: Scales = AS_THEY_ARE
    objective: str = "likelihood"
    as_read: bool = False
    familiar: str | None = None

    def fit(self, views: Sequence[View], ridges: Sequence[float]) -> list[Rule]:
        """A rule for each ridge."""
        if self.strangers:
            views = [one for view in views for one in (view, *view.further)]
        relative = any(len(view.evidence.shift) > 1 for view in views)

        def see(view: View) -> Tensor:
            found = view.gather(self.features, relative)
            found = cross(found) if self.crossed else found
            return torch.cat([found, view.gather(view.experts, False)]) if self.biases else found

        if self.as_read:
            views = [view.as_read() for view in views]
        problem = OBJECTIVES[self.objective].of([view.evidence for view in views], [see(view) for view in views])
        rules = [_boost(problem, see)] * len(ridges) if self.trees else _search(problem, see, ridges)
        return rules if self.familiar is None else [_leave_strange(rule, views, self.familiar) for rule in rules]


def cross(found: Tensor) -> Tensor:
    """Features ``[F, ...]`` with the products of all pairs, squares too."""
    one, other = torch.triu_indices(len(found), len(found))
    return torch.cat([found, found[one] * found[other]])


def _search(problem: Problem, see: Callable[[View], Tensor], ridges: Sequence[float]) -> list[Rule]:
    theta = torch.zeros(len(problem.mean) + 1, dtype=torch.float64)
    rules = []
    for ridge in ridges:
        theta = problem.maximise(theta, ridge)
        rules.append(_linear(theta, problem, see))
    return rules


def _leave_strange(rule: Rule, views: Sequence[View], name: str) -> Rule:
    """The same, but no expert steers after strange prompts."""
    limit = torch.cat([view.inputs[name].amin(0)[view.ends] for view in views]).quantile(0.95)
    return lambda view: rule(view) * (view.inputs[name].amin(0) <= limit)


def _linear(theta: Tensor, problem: Problem, see: Callable[[View], Tensor]) -> Rule:
    def rule(view: View) -> Tensor:
        given = problem.standardise(see(view))
        return LARGEST * (torch.einsum("f,ftn->tn", theta[:-1], given) + theta[-1]).sigmoid()

    return rule


def _boost(problem: Problem, see: Callable[[View], Tensor], rounds: int = 40, rate: float = 0.3) -> Rule:
    """Gradient boosting (Friedman 2001) of the same likelihood."""
    flat = torch.cat([given.flatten(1) for given in problem.inputs], dim=1).T.numpy()
    sizes = [given[0].numel() for given in problem.inputs]
    shapes = [given.shape[1:] for given in problem.inputs]
    scores = torch.zeros(len(flat), dtype=torch.float64)
    trees = []
    for _ in range(rounds):
        scores.requires_grad_()
        parts = [part.view(shape) for part, shape in zip(scores.split(sizes), shapes, strict=True)]
        (slope,) = torch.autograd.grad(problem.likelihood_of(parts), scores)
        tree = DecisionTreeRegressor(max_depth=3, min_samples_leaf=20, random_state=0)
        trees.append(tree.fit(flat, (slope / slope.std()).numpy()))
        scores = scores.detach() + rate * torch.from_numpy(trees[-1].predict(flat))

    def rule(view: View) -> Tensor:
        given = problem.standardise(see(view))
        rows = given.flatten(1).T.numpy()
        score = sum(rate * torch.from_numpy(tree.predict(rows)) for tree in trees)
        return LARGEST * score.view(given.shape[1:]).sigmoid()

    return rule


FORMS = (
    Form("token features"),
    Form("and without the task's expert", strangers=True),
    Form("and how the prompt is read", (*TOKEN, *PROMPT)),
    Form("and how the prompt is read, without the task's expert", (*TOKEN, *PROMPT), strangers=True),
    Form("and the answer so far", (*TOKEN, *SO_FAR)),
    Form("and the answer's first token", (*TOKEN, *FIRST)),
    Form("and a bias of each expert", biases=True),
    Form("and the answer's first token, and a bias of each expert", (*TOKEN, *FIRST), biases=True),
    Form("and all products of two", crossed=True),
    Form("boosted trees", trees=True),
    Form("token features, half of the base taken away", scales=Scales(base=0.5)),
    Form("token features, nothing of the base taken away", scales=Scales(base=0.0)),
    Form("token features, large model's logits times .75", scales=Scales(large=0.75)),
    Form("token features, large model's logits times 1.25", scales=Scales(large=1.25)),
    Form("token features, fitted on what the metric reads", as_read=True),
    Form("token features, fitted on margins", objective="margins"),
    Form("token features, fitted on what is expected to be said", objective="expectedly said", as_read=True),
    Form("token features, prompts left alone that the base reads badly", familiar="prompt gap"),
    Form("token features, prompts left alone that all experts read badly", familiar="prompt apart"),
)
