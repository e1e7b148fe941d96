"""Models with their KV caches over one batch of rows, fed, rolled back and thinned out together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


class CachedModel:
    """One model and the keys and values of every token it has read."""

    members = 1

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.cache = model, DynamicCache(config=model.config)

    def read(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: int) -> Tensor:
        """Read new tokens ``ids [B, n]``: logits ``[1, B, keep, V]`` fp32 after the last ``keep`` of them."""
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
        self.cache.batch_select_indices(rows)

    def drop_last(self, slots: int) -> None:
        """Forget the newest tokens of all rows."""
        self.cache.crop(-slots)

    def select_slots(self, slots: Tensor) -> None:
        """Keep the slots ``[B, S]`` of each row, in this order."""
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)
                index = slots[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
                setattr(layer, name, states.gather(2, index))


class CachedAdapters(CachedModel):
    """A base model and LoRA experts on it (a peft model), read in one forward pass of ``(T + 1) B`` rows.

    The weights of the base are read from memory once for all of them; each row adds its own adapter's product.
    """

    def __init__(self, model: PreTrainedModel, adapters: Sequence[str]) -> None:
        super().__init__(model)
        self.adapters = ["__base__", *adapters]
        self.members = len(self.adapters)

    def read(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: int) -> Tensor:
        """Logits ``[T + 1, B, keep, V]``, the base's first."""
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
    padding, nor what was rolled back), ``lengths [B]`` how many they are: the next token's position.
    """

    def __init__(self, models: Sequence[CachedModel], rows: int, device: torch.device) -> None:
        self.models = list(models)
        self.mask = torch.zeros(rows, 0, dtype=torch.long, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)

    def read(self, ids: Tensor, mask: Tensor, keep: int) -> list[Tensor]:
        """Let every model read ``ids [B, n]`` where ``mask [B, n]`` is 1: its logits after the last ``keep``."""
        logits = [self.read_ahead(model, ids, mask, keep) for model in self.models]
        self.commit(mask)
        return logits

    def read_ahead(
        self, model: CachedModel, ids: Tensor, mask: Tensor, keep: int, before: Tensor | None = None
    ) -> Tensor:
        """Let one model read what is committed later; ``before [B, m]`` masks what it has read ahead already."""
        before = mask[:, :0] if before is None else before
        positions = (self.lengths[:, None] + before.sum(-1, keepdim=True) + mask.cumsum(-1) - 1).clamp(min=0)
        return model.read(ids, torch.cat([self.mask, before, mask], dim=-1), positions, keep)

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
            model.select_rows(rows)

    def close_gaps(self) -> None:
        """Move every row's slots together once a quarter of all is rolled back; attention reads every slot."""
        needed = int(self.lengths.max())
        if 4 * needed > 3 * self.mask.shape[1]:
            return
        slots = self.mask.argsort(dim=-1, stable=True)[:, -needed:]
        for model in self.models:
            model.select_slots(slots)
        self.mask = self.mask.gather(1, slots)
