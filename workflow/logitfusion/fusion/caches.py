"""Models with their KV caches over one batch of rows, fed, rolled back and thinned out together."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from logitfusion.errors import UserError
from logitfusion.fusion.prefixes import prefix_of
from logitfusion.models.architecture import counts_slots, reset_rope, rope_limit
from logitfusion.models.device_maps import input_device

if TYPE_CHECKING:
    from logitfusion.fusion.prompts import PromptMemory


class CachedState(NamedTuple):
    """What a model has read: its cache, and whether its logits could all be used."""

    cache: DynamicCache
    finite: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """Keys and values, of layers that have any."""
        held = [(layer.keys, layer.values) for layer in self.cache.layers if layer.get_seq_length()]
        return [tensor for pair in held for tensor in pair]


class CachedModel:
    """One model and the keys and values of every token it has read, in the model's own precision.

    ``finite [members]`` says whether all logits so far were numbers that can be used (-inf excludes an entry).
    ``device`` is where the model takes its tokens and gives its logits; its layers and their caches may be on several.
    """

    def __init__(self, model: PreTrainedModel, names: Sequence[str] = ("the model",)) -> None:
        self.model, self.names, self.cache = model, names, self._new_cache(model)
        if math.isfinite(rope_limit(model)):
            reset_rope(model)  # it would go on with the frequencies of an earlier, longer text
        self.members, self.device = len(names), input_device(model)
        self.finite = torch.ones(self.members, dtype=torch.bool, device=self.device)

    def _new_cache(self, model: PreTrainedModel) -> DynamicCache | None:
        return DynamicCache(config=model.config)

    @property
    def takes_back(self) -> bool:
        """Whether the newest tokens can be forgotten at little cost, as speculation does at every step."""
        croppable = all(not layer.is_sliding and layer.is_croppable for layer in self.cache.layers)
        return croppable and not counts_slots(self.model)

    @property
    def keeps_prompts(self) -> bool:
        """Whether what it has read can be kept for another batch of the same prompts (see ``PromptMemory``)."""
        return math.isinf(rope_limit(self.model))

    @property
    def identity(self) -> Hashable:
        """Of what reads; the same only for the same weights."""
        return id(self.model)

    def state(self) -> CachedState:
        """What it has read so far, which later tokens leave as it is: they replace a layer's tensors."""
        return CachedState(_copy_cache(self.cache), self.finite)

    def restore(self, state: CachedState) -> None:
        """Go on as if it had read what another did with this identity."""
        self.cache, self.finite = _copy_cache(state.cache), state.finite

    def read(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: int) -> Tensor:
        """Logits ``[members, B, keep, V]`` fp32 after the last ``keep`` of new tokens ``ids [B, n]``."""
        logits = self._read(ids, mask, positions, keep)
        # One pass over the entries: the greatest is NaN or infinite where any can't be used.
        finite = logits.amax(-1).isfinite() | (mask[:, -keep:] == 0)
        self.finite = self.finite & finite.flatten(1).all(-1)
        return logits

    def _read(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: int) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return output.logits[:, -keep:].float()[None]

    def select_rows(self, rows: Tensor) -> None:
        """Go on with these rows; a row may be taken several times."""
        on_device = _copies(rows)
        for layer in self.cache.layers:
            if layer.get_seq_length():
                layer.batch_select_indices(on_device(layer.keys.device))

    def drop_last(self, slots: int) -> None:
        """Forget the newest tokens of all rows."""
        self.cache.crop(-slots)

    def select_slots(self, slots: Tensor) -> None:
        """Keep the slots ``[B, S]`` of each row, in this order."""
        on_device = _copies(slots)
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)
                index = on_device(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
                setattr(layer, name, states.gather(2, index))


class CachedAdapters(CachedModel):
    """A base model and LoRA experts on it (a peft model), read in one forward pass of ``(T + 1) B`` rows.

    The weights of the base are read from memory once for all of them; each row adds its own adapter's product.
    """

    def __init__(self, model: PreTrainedModel, adapters: Sequence[str], names: Sequence[str] = ()) -> None:
        known = getattr(model, "peft_config", {})
        if unknown := [name for name in adapters if name not in known]:  # which peft would read as the base
            raise UserError(f"The base has no adapter {unknown[0]!r}: give experts as models, or a peft model with it.")
        self.adapters = ["__base__", *adapters]
        super().__init__(model, names or self.adapters)

    @property
    def identity(self) -> Hashable:
        return id(self.model), *self.adapters

    def _read(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: int) -> Tensor:
        members = self.members
        output = self.model(
            input_ids=ids.repeat(members, 1),
            attention_mask=mask.repeat(members, 1),
            position_ids=positions.repeat(members, 1),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
            adapter_names=[name for name in self.adapters for _ in range(len(ids))],
        )
        return output.logits[:, -keep:].float().unflatten(0, (members, len(ids)))

    def select_rows(self, rows: Tensor) -> None:
        if self.cache.get_seq_length() == 0:  # nothing read yet, nothing held
            return
        held = self.cache.layers[0].keys.shape[0] // self.members
        offsets = held * torch.arange(self.members, device=rows.device)
        super().select_rows((offsets[:, None] + rows).flatten())

    def select_slots(self, slots: Tensor) -> None:
        super().select_slots(slots.repeat(self.members, 1))


class Batch:
    """Rows that several models read together.

    All caches hold the same tokens in the same slots. ``mask [B, S]`` says which slots count for a row (not its left
    padding, nor what was rolled back), ``lengths [B]`` how many they are: the next token's position. Models may be on
    several devices; their logits meet on ``device``, the first model's, where all else of the batch is too.
    ``memory`` may know what the models make of its prompts.
    """

    def __init__(self, models: Sequence[CachedModel], rows: int, memory: PromptMemory | None = None) -> None:
        self.models, self.device, self.memory = list(models), models[0].device, memory
        device = self.device
        self.mask = torch.zeros(rows, 0, dtype=torch.long, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)

    def read(self, ids: Tensor, mask: Tensor, keep: int = 1) -> list[Tensor]:
        """Let every model read ``ids [B, n]`` where ``mask [B, n]`` is 1: its logits after the last ``keep``."""
        logits = self.read_all(self.models, ids, mask, keep)
        refuse_not_finite(self.models)
        self.commit(mask)
        return logits

    def read_first(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """``read`` of the prompts, what all begin with once: the logits after their last tokens."""
        prefix = prefix_of(ids, mask) if share_prefixes(self.models) else 0
        before = torch.ones_like(mask[:, :prefix])
        rest, rest_mask = ids[:, prefix:], (mask * (mask.cumsum(-1) > prefix))[:, prefix:]

        def read(model: CachedModel) -> Tensor:
            if prefix:
                longest = int(mask.sum(-1).argmax())
                Batch([model], 1).read_ahead(model, ids[longest : longest + 1, :prefix], before[:1], keep=1)
                model.select_rows(torch.zeros(len(ids), dtype=torch.long, device=model.device))
            return self.read_ahead(model, rest, rest_mask, keep=1, before=before)

        logits = [self._recall(model, ids, mask, prefix, partial(read, model)) for model in self.models]
        refuse_not_finite(self.models)
        self.commit(torch.cat([before, rest_mask], dim=-1))
        return logits

    def _recall(self, model: CachedModel, ids: Tensor, mask: Tensor, prefix: int, read: Callable[[], Tensor]) -> Tensor:
        if self.memory is None:
            return read()
        # The same prompts fill other slots where the models beside this one can't share a prefix.
        return self.memory.read([model], f"last, {prefix} read once", ids, mask, read)

    def read_all(self, models: Sequence[CachedModel], ids: Tensor, mask: Tensor, keep: int) -> list[Tensor]:
        """Let some models read what is committed later: their logits after the last ``keep``."""
        # What they read is on all devices before the first is at work: a copy waits for the work of its device.
        given = [self._send(model, ids, mask, mask[:, :0]) for model in models]
        logits = [model.read(*tensors, keep) for model, tensors in zip(models, given, strict=True)]
        return [part.to(self.device) for part in logits]

    def read_ahead(
        self, model: CachedModel, ids: Tensor, mask: Tensor, keep: int, before: Tensor | None = None
    ) -> Tensor:
        """Let one model read what is committed later; ``before [B, m]`` masks what it has read ahead already."""
        before = mask[:, :0] if before is None else before
        return model.read(*self._send(model, ids, mask, before), keep).to(self.device)

    def _send(self, model: CachedModel, ids: Tensor, mask: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens, the mask of all slots and the positions, where a model takes them."""
        positions = (self.lengths[:, None] + before.sum(-1, keepdim=True) + mask.cumsum(-1) - 1).clamp(min=0)
        slots = torch.cat([self.mask, before, mask], dim=-1)
        return ids.to(model.device), slots.to(model.device), positions.to(model.device)

    def commit(self, mask: Tensor) -> None:
        """Count the newest slots where ``mask [B, n]`` is 1 and roll the others back."""
        unused = 0
        while unused < mask.shape[1] and not mask[:, mask.shape[1] - 1 - unused].any():
            unused += 1
        if unused:
            mask = mask[:, : mask.shape[1] - unused]
            for model in self.models:
                model.drop_last(unused)
        self.mask = torch.cat([self.mask, mask], dim=-1)
        self.lengths = self.lengths + mask.sum(-1)

    def select_rows(self, rows: Tensor) -> None:
        """Go on with these rows alone; a row may be taken several times."""
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]
        for model in self.models:
            model.select_rows(rows.to(model.device))

    def close_gaps(self) -> None:
        """Move every row's slots together once a quarter of all is rolled back; attention reads every slot."""
        needed = int(self.lengths.max())
        if 4 * needed > 3 * self.mask.shape[1]:
            return
        slots = self.mask.argsort(dim=-1, stable=True)[:, -needed:]
        for model in self.models:
            model.select_slots(slots.to(model.device))
        self.mask = self.mask.gather(1, slots)


def share_prefixes(models: Sequence[CachedModel]) -> bool:
    """Whether these models, together, can read what rows begin with alike once: gaps between slots change nothing."""
    return all(model.takes_back for model in models)


def _copy_cache(cache: DynamicCache) -> DynamicCache:
    """Another cache of the same tensors."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


def _copies(tensor: Tensor) -> Callable[[torch.device], Tensor]:
    """A tensor on any device, sent to each once."""
    known = {tensor.device: tensor}

    def copy(device: torch.device) -> Tensor:
        if device not in known:
            known[device] = tensor.to(device)
        return known[device]

    return copy


def refuse_not_finite(models: Sequence[CachedModel]) -> None:
    """Stop where any of the logits that were read can't be used.

    Raises:
        UserError: names the first model that gave NaN or infinite logits, or excludes all tokens.
    """
    finite = torch.cat([model.finite.to(models[0].finite.device) for model in models]).tolist()
    if not all(finite):
        name = [name for model in models for name in model.names][finite.index(False)]
        raise UserError(f"The logits of {name} are not finite; its weights are damaged or overflow, so use others.")
