"""Models whose cache can't serve a padded batch.

What ``CachedModel`` does with keys and values (padding that is masked, rows that leave, tokens taken back) has no
counterpart in the state of a recurrent model, and keys that were rotated for a short text are wrong in a long one.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from logitfusion.fusion.caches import CachedModel
from logitfusion.models.architecture import has_key_value_cache, restart_length, state_argument


def open_model(model: PreTrainedModel, names: Sequence[str]) -> CachedModel:
    """A model that has read nothing yet, in the form that its architecture needs."""
    if state_argument(model) is not None:
        return StatefulModel(model, names)
    if not has_key_value_cache(model):
        return UncachedModel(model, names)
    if restart_length(model) is not None:
        return RestartingModel(model, names)
    return CachedModel(model, names)


class _UnpaddedModel(CachedModel):
    """A model that reads each row without its padding, and takes nothing back."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str] = ("the model",)) -> None:
        super().__init__(model, names)
        self.parameters = inspect.signature(model.forward).parameters

    def _new_cache(self, model: PreTrainedModel) -> None:
        return None

    @property
    def takes_back(self) -> bool:
        return False

    @property
    def keeps_prompts(self) -> bool:
        return False


class StatefulModel(_UnpaddedModel):
    """A recurrent or hybrid model: every row has a cache of its own, and reads none of the padding.

    A row's first tokens are read in one pass, later ones one by one: transformers' recurrent layers take a state for
    one token, and begin anew for several.
    """

    def __init__(self, model: PreTrainedModel, names: Sequence[str] = ("the model",)) -> None:
        super().__init__(model, names)
        self.caches: list[DynamicCache | None] = []  # None: the row has read nothing
        self.argument = state_argument(model)

    def _read(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: int) -> Tensor:
        self.caches = self.caches or [None] * len(ids)
        real = mask[:, -ids.shape[1] :].bool()
        logits: Tensor | None = None
        for row in range(len(ids)):
            places = real[row, -keep:].nonzero()[:, 0]
            if real[row].any():
                read = self._read_row(row, ids[row][real[row]], positions[row][real[row]], keep)
                if logits is None:
                    logits = read.new_zeros(len(ids), keep, read.shape[-1])
                if len(places):
                    logits[row, places] = read[-len(places) :]
        if logits is None:
            raise ValueError("a batch needs a row with a token")
        return logits[None]

    def _read_row(self, row: int, ids: Tensor, positions: Tensor, keep: int) -> Tensor:
        """Logits ``[<= keep, V]`` fp32 after the last tokens of ``ids [n]``."""
        size = 1
        if self.caches[row] is None:
            self.caches[row], size = DynamicCache(config=self.model.config), len(ids)
        arguments = {self.argument: self.caches[row], "use_cache": True, "logits_to_keep": keep}
        read = []
        for some, places in zip(ids[None].split(size, dim=-1), positions[None].split(size, dim=-1), strict=True):
            given = arguments | {"input_ids": some, "position_ids": places}
            known = {name: value for name, value in given.items() if name in self.parameters}
            read.append(self.model(**known).logits[0])
        return torch.cat(read)[-keep:].float()

    def select_rows(self, rows: Tensor) -> None:
        if self.caches:
            taken: set[int] = set()
            chosen = rows.tolist()
            self.caches = [
                copy.deepcopy(self.caches[row]) if row in taken or taken.add(row) else self.caches[row]
                for row in chosen
            ]

    def drop_last(self, slots: int) -> None:
        """Padding behind all rows, which none of them has read."""


class UncachedModel(_UnpaddedModel):
    """A model that reads each row from its first token at every step, unpadded: right for any causal architecture.

    n new tokens cost a pass over all tokens of the row, so a text takes time that grows with the square of its length.
    """

    def __init__(self, model: PreTrainedModel, names: Sequence[str] = ("the model",)) -> None:
        super().__init__(model, names)
        self.ids: Tensor | None = None  # [B, S], the slots of ``Batch.mask``

    def _read(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: int) -> Tensor:
        self.ids = ids if self.ids is None else torch.cat([self.ids, ids], dim=-1)
        real = mask.bool()
        places = real.cumsum(-1)[:, -keep:] - 1  # of the last columns, among a row's own tokens
        logits: Tensor | None = None
        lengths = real.sum(-1)
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            if length:  # else only padding so far
                read = self._read_whole(self.ids[rows][real[rows]].view(len(rows), length), keep)
                found = (places[rows] - (length - read.shape[1])).clamp(min=0)
                if logits is None:
                    logits = read.new_zeros(len(ids), keep, read.shape[-1])
                logits[rows] = read.gather(1, found[..., None].expand(-1, -1, read.shape[-1]))
        if logits is None:
            raise ValueError("a batch needs a row with a token")
        return logits[None]

    def _read_whole(self, ids: Tensor, keep: int) -> Tensor:
        """Logits ``[n, <= keep, V]`` fp32 after the last tokens of rows of equal length."""
        given = {"use_cache": False, "logits_to_keep": keep}
        known = {name: value for name, value in given.items() if name in self.parameters}
        return self.model(input_ids=ids, **known).logits[:, -keep:].float()

    def select_rows(self, rows: Tensor) -> None:
        if self.ids is not None:
            self.ids = self.ids[rows]

    def drop_last(self, slots: int) -> None:
        self.ids = self.ids[:, :-slots]

    def select_slots(self, slots: Tensor) -> None:
        self.ids = self.ids.gather(1, slots)


class RestartingModel(CachedModel):
    """A model that forgets its keys where a row passes a length from which on positions are encoded otherwise.

    So does transformers' ``generate`` (``prepare_inputs_for_generation`` of Phi-3). Rows that may pass it are read
    alone, see ``architecture.reads_rows_alone``.
    """

    def __init__(self, model: PreTrainedModel, names: Sequence[str] = ("the model",)) -> None:
        super().__init__(model, names)
        self.limit = restart_length(model)
        self.ids: Tensor | None = None

    @property
    def keeps_prompts(self) -> bool:
        return False

    def _read(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: int) -> Tensor:
        self.ids = ids if self.ids is None else torch.cat([self.ids, ids], dim=-1)
        before = self.ids.shape[1] - ids.shape[1]
        if len(ids) == 1 and before <= self.limit < self.ids.shape[1]:
            self.cache = self._new_cache(self.model)
            ids, positions = self.ids, (mask.cumsum(-1) - 1).clamp(min=0)
        return super()._read(ids, mask, positions, keep)

    def select_rows(self, rows: Tensor) -> None:
        super().select_rows(rows)
        if self.ids is not None:
            self.ids = self.ids[rows]

    def drop_last(self, slots: int) -> None:
        super().drop_last(slots)
        self.ids = self.ids[:, :-slots]

    def select_slots(self, slots: Tensor) -> None:
        super().select_slots(slots)
        self.ids = self.ids.gather(1, slots)
