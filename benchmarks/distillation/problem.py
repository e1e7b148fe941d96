"""A made-up student and teacher of one text.

Logits are the sum of a level of each token that all positions share (normal, standard deviation 3) and of noise (1.5).
The teacher has the student's levels and other noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distillation.rivals import dense_collation, gld_as_printed, user_sft
from logitfusion.distill import CachedTeacher, Predictions, distill_loss, predict, uld_loss

SHARED, NOISE = 3.0, 1.5


@dataclass(frozen=True)
class Problem:
    """Logits and labels ``[1, L + 1, ...]``, of which L positions count, and the teacher's top-k of those."""

    student: Tensor
    labels: Tensor
    teacher: Tensor
    cached: Predictions
    k: int

    @classmethod
    def make(
        cls, positions: int, vocabulary: int, k: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Problem:
        generator = torch.Generator().manual_seed(0)
        level = SHARED * torch.randn(vocabulary, generator=generator)

        def logits() -> Tensor:
            noise = NOISE * torch.randn(1, positions + 1, vocabulary, generator=generator)
            return noise.add_(level).to(device, dtype)

        labels = torch.randint(vocabulary, (1, positions + 1), generator=generator).to(device)
        student, teacher = logits().requires_grad_(), logits()
        return cls(student, labels, teacher, predict(teacher, labels, k), k)

    def training(self, loss: Callable[[], Tensor]) -> Callable[[], None]:
        """Forward and backward; the gradient's memory is new each time, as after ``zero_grad``."""

        def step() -> None:
            self.student.grad = None
            loss().backward()

        return step

    def ours(self, sft: float, uld: float, gld: float, nodes: str = "vocab") -> Callable[[], None]:
        """``distill_loss`` with these factors and the cached teacher; of log-probabilities, as the rivals' are."""
        factors = {"sft_weight": sft, "uld_weight": uld, "gld_weight": gld}
        teachers = [CachedTeacher(self.cached)] if uld or gld else []
        options = {"k": self.k, "uld_k": self.k, "nodes": nodes, "signal": "logprob", **factors}
        return self.training(lambda: distill_loss(self.student, self.labels, teachers, **options).total)

    def full_uld(self) -> Callable[[], None]:
        return self.training(lambda: uld_loss(self.student, self.teacher))

    def printed_gld(self, nodes: str = "vocab") -> Callable[[], None]:
        top = self.cached.log_probs, self.cached.ids
        return self.training(lambda: gld_as_printed(self.student, *top, nodes))

    def rivals(self) -> dict[str, Callable[[], None]]:
        """What a user would write; all but the first use the cached top-k."""
        top = self.cached.log_probs, self.cached.ids
        return {
            "cross-entropy of logits.float()": self.training(lambda: user_sft(self.student, self.labels)),
            "dense collation": self.training(lambda: dense_collation(self.student, *top)),
            "GLD as printed": self.training(lambda: gld_as_printed(self.student.float(), *top)),
        }
