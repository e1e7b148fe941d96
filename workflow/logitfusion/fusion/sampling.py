"""From fused logits to the next token, greedy or sampled."""

from __future__ import annotations

import torch
from torch import Tensor

from logitfusion.errors import UserError


def filter_logits(logits: Tensor, *, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Log-probabilities ``[..., V]`` fp32 after temperature, then top-k, then nucleus filtering (-inf = left out).

    The order and the treatment of ties at the nucleus' edge are those of transformers' logits processors.
    """
    scores = _divide(logits.float(), temperature)
    if 0 < top_k < scores.shape[-1]:
        smallest = scores.topk(top_k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < smallest, -torch.inf)
    if top_p < 1.0:
        ordered, places = scores.sort(dim=-1)
        outside = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
        outside[..., -1] = False  # the likeliest token always stays
        scores = scores.masked_fill(outside.scatter(-1, places, outside), -torch.inf)
    return scores.log_softmax(-1)


def pick_tokens(
    logits: Tensor, generators: list[torch.Generator], *, temperature: float, top_k: int, top_p: float
) -> Tensor:
    """One token id a row, ``[B, V] -> [B]``: the argmax at temperature 0, else a draw from each row's own generator.

    Raises:
        UserError: the logits of a row are not finite, or exclude every token.
    """
    refuse_not_finite_rows(logits.amax(-1))
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p).exp().cpu()
    draws = [draw(row, generator) for row, generator in zip(probabilities, generators, strict=True)]
    return torch.tensor(draws, device=logits.device)


def draw(probabilities: Tensor, generator: torch.Generator) -> int:
    """A token drawn by probabilities ``[V]`` that need not sum to 1."""
    return int(torch.multinomial(probabilities, 1, generator=generator))


def refuse_not_finite_rows(highest: Tensor) -> None:
    """Stop where the greatest of a row's fused logits is no number: nothing can be drawn from such a row.

    Args:
        highest: of any number of rows; also their logsumexp, which is finite where the greatest is.

    Raises:
        UserError: one of them is NaN or infinite.
    """
    if not highest.isfinite().all():
        raise UserError(
            "The fused logits of a text are not finite, or exclude every token: the experts' weights are too large for"
            " these models, or they predict nothing in common; lower the weights or their bounds."
        )


def _divide(logits: Tensor, temperature: float) -> Tensor:
    """``logits / temperature``; below their greatest where it is so low that the quotients leave fp32."""
    scores = logits / temperature
    if scores.amax(-1).isfinite().all():
        return scores
    return ((logits - logits.amax(-1, keepdim=True)).double() / temperature).float()
