"""Decoding's steps as CUDA graphs: a model's forward of one token a row, in tensors that stay where they are.

A step of a model is some thousand kernels, which a host takes longer to launch than a GPU to run. A graph of them is
one launch, but only of the same kernels on the same addresses: caches of a fixed length, whose slots beyond the newest
token causality masks, for a fixed number of rows, of which those that have ended are not looked at.
"""

from __future__ import annotations

import copy
import gc
import logging
import math
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import DynamicCache, PreTrainedModel, StaticCache
from transformers.cache_utils import DynamicLayer, StaticLayer

from logitfusion.errors import find_memory_error, first_line
from logitfusion.fusion.caches import Batch, CachedAdapters, CachedModel
from logitfusion.models.architecture import has_key_value_cache, rope_limit
from logitfusion.models.forward import agree
from logitfusion.models.static_shapes import static_shape

logger = logging.getLogger(__name__)

Given = TypeVar("Given")
Made = TypeVar("Made")

# Steps that are taken without a graph before one is captured: they cost about what a capture does, so nobody waits
# longer than twice what the better choice would have been.
PATIENCE = 8
_WASTE = 4  # up to so many times the slots that a batch needs are taken where they are there already
_WARM = 2  # steps before a capture, in which libraries choose their kernels


class StaticStep:
    """One model's forward of one token a row, whose cache and inputs stay where they are.

    Args:
        model: as it has read the beginning of some rows, which says the shapes of its cache.
        rows: the most that it takes.
        length: the most slots of each, in its cache.

    Attributes:
        logits: ``[members, rows, 1, V]`` fp32, after the newest tokens.
        graph: of the forward, once it is captured.

    Raises:
        MemoryError: the cache takes more than half of the GPU's memory that is free.
    """

    def __init__(self, model: CachedModel, rows: int, length: int) -> None:
        self.rows, self.length = rows, length
        self.reader = copy.copy(model)
        self.reader.cache = _make_static(model, rows, length)
        self.ids = torch.zeros(rows, 1, dtype=torch.long, device=model.device)
        self.positions = torch.zeros_like(self.ids)
        self.mask = torch.ones(rows, length, dtype=torch.long, device=model.device)
        self.logits: Tensor | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self._lists = _ListsOnDevice(model.device)
        self._weights = _addresses(model.model)

    def begin(self, held: DynamicCache, mask: Tensor) -> None:
        """Go on from what some rows, the first ones here, have read: ``mask [B, S]`` says which slots count."""
        count, slots = mask.shape
        self.mask.fill_(1)
        self.mask[:count, :slots] = mask
        for layer, before in zip(self.reader.cache.layers, held.layers, strict=True):
            for name in ("keys", "values"):
                states = getattr(before, name).unflatten(0, (-1, count))  # [members, B, heads, <= S, size]
                mine = getattr(layer, name).zero_().unflatten(0, (-1, self.rows))
                mine[:, :count, :, slots - states.shape[3] : slots] = states  # a window's are the newest
        self.rewind(slots)

    def rewind(self, slots: int) -> None:
        """Read on behind so many slots."""
        for layer in self.reader.cache.layers:
            layer.cumulative_length.fill_(slots)

    def __call__(self, ids: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
        """Logits ``[members, B, 1, V]`` fp32 after tokens ``ids [B, 1]`` at ``positions [B, 1]`` of ``rows [B]``."""
        self.ids.index_copy_(0, rows, ids)
        self.positions.index_copy_(0, rows, positions)
        self.advance()
        return self.logits.index_select(1, rows)

    def advance(self) -> None:
        """Read a token of every row."""
        if self.graph is None:
            self._run()
        else:
            self.graph.replay()

    def _run(self) -> None:
        with self._lists:
            self.logits = self.reader._read(self.ids, self.mask, self.positions, 1)

    def fits(self, rows: int, length: int) -> bool:
        """Whether it takes so many rows of that length, wastes little on them, and its weights are where they were."""
        takes = self.rows >= rows and self.length >= length
        wastes = self.rows * self.length > _WASTE * math.prod(static_shape(rows, length))
        return takes and not wastes and self._weights == _addresses(self.reader.model)

    def capture(self, slots: int, pool: Any) -> None:
        """From now on replay a graph of reading a token behind so many slots, or wherever it is.

        Args:
            pool: of memory, which steps share that never run at once.

        Raises:
            RuntimeError: the forward waits for the GPU, or does something else that no graph can.
        """
        here, stream = torch.cuda.current_stream(self.ids.device), torch.cuda.Stream(self.ids.device)
        graph = torch.cuda.CUDAGraph()
        stream.wait_stream(here)
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM):
                    self.rewind(slots)
                    with _refusing_to_wait():
                        self._run()
                with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    self._run()
                self.rewind(slots)
        finally:
            here.wait_stream(stream)
        self.graph = graph


