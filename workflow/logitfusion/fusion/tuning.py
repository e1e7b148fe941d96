"""Choosing on validation data how far solved weights are believed.

The paper's rule moves the large model as far as the small one moved, whether or not that is where the answer lies:
where the large model already knows what the expert learnt, it is pushed beyond. A fixed weight never pushes far, and
moves too little elsewhere. Between them lies ``trust * solved + (1 - trust) * anchor``. With trust 0 it is a fixed
weight, so the best of these is never below the best fixed weight on the data they are chosen on; on other data that
remains to be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from logitfusion.errors import UserError
from logitfusion.fusion.lm import FusedLM
from logitfusion.fusion.logits import fuse_logits
from logitfusion.fusion.scoring import judge_logits, score_pairs
from logitfusion.fusion.steering import draw_to_anchor

ANCHORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
TRUSTS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Candidate:
    """One way to believe solved weights, and how it does.

    Attributes:
        trust, anchor: options of ``FusedLM``.
        exact: share of the completions that greedy decoding would say, token for token.
        log_likelihood: natural, mean over completions.
    """

    trust: float
    anchor: float
    exact: float
    log_likelihood: float


@torch.inference_mode()
def tune(
    lm: FusedLM,
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    trusts: Sequence[float] = TRUSTS,
    anchors: Sequence[float] = ANCHORS,
    batch_size: int = 16,
    on_batch: Callable[[int], None] | None = None,
) -> list[Candidate]:
    """How every combination does on examples, from one pass of the models over them.

    Args:
        lm: a fusion with solved weights; its own trust and anchor are not used.
        prompts, completions: validation examples; encoded separately, as in training.

    Raises:
        UserError: no examples, or a fusion whose weights are fixed.
    """
    if lm.steering.fixed is not None or not lm.experts:
        raise UserError("Only solved weights can be tuned; use weights: dynamic and at least one expert.")
    if not prompts or len(prompts) != len(completions):
        raise UserError("Tuning needs validation examples, and as many completions as prompts.")
    ways = [(trust, anchor) for trust in trusts for anchor in (anchors if trust < 1 else anchors[:1])]

    def judge(large: Tensor, small: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        solved = lm.steering.solve(large, small)
        judged = [
            judge_logits(fuse_logits(large, small[0], small[1:], draw_to_anchor(solved, *way)), wanted) for way in ways
        ]
        return tuple(torch.cat(parts, dim=-1) for parts in zip(*judged, strict=True))

    pairs = [
        (tuple(lm.encode(prompt)), tuple(lm.tokenizer.encode(completion, add_special_tokens=False)))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    found, greedy = score_pairs(
        lm.cached_models, judge, pairs, vocabulary=lm.vocabulary, batch_size=batch_size, on_batch=on_batch
    )
    means = zip(greedy.double().mean(0).tolist(), found.mean(0).tolist(), strict=True)
    return [Candidate(*way, *mean) for way, mean in zip(ways, means, strict=True)]


def choose(tasks: Sequence[Sequence[Candidate]]) -> Candidate:
    """The best combination on average over tasks: by exact matches, then by likelihood, then the least trusting."""
    means = [
        Candidate(
            same[0].trust,
            same[0].anchor,
            sum(candidate.exact for candidate in same) / len(same),
            sum(candidate.log_likelihood for candidate in same) / len(same),
        )
        for same in zip(*tasks, strict=True)
    ]
    return max(means, key=lambda mean: (round(mean.exact, 9), mean.log_likelihood))


def as_rows(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(candidate) for candidate in candidates]
