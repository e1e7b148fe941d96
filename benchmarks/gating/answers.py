"""What all models of a run make of the right answers of a task: read once, kept in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from logitfusion.formats.jsonl import read_rows
from logitfusion.fusion import FusedLM
from logitfusion.fusion.gate.evidence import Evidence, summarise
from logitfusion.fusion.gate.features import FEATURES
from logitfusion.fusion.tuning import encode_answers

STOP = ("\n",)  # ends the texts of all tasks that are read
ENTRIES = 64  # of a token that are kept apart: fewer than where a gate is fitted for use, because many are fitted


@dataclass(frozen=True)
class Answers:
    """The right answers of one task, at whose N tokens and ends T experts may steer.

    Attributes:
        task: its name.
        experts: their names.
        evidence: of all experts, and of two more directions, the log-probabilities of the base and of the large model.
        features: name -> ``[T, N]``: those of a gate, and those that are tried beside.
    """

    task: str
    experts: list[str]
    evidence: Evidence
    features: dict[str, Tensor]


def read_answers(lm: FusedLM, task: str, experts: Sequence[str], file: Path, kept: Path) -> Answers:
    """The answers in a file of ``prompt`` and ``completion``; what was read before is in ``kept``.

    Args:
        lm: with all experts, as models of their own.
    """
    if not kept.is_file():
        rows = [row for _, row in read_rows(file)]
        prompts, completions = [row["prompt"] for row in rows], [row["completion"] for row in rows]
        pairs, ends = encode_answers(lm, prompts, completions, STOP)
        models = [lm.large, lm.base, *lm.experts]
        read = [_read(models, *pair, ends, lm.vocabulary) for pair in pairs]
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(read, kept)
    return _gather(task, list(experts), torch.load(kept, weights_only=True))


@torch.inference_mode()
def _read(
    models: Sequence[PreTrainedModel], prompt: Sequence[int], answer: Sequence[int], ends: Tensor, vocabulary: int
) -> dict[str, Tensor]:
    """One answer: its evidence token by token, what each model gives the right tokens, how each reads the prompt."""
    ids, split = torch.tensor([*prompt, *answer], device=ends.device), len(prompt) - 1
    logits = torch.stack([model(input_ids=ids[None, :-1]).logits[0, :, :vocabulary].float() for model in models])
    logs = logits.log_softmax(-1)
    likelihood = logs[:, :split].gather(-1, ids[None, 1 : split + 1, None].expand(len(models), -1, 1)).mean((1, 2))
    before, beside = logs[:, :split], logs[:, :split].exp()
    moved = (beside[2:] * (before[2:] - before[1])).sum(-1).mean(-1).log1p()
    apart = (beside[0] * (before[0] - before[2:])).sum(-1).mean(-1)
    large, base, experts = logits[0, split:], logits[1, split:], logits[2:, split:]
    right = torch.zeros_like(large, dtype=torch.bool).scatter(1, ids[split + 1 :, None], True)
    right[-1, ends] = True
    directions = torch.cat([experts, base + logs[1:2, split:], base + logs[:1, split:]])
    features, large, shift, spread, marked = summarise(large, base, directions, right, ENTRIES)
    said = logs[:, split:].masked_fill(~right, -torch.inf).logsumexp(-1)
    found = {
        "features": features[:, :-2], "large": large, "shift": shift, "spread": spread, "right": marked,
        "said": said, "likelihood": likelihood, "moved": moved, "apart": apart,
    }  # fmt: skip
    return {name: value.cpu() for name, value in found.items()}


def _gather(task: str, experts: list[str], read: list[dict[str, Tensor]]) -> Answers:
    def join(name: str, dim: int) -> Tensor:
        part = torch.cat([one[name] for one in read], dim)
        return part if part.dtype == torch.bool else part.double()

    number = torch.cat([torch.full((len(one["large"]),), place) for place, one in enumerate(read)])
    evidence = Evidence(
        join("features", 2), join("large", 0), join("shift", 1), join("spread", 2), join("right", 0), number
    )
    features = dict(zip(FEATURES, evidence.features, strict=True))
    for name, values in zip(FEATURES, evidence.features, strict=True):  # as they were at the answer's first token
        features[f"first {name}"] = values[:, torch.searchsorted(number, number)]
    likelihood = torch.stack([one["likelihood"] for one in read], dim=1).double()
    moved = torch.stack([one["moved"] for one in read], dim=1).double()
    features["prompt gap"] = (likelihood[0] - likelihood[1]).expand(len(experts), -1)[:, number]
    features["prompt gain"] = (likelihood[2:] - likelihood[1])[:, number]
    features["prompt moved"] = moved[:, number]
    features["prompt apart"] = torch.stack([one["apart"] for one in read], dim=1).double()[:, number]
    said = join("said", 1)
    for place, name in enumerate(experts):  # a bias for each expert
        features[f"is {name}"] = (torch.arange(len(experts)) == place).double()[:, None].expand(-1, len(number))
    features["begins"] = (
        (torch.arange(len(number)) == torch.searchsorted(number, number)).double().expand(len(experts), -1)
    )
    features["so far from large"] = _mean_before(said[2:] - said[0], number)
    features["so far from base"] = _mean_before(said[2:] - said[1], number)
    return Answers(task, experts, evidence, features)


def _mean_before(values: Tensor, number: Tensor) -> Tensor:
    """The mean of an answer's values ``[T, N]`` before each of its tokens; 0 at the first."""
    first = torch.searchsorted(number, number)
    before = values.cumsum(-1) - values
    return (before - before[:, first]) / (torch.arange(len(number)) - first).clamp(min=1)
