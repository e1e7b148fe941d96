"""Some answers of a task with some of the experts, as one form of a gate sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gating.answers import Answers
from logitfusion.fusion.gate.evidence import Evidence
from logitfusion.fusion.gate.weights import make_relative

# Tasks whose metric reads the beginning of a text: what follows the answer does not count.
LENIENT = ("sst2", "sums")


@dataclass(frozen=True)
class Scales:
    """Experts steer ``large * L`` by ``expert - base * S``, where L and S are the models' log-probabilities."""

    large: float = 1.0
    base: float = 1.0


AS_THEY_ARE = Scales()


@dataclass(frozen=True)
class View:
    """Answers of a task, with T experts.

    Attributes:
        inputs: name -> ``[T, N]``.
        evidence: of the T experts.
        further: the same answers with other experts, which a gate may be fitted on too.
    """

    task: str
    inputs: dict[str, Tensor]
    evidence: Evidence
    further: tuple[View, ...] = ()

    @classmethod
    def of(cls, answers: Answers, experts: Sequence[str], *others: Sequence[str], scales: Scales = AS_THEY_ARE) -> View:
        """The answers with some experts; and with other ones, to fit on."""
        places = [answers.experts.index(name) for name in experts]
        evidence = pick_experts(answers.evidence, places, scales)
        inputs = {name: values[places] for name, values in answers.features.items()}
        return cls(answers.task, inputs, evidence, tuple(cls.of(answers, other, scales=scales) for other in others))

    @property
    def answers(self) -> int:
        return self.evidence.answers

    @property
    def experts(self) -> list[str]:
        """The inputs that tell which expert it is."""
        return [name for name in self.inputs if name.startswith("is ")]

    @property
    def ends(self) -> Tensor:
        """Which tokens end their answers, ``[N]``."""
        return torch.cat([self.evidence.answer.diff() > 0, torch.tensor([True])])

    def select(self, answers: Tensor) -> View:
        """Of some answers alone; ``answers`` are booleans."""
        tokens = answers[self.evidence.answer]
        inputs = {name: values[:, tokens] for name, values in self.inputs.items()}
        further = tuple(view.select(answers) for view in self.further)
        return View(self.task, inputs, self.evidence.select(answers), further)

    def as_read(self) -> View:
        """Without the tokens that the task's metric does not read."""
        if self.task not in LENIENT:
            return self
        inputs = {name: values[:, ~self.ends] for name, values in self.inputs.items()}
        further = tuple(view.as_read() for view in self.further)
        return View(self.task, inputs, self.evidence.pick_tokens(~self.ends), further)

    def gather(self, names: Sequence[str], relative: bool) -> Tensor:
        """Features, and the same less their means over experts, ``[F or 2 F, T, N]``."""
        found = torch.stack([self.inputs[name] for name in names])
        return torch.cat([found, make_relative(found)]) if relative else found

    def fixed(self, weight: float) -> Tensor:
        return self.evidence.large.new_full(self.evidence.shift.shape[:2], weight)

    def exact(self, weights: Tensor) -> Tensor:
        """Whether greedy decoding says each answer, as far as the task's metric reads it, ``[answers]``."""
        evidence = self.evidence
        # The last two entries stand for many, none of which is the likeliest.
        fused = (evidence.large + torch.einsum("tn,tnk->nk", weights, evidence.shift))[:, :-2]
        right = evidence.right.gather(1, fused.argmax(-1, keepdim=True))[:, 0]
        if self.task in LENIENT:
            right = right | self.ends
        return torch.zeros(self.answers).index_add(0, evidence.answer, (~right).float()) == 0


def pick_experts(evidence: Evidence, places: Sequence[int], scales: Scales) -> Evidence:
    """The same answers with some of the experts, where the large model and the base are scaled."""
    experts, some = len(evidence.shift) - 2, list(places)
    kept = torch.full((len(some), 1), 1 - scales.base, dtype=evidence.shift.dtype)
    mix = torch.cat([torch.eye(experts, dtype=kept.dtype)[some], kept, torch.zeros_like(kept)], dim=1)
    more = scales.large - 1  # of the large model's log-probabilities, the last direction
    lumped = evidence.spread[:, -1]  # how these vary with each direction, within the entries that stand together
    large, along = evidence.large + more * evidence.shift[-1], evidence.shift.clone()
    large[:, -2:] += more**2 * lumped[-1]
    along[..., -2:] += 2 * more * lumped
    return Evidence(
        evidence.features[:, some],
        large,
        torch.einsum("td,dnk->tnk", mix, along),
        torch.einsum("sd,denk,te->stnk", mix, evidence.spread, mix),
        evidence.right,
        evidence.answer,
    )