class SteppedModel(CachedModel):
    """A model whose rows go on in a ``StaticStep``, a token at a time.

    Args:
        before: the model as it has read the rows so far; its own cache is given up.
        step: takes it over.
        mask: ``[B, S]``, of the slots so far.
    """

    def __init__(self, before: CachedModel, step: StaticStep, mask: Tensor) -> None:
        super().__init__(before.model, before.names)
        self.finite, self.step = before.finite, step
        self.rows = torch.arange(len(mask), device=self.device)
        step.begin(before.cache, mask)
        before.cache = None

    def _new_cache(self, model: PreTrainedModel) -> None:
        return None

    def _read(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: int) -> Tensor:
        return self.step(ids, positions, self.rows)

    def select_rows(self, rows: Tensor) -> None:
        self.rows = self.rows[rows]


class StepGraphs:
    """The captured steps of some models, one a model, which batches of like shapes share.

    Args:
        patience: steps without a graph before one is captured, see ``PATIENCE``; infinity: never.
        capture: False computes the same without a graph, on any device.

    Attributes:
        steps: by the places and identities of their models; one that stands at two places has a cache at each.
        obstacles: why a model has none, by its identity; None where there is no reason.
    """

    def __init__(self, patience: float = PATIENCE, *, capture: bool = True) -> None:
        self.patience, self.captures = patience, capture
        self.steps: dict[Hashable, StaticStep] = {}
        self.obstacles: dict[Hashable, str | None] = {}
        self._waited, self._pool = 0, None

    def follow(self, batch: Batch, rows: int, ids: Tensor, further: int) -> None:
        """Let the models of a batch go on by graphs, where that pays.

        Args:
            batch: of models, some of which read by graphs already.
            rows: that it began with.
            ids: ``[B, 1]``, which it reads next, if it has read its prompts.
            further: the most tokens that it reads, these included.
        """
        waiting = [number for number, model in enumerate(batch.models) if self._may_follow(model)]
        if not waiting or not batch.mask.shape[1]:
            return
        length = batch.mask.shape[1] + further
        late = [number for number in waiting if not self._fits(batch, number, length)]
        if late and not self._is_due():
            return
        for number in late:
            self._make(batch, number, rows, length, ids)
        for number in waiting:
            if step := self.steps.get(_key(batch, number)):
                batch.models[number] = SteppedModel(batch.models[number], step, batch.mask.to(step.mask.device))

    def give_way(self, compute: Callable[[Given], Made], given: Given) -> Made:
        """``compute(given)``; without graphs, once more and from then on, where the memory is too little for both."""
        try:
            return compute(given)
        except Exception as error:
            if not self.steps or find_memory_error(error) is None:
                raise
        # Outside of the handler, whose traceback holds the tensors of what failed.
        self.patience = math.inf
        self.clear()
        logger.info("decoding goes on without CUDA graphs: the memory is used up")
        return compute(given)

    def clear(self) -> None:
        """Give their memory back."""
        if not self.steps:
            return
        self.steps.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _may_follow(self, model: CachedModel) -> bool:
        if isinstance(model, SteppedModel):
            return False
        if model.identity not in self.obstacles:
            self._note(model, _find_obstacle(model, self.captures))
        return self.obstacles[model.identity] is None

    def _note(self, model: CachedModel, reason: str | None) -> None:
        self.obstacles[model.identity] = reason
        if reason is not None:
            logger.info("%s decodes without CUDA graphs: %s", model.names[0], reason)

    def _fits(self, batch: Batch, number: int, length: int) -> bool:
        step = self.steps.get(_key(batch, number))
        return step is not None and step.fits(len(batch.mask), length)

    def _is_due(self) -> bool:
        """Whether to capture what is not there, before a step."""
        if self._waited < self.patience:
            self._waited += 1
            return False
        self._waited = 0
        return True

    def _make(self, batch: Batch, number: int, rows: int, length: int, ids: Tensor) -> None:
        """Capture a model's step, if it gives the logits that the model gives of the next tokens."""
        self.steps.pop(_key(batch, number), None)
        model = batch.models[number]
        slots, device = batch.mask.shape[1], model.device
        ids, positions, mask = ids.to(device), batch.lengths[:, None].to(device), batch.mask.to(device)
        reader = copy.copy(model)
        reader.restore(model.state())
        expected = reader._read(ids, torch.cat([mask, torch.ones_like(ids)], dim=-1), positions, 1)
        inputs = (ids, positions, torch.arange(len(ids), device=device))
        try:
            step = StaticStep(model, *static_shape(rows, length))
            step.begin(model.cache, mask)
            found = step(*inputs)
            if self.captures:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                step.capture(slots, self._pool)
                found = step(*inputs)
        except Exception as error:  # whatever an architecture raises that can't go on so
            full = find_memory_error(error) is not None
            self._note(model, "the memory is used up" if full else first_line(error))
            return
        if agree(found.to(model.model.dtype), expected.to(model.model.dtype)):
            self.steps[_key(batch, number)] = step
        else:
            self._note(model, "a cache of a fixed length changes its logits")


def _key(batch: Batch, number: int) -> Hashable:
    return number, batch.models[number].identity


class _WindowLayer(StaticLayer):
    """A layer that looks back over a window only, and keeps what is outside of it: the mask leaves that out.

    transformers' own moves its window by a counter of the host's, which a graph can't.
    """

    is_sliding = True


class _ListsOnDevice(TorchFunctionMode):
    """Lists that index, as peft's of the rows of an adapter, as tensors: a list is sent to the GPU at each use."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.known = device, {}

    def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if function in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(given[1], list):
            numbers = tuple(given[1])
            if numbers not in self.known:
                self.known[numbers] = torch.tensor(numbers, device=self.device)
            given = (given[0], self.known[numbers], *given[2:])
        return function(*given, **(named or {}))


def _make_static(model: CachedModel, rows: int, length: int) -> StaticCache:
    """An empty cache of a fixed length, in the shapes of what a model has read.

    Raises:
        MemoryError: it takes more than half of what is free.
    """
    rows *= model.members
    if sum(_count_bytes(layer, rows, length) for layer in model.cache.layers) > _free(model.device) / 2:
        raise MemoryError
    cache = StaticCache(config=model.model.config, max_cache_len=length)
    cache.layers = [_WindowLayer(length) if layer.is_sliding else layer for layer in cache.layers]
    for layer, before in zip(cache.layers, model.cache.layers, strict=True):
        shapes = [(rows, states.shape[1], 0, states.shape[3]) for states in (before.keys, before.values)]
        layer.lazy_initialization(*(before.keys.new_empty(shape) for shape in shapes))
    return cache


def _count_bytes(layer: DynamicLayer, rows: int, length: int) -> float:
    """What a layer's keys and values will take."""
    held = layer.keys.nbytes + layer.values.nbytes
    return held / (layer.keys.shape[0] * layer.keys.shape[2]) * rows * length


def _free(device: torch.device) -> float:
    """Bytes, those included that torch's allocator keeps for what comes."""
    if device.type != "cuda":
        return math.inf
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def _find_obstacle(model: CachedModel, captures: bool) -> str | None:
    """Why a model's steps can't be captured, as far as that is known without a try."""
    if type(model) not in (CachedModel, CachedAdapters) or not has_key_value_cache(model.model):
        return "it keeps something else than keys and values"
    if math.isfinite(rope_limit(model.model)):
        return "the length of a text changes how its positions are encoded"
    if {tensor.device for tensor in _tensors(model.model)} != {model.device}:
        return "its weights are on several devices"
    return "it is not on a GPU" if captures and model.device.type != "cuda" else None


def _addresses(model: PreTrainedModel) -> tuple[object, ...]:
    """Of all that a graph reads, and which adapters are on: a graph knows nothing of what becomes of a model."""
    active = getattr(model, "active_adapters", ())  # of a peft model; a method of others
    return (model.training, *(() if callable(active) else active), *(part.data_ptr() for part in _tensors(model)))


def _tensors(model: PreTrainedModel) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Raise where the host waits for the GPU: in a capture that would be found out too late to go on."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "a prototype feature"
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
