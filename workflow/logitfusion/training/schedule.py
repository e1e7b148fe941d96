"""The learning rate of a training: a linear warm-up whose first update counts, then a cosine."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import SchedulerType, Trainer


def share_of_peak(update: int, warm_up: int, updates: int) -> float:
    """The learning rate of an update over its peak: rising to 1 at ``warm_up``, then half a cosine that ends above 0.

    transformers' own schedule gives the first update a rate of 0, so a training of one step would change nothing.

    Args:
        update: counted from 0.
        warm_up: updates before the peak.
        updates: of the whole training.
    """
    if update < warm_up:
        return (update + 1) / (warm_up + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (update - warm_up) / max(1, updates - warm_up))


class WarmedTrainer(Trainer):
    """A Trainer whose cosine is a ``share_of_peak``; other schedules are transformers'."""

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        if self.args.lr_scheduler_type != SchedulerType.COSINE:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            warm_up = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer, lambda update: share_of_peak(update, warm_up, num_training_steps)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler
