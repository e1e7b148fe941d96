"""From fused logits to the next token, greedy or sampled."""

from __future__ import annotations

import torch
from torch import Tensor


def filter_logits(logits: Tensor, *, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Log-probabilities ``[..., V]`` fp32 after temperature, then top-k, then nucleus filtering (-inf = left out).

    The order and the treatment of ties at the nucleus' edge are those of transformers' logits processors.
    """
    scores = logits.float() / temperature
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
    """One token id a row, ``[B, V] -> [B]``: the argmax at temperature 0, else a draw from each row's own generator."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p).exp().cpu()
    draws = [
        torch.multinomial(row, 1, generator=generator) for row, generator in zip(probabilities, generators, strict=True)
    ]
    return torch.cat(draws).to(logits.device)
