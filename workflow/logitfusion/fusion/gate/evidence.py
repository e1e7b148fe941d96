"""What a gate is fitted on: the models' predictions of right answers, in a form that many weights can be tried on.

How likely an answer is depends on the whole vocabulary at each of its tokens. Of these logits the likeliest entries are
kept as they are. All others that are wrong stand together as one entry, and so do all others that are right (an answer
may end in many ways): the logit of such an entry is a quadratic function of the weights, from the first two cumulants
of what the experts add to its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from logitfusion.config.decoding import DECODING
from logitfusion.errors import UserError
from logitfusion.fusion.gate.features import measure
from logitfusion.fusion.lm import FusedLM
from logitfusion.fusion.logits import logit_shift
from logitfusion.fusion.scoring import read_pairs
from logitfusion.fusion.tuning import encode_answers
from logitfusion.models.batch_size import BatchSize

KEPT = 256  # entries of a token
_BLOCK = 4_000_000  # entries of a model that are summarised at a time: each needs a few dozen bytes
_TOKENS = (2, 0, 1, 2, 0)  # the dimension of the tokens in features, logits, shifts, spread and right entries
_TRIED = (1.0, 3.0)  # weights of each expert under which the kept entries are the likeliest
_EXCLUDED = -1e6  # shift of an entry that an expert excludes (-inf): gone with any weight, and there with weight 0


@dataclass(frozen=True)
class Evidence:
    """What the models predict at the N tokens of right answers and of their ends.

    Attributes:
        features: of every expert, ``[F, T, N]``.
        large: the large model's logits of the kept entries, of all others that are wrong, and that are right,
            ``[N, K + 2]``; -inf where there are none.
        shift: what each expert adds to them, ``[T, N, K + 2]``.
        spread: half the covariance of what the experts add to the parts of the last two, ``[T, T, N, 2]``.
        right: which entries are right, ``[N, K + 2]``.
        answer: number of the answer that a token is of, ``[N]``.
    """

    features: Tensor
    large: Tensor
    shift: Tensor
    spread: Tensor
    right: Tensor
    answer: Tensor

    @property
    def experts(self) -> int:
        return self.features.shape[1]

    @property
    def answers(self) -> int:
        return int(self.answer.max()) + 1

    def select(self, answers: Tensor) -> Evidence:
        """Of some answers alone, numbered anew; ``answers`` are booleans, one an answer."""
        numbers = answers.long().cumsum(0) - 1
        picked = self.pick_tokens(answers[self.answer])
        return replace(picked, answer=numbers[picked.answer])

    def pick_tokens(self, tokens: Tensor) -> Evidence:
        """The same answers, of which some tokens alone count; ``tokens`` are booleans ``[N]``."""
        return Evidence(
            self.features[..., tokens],
            self.large[tokens],
            self.shift[:, tokens],
            self.spread[:, :, tokens],
            self.right[tokens],
            self.answer[tokens],
        )

    def log_likelihood(self, weights: Tensor) -> Tensor:
        """Of each answer with its end, in nats, ``[answers]``, where the experts have the weights ``[T, N]``."""
        fused = self.large + torch.einsum("tn,tnk->nk", weights, self.shift)
        curved = torch.einsum("sn,stnk,tn->nk", weights, self.spread, weights)
        fused = torch.cat([fused[:, :-2], fused[:, -2:] + curved], dim=-1)
        right = fused.masked_fill(~self.right, -torch.inf).logsumexp(-1)
        found = right - fused.logsumexp(-1)
        return found.new_zeros(self.answers).index_add(0, self.answer, found)


@torch.no_grad()  # a fit needs tensors that a gradient can be taken of
def collect(
    lm: FusedLM,
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    stop: Sequence[str] = (),
    batch_size: int | Literal["auto"] = DECODING.batch_size,
    on_batch: Callable[[int], None] | None = None,
) -> Evidence:
    """The evidence of examples, from one pass of the models over them.

    An answer counts with its end, which is an end-of-text token or any token whose text begins with a stop string.

    Args:
        lm: a fusion with at least one expert; how they steer is not used.
        prompts, completions: validation examples; encoded separately, as in training.
        stop: the strings that end a continuation when the task is decoded.

    Raises:
        UserError: no experts, or no examples, or not as many completions as prompts.
    """
    if not lm.experts:
        raise UserError("A gate weighs experts, and this fusion has none.")
    if not prompts or len(prompts) != len(completions):
        raise UserError("A gate needs validation examples, and as many completions as prompts.")
    pairs, ends = encode_answers(lm, prompts, completions, stop)

    def note(large: Tensor, small: Tensor, targets: Tensor, gap: Tensor) -> tuple[Tensor, ...]:
        right, height = _mark_right(large, targets, ends), max(1, _BLOCK // lm.vocabulary)
        blocks = [slice(start, start + height) for start in range(0, max(len(large), 1), height)]
        found = [summarise(large[block], small[0, block], small[1:, block], right[block]) for block in blocks]
        return _join(found)

    parts = read_pairs(
        lm.cached_models,
        note,
        pairs,
        vocabulary=lm.vocabulary,
        batch_size=BatchSize(batch_size, "examples"),
        shared_length=lm.shared_length,
        on_batch=on_batch,
    )
    numbers = torch.cat([answer for answer, _ in parts])
    features, large, shift, spread, right = _join([noted for _, noted in parts])
    return Evidence(features.double(), large.double(), shift.double(), spread.double(), right, numbers)


def _join(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What ``summarise`` makes of some tokens after others, on the CPU."""
    return tuple(torch.cat(one, dim).cpu() for one, dim in zip(zip(*parts, strict=True), _TOKENS, strict=True))


