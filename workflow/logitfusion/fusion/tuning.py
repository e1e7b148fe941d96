"""Choosing on validation data how far solved weights are trusted.

The paper's rule moves the large model as far as the small one moved, whether or not the answer is there: where the
large model already knows what the expert learned, it is pushed beyond. A fixed weight never pushes far, and moves too
little elsewhere. Between them is ``trust * solved + (1 - trust) * anchor``. With trust 0 it is a fixed
weight, so the best of these is never below the best fixed weight on the data they are chosen on; on other data that
remains to be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any, Literal

import torch
from torch import Tensor

from logitfusion.config.decoding import DECODING, DecodingOptions
from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.keywords import given_options
from logitfusion.errors import UserError
from logitfusion.fusion.ends import ending_tokens
from logitfusion.fusion.lm import FusedLM
from logitfusion.fusion.logits import fuse_logits
from logitfusion.fusion.scoring import judge_logits, score_pairs
from logitfusion.fusion.steering import draw_to_anchor
from logitfusion.fusion.ways import Way, best_way
from logitfusion.models.batch_size import BatchSize

ANCHORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
TRUSTS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Candidate:
    """One way to trust solved weights, and how it does.

    Attributes:
        trust, anchor: options of ``FusedLM``.
        exact: share of the completions that greedy decoding would give, token for token, and then end.
        log_likelihood: natural, of a completion and its end, mean over completions.
        answers: log-likelihood of each completion and its end.
    """

    trust: float
    anchor: float
    exact: float
    log_likelihood: float
    answers: tuple[float, ...] = field(default=(), repr=False, compare=False)


@torch.inference_mode()
def tune(
    lm: FusedLM,
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    trusts: Sequence[float] = TRUSTS,
    anchors: Sequence[float] = ANCHORS,
    stop: Sequence[str] = (),
    batch_size: int | Literal["auto"] = DECODING.batch_size,
    on_batch: Callable[[int], None] | None = None,
) -> list[Candidate]:
    """How every combination does on examples, from one pass of the models over them.

    A completion counts with its end, because an answer that goes on is another answer: what ends it is an end-of-text
    token or any token whose text begins with a stop string.

    Args:
        lm: a fusion with solved weights; its own trust and anchor are not used.
        prompts, completions: validation examples; encoded separately, as in training.
        stop: the strings that end a continuation when the task is decoded.

    Raises:
        UserError: no examples, nothing to choose among, numbers or stop strings that can't be used, a fusion whose
            weights are fixed, or a completion that is impossible however they are trusted.
    """
    if not lm.steering.solves or not lm.experts:
        raise UserError("Only solved weights can be tuned; use weights: dynamic and at least one expert.")
    if not prompts or len(prompts) != len(completions):
        raise UserError("Tuning needs validation examples, and as many completions as prompts.")
    if not trusts or not anchors:
        raise UserError("Tuning chooses among trusts and anchors: give at least one of each.")
    for trust, anchor in zip_longest(trusts, anchors, fillvalue=1.0):
        given_options(FusionOptions, None, {"trust": trust, "anchor": anchor})
    stop = given_options(DecodingOptions, None, {"stop": stop}).stop
    ways = [(trust, anchor) for trust in trusts for anchor in (anchors if trust < 1 else anchors[:1])]

    pairs, ends = encode_answers(lm, prompts, completions, stop)

    def judge(large: Tensor, small: Tensor, targets: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        solved = lm.steering.solve(large, small)
        judged = [
            judge_logits(fuse_logits(large, small[0], small[1:], draw_to_anchor(solved, *way)), targets, ends)
            for way in ways
        ]
        return tuple(torch.cat(parts, dim=-1) for parts in zip(*judged, strict=True))

    found, greedy = score_pairs(
        lm.cached_models,
        judge,
        pairs,
        vocabulary=lm.vocabulary,
        batch_size=BatchSize(batch_size, "examples"),
        shared_length=lm.shared_length,
        on_batch=on_batch,
    )
    _refuse_impossible(found)
    means = zip(greedy.double().mean(0).tolist(), found.mean(0).tolist(), strict=True)
    answers = zip(*found.tolist(), strict=True)
    return [Candidate(*way, *mean, each) for way, mean, each in zip(ways, means, answers, strict=True)]


def _refuse_impossible(found: Tensor) -> None:
    """Refuse a completion that no way ``[examples, ways]`` makes possible: on average, all ways would be alike."""
    if impossible := found.isneginf().all(1).nonzero()[:, 0].tolist():
        raise UserError(
            f"Nothing can be chosen by likelihood: the completion of example {impossible[0]} has a token that the"
            " models exclude (a logit of -inf), so no weight makes it likely; use models that have all tokens of the"
            " answers."
        )


def encode_answers(
    lm: FusedLM, prompts: Sequence[str], completions: Sequence[str], stop: Sequence[str]
) -> tuple[list[tuple[tuple[int, ...], tuple[int, ...]]], Tensor]:
    """Prompts and completions in tokens, each with one end that stands for all, and the tokens that end it.

    Raises:
        UserError: one that can't be scored.
    """
    ends = torch.tensor(ending_tokens(lm.ends, stop, lm.tokenizer, lm.vocabulary), device=lm.device).long()
    end = tuple(ends[:1].tolist())
    examples = [lm.encoder.example(*example) for example in zip(prompts, completions, strict=True)]
    pairs = [(tuple(prompt), (*completion, *end)) for prompt, completion in examples]
    lm.check_pairs(pairs)
    return pairs, ends


def make_ways(tasks: Mapping[str, Sequence[Candidate]]) -> list[Way]:
    """The large model alone, the best fixed weight and the best combination, as far as they were tried."""
    candidates = next(iter(tasks.values()))
    likelihoods = {
        task: torch.tensor([one.answers for one in tried], dtype=torch.float64) for task, tried in tasks.items()
    }
    kinds = {
        "large": [one.trust == one.anchor == 0 for one in candidates],
        "fixed": [one.trust == 0 for one in candidates],
        "tuned": [True for _ in candidates],
    }
    options = [{"trust": one.trust, "anchor": one.anchor} for one in candidates]
    ways, before = [], 0
    for name, kind in kinds.items():
        places = [place for place, there in enumerate(kind) if there]
        if len(places) > before:  # else it is the same as the simpler one
            tried = {task: found[places] for task, found in likelihoods.items()}
            ways.append(best_way(name, tried, [options[place] for place in places]))
        before = len(places)
    return ways


def choose(tasks: Sequence[Sequence[Candidate]]) -> Candidate:
    """The combination that makes the completions likeliest, on average over tasks.

    Likelihood and not exact matches, because these are few: chosen on one half of the demo's validation examples and
    judged on the other, likelihood did better for single experts, and as well for pools.
    """
    means = [
        Candidate(
            same[0].trust,
            same[0].anchor,
            sum(candidate.exact for candidate in same) / len(same),
            sum(candidate.log_likelihood for candidate in same) / len(same),
        )
        for same in zip(*tasks, strict=True)
    ]
    return max(means, key=lambda mean: mean.log_likelihood)


def as_rows(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """For JSON, without the single answers."""
    rows = [asdict(candidate) for candidate in candidates]
    return [{name: value for name, value in row.items() if name != "answers"} for row in rows]
