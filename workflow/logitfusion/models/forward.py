"""The plain forward of one text, and checks of other ways of reading against it, made once before long work begins.

Architectures differ in too much (padding, positions, cached states) to be trusted by their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from logitfusion.errors import UserError
from logitfusion.models.architecture import context_length, reset_rope, rope_limit

# Tokens of the texts that checks read.
_PROBE = 16


def plain_logits(model: PreTrainedModel, input_ids: Tensor, **others: Tensor) -> Tensor:
    """``[B, L] -> [B, L, V]``: of a forward that knows nothing of earlier ones.

    Raises:
        UserError: the model gives no logits of tokens.
    """
    reset_rope(model)
    logits = getattr(model(input_ids=input_ids, use_cache=False, **others), "logits", None)
    if not isinstance(logits, Tensor) or logits.shape[:-1] != input_ids.shape:
        raise UserError(f"{type(model).__name__} is not a causal language model: it has no logits for each token.")
    return logits


def probe(model: PreTrainedModel, texts: Iterable[tuple[int, ...] | list[int]]) -> list[int]:
    """The start of the longest of some texts, which the checks read; ``texts`` has one of two tokens at least."""
    return list(max(texts, key=len))[: int(min(_PROBE, max(2, rope_limit(model))))]


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout and gradients, and then as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def check_causal(model: PreTrainedModel, ids: list[int]) -> None:
    """Refuse a model whose predictions look at the tokens that they predict, as encoders do.

    Args:
        model: with logits.
        ids: at least two tokens.

    Raises:
        UserError: names the architecture.
    """
    text = torch.tensor([ids], device=model.device)
    with evaluating(model):
        causal = agree(plain_logits(model, text[:, :-1]), plain_logits(model, text)[:, :-1])
    if not causal:
        raise UserError(
            f"{type(model).__name__} is not a causal language model here: its predictions depend on later tokens (some"
            " encoders need is_decoder: true in their config.json)."
        )


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether logits are the same but for rounding; those that are not numbers are for others to refuse.

    In half precision a mixture's router may choose other experts by rounding alone.
    """
    tolerance = 1e-4 if torch.finfo(expected.dtype).bits >= 32 else 0.1
    found, expected = found.detach().double(), expected.detach().double()
    distance = torch.where(found == expected, 0, found - expected).abs().mean()
    known = expected[expected.isfinite()]
    return not distance > tolerance * (known - known.mean()).abs().mean()


def check_lengths(model: PreTrainedModel, lengths: Iterable[int], name: str, option: str) -> None:
    """Refuse texts that are longer than a model reads, before work begins.

    Args:
        model: that reads them.
        lengths: of the texts, in tokens.
        name: the model's, for the message.
        option: what to lower, for the message.

    Raises:
        UserError: names the longest text, its tokens and the limit.
    """
    number, longest = max(enumerate(lengths, 1), key=lambda text: text[1], default=(0, 0))
    limit = context_length(model)
    if longest > limit:
        raise UserError(
            f"Text {number} has {longest} tokens, and {name} reads at most {limit:.0f}; lower {option} to {limit:.0f}."
        )