def _mark_right(large: Tensor, targets: Tensor, ends: Tensor) -> Tensor:
    """The right entries ``[N, V]``: the next token, and every end where it is one."""
    right = torch.zeros(large.shape, dtype=torch.bool, device=large.device)
    right[:, ends] = (targets == ends[0])[:, None] if len(ends) else False
    return right.scatter(1, targets[:, None], True)


def summarise(
    large: Tensor, base: Tensor, experts: Tensor, right: Tensor, kept: int = KEPT
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Features, logits, shifts, spread and right entries as ``Evidence`` has them.

    Args:
        large, base: logits ``[N, V]``.
        experts: logits ``[T, N, V]``.
        right: ``[N, V]``, at least one a token.
    """
    large, shift = large.float(), logit_shift(base, experts)
    features = measure(large, base.float(), shift)
    ways = [large, large + shift.sum(0), *(large + weight * one for one in shift for weight in _TRIED)]
    highest = torch.stack([way.log_softmax(-1) for way in ways]).amax(0)
    places = highest.topk(min(kept, large.shape[-1]), dim=-1).indices
    others = large.scatter(1, places, -torch.inf).masked_fill(shift.isneginf().any(0), -torch.inf)
    shift = shift.clamp(min=_EXCLUDED)
    lumps = [_lump(others.masked_fill(mask, -torch.inf), shift) for mask in (right, ~right)]
    mass, mean, spread = (torch.stack(part, dim=-1) for part in zip(*lumps, strict=True))
    logits = torch.cat([large.gather(1, places), mass], dim=-1)
    shifts = torch.cat([shift.gather(2, places.expand(len(shift), -1, -1)), mean], dim=-1)
    lumped = torch.tensor([False, True], device=right.device).expand(len(right), 2)
    return features, logits, shifts, spread / 2, torch.cat([right.gather(1, places), lumped], dim=-1)


def _lump(logits: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``[N, V]`` as one: its logit ``[N]``, mean ``[T, N]`` and covariance ``[T, T, N]`` of their shifts."""
    mass = logits.logsumexp(-1)
    share = torch.where(mass.isinf()[:, None], 0.0, (logits - mass[:, None]).exp())
    mean = torch.linalg.vecdot(share, shift)
    apart = [one - centre[:, None] for one, centre in zip(shift, mean, strict=True)]
    return mass, mean, torch.stack([torch.stack([torch.linalg.vecdot(share * a, b) for b in apart]) for a in apart])
