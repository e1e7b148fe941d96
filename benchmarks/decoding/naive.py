"""What a user would write: models one after the other, and the papers' formulas as they are printed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from logitfusion.models.padding import left_pad

Combine = Callable[[Tensor, Tensor, Tensor], Tensor]
Member = tuple[PreTrainedModel, str | None]
"""A model, or a peft model and the adapter that is on (an empty name: none is)."""


@torch.inference_mode()
def naive_solve(large: Tensor, base: Tensor, experts: Tensor) -> Tensor:
    """The paper's search as it is printed: 21 fused distributions for each expert, two divergences each.

    The expert and the weight of the least loss over the targets of all experts are taken.

    Args:
        large, base: logits ``[B, V]``.
        experts: logits ``[T, B, V]``.

    Returns:
        fused logits ``[B, V]``.
    """
    large, base, experts = large.float(), base.float(), experts.float()
    log_p, log_q, log_t = large.log_softmax(-1), base.log_softmax(-1), experts.log_softmax(-1)
    forward_targets = (log_t.exp() * (log_t - log_q)).sum(-1)
    backward_targets = (log_q.exp() * (log_q - log_t)).sum(-1)
    best = torch.full(large.shape[:-1], torch.inf, device=large.device)
    fused = large
    for expert in experts:
        for tenth in range(21):
            tried = large + tenth / 10 * (expert - base)
            log_fused = tried.log_softmax(-1)
            forward = (log_fused.exp() * (log_fused - log_p)).sum(-1)
            backward = (log_p.exp() * (log_p - log_fused)).sum(-1)
            loss = ((forward - forward_targets) ** 2 + (backward - backward_targets) ** 2).sum(0)
            fused = torch.where((loss < best)[..., None], tried, fused)
            best = torch.minimum(loss, best)
    return fused


def proxy_tuning(large: Tensor, base: Tensor, experts: Tensor) -> Tensor:
    """Proxy-tuning: the sum of all differences, at weight 1."""
    return large.float() + (experts.float() - base.float()).sum(0)


@torch.inference_mode()
def naive_loop(
    members: list[Member], prompts: list[list[int]], tokens: int, combine: Combine = naive_solve, cached: bool = True
) -> list[list[int]]:
    """A forward of the large model, the base and every expert, one after the other, with KV caches or not."""
    device = members[0][0].device
    ids, mask, positions = (tensor.to(device) for tensor in left_pad(prompts, 0))
    caches = [DynamicCache(config=model.config) if cached else None for model, _ in members]
    made: list[Tensor] = []
    for _ in range(tokens):
        logits = []
        for (model, adapter), cache in zip(members, caches, strict=True):
            inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": cached}
            with _switch(model, adapter):
                logits.append(model(**inputs, past_key_values=cache, logits_to_keep=1).logits[:, -1])
        shared = min(part.shape[-1] for part in logits)
        large, base, *experts = (part[:, :shared] for part in logits)
        newest = combine(large, base, torch.stack(experts)).argmax(-1, keepdim=True)
        made.append(newest)
        mask = torch.cat([mask, torch.ones_like(newest)], dim=-1)
        following = positions[:, -1:] + 1
        ids = newest if cached else torch.cat([ids, newest], dim=-1)
        positions = following if cached else torch.cat([positions, following], dim=-1)
    return torch.cat(made, dim=-1).tolist()


def _switch(model: PreTrainedModel, adapter: str | None) -> AbstractContextManager[None]:
    """A peft model with one of its adapters, or without."""
    if adapter is None:
        return nullcontext()
    if not adapter:
        return model.disable_adapter()
    model.set_adapter(adapter, inference_mode=True)
    return nullcontext()


@torch.inference_mode()
def transformers_generate(model: PreTrainedModel, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """The large model alone, by transformers."""
    ids, mask, _ = (tensor.to(model.device) for tensor in left_pad(prompts, 0))
    length = {"min_new_tokens": tokens, "max_new_tokens": tokens}
    made = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, pad_token_id=0, **length)
    return made[:, ids.shape[1] :].tolist()
