"""A causal language model in two: what makes hidden states of tokens, and what makes logits of hidden states.

Logits take vocabulary-sized memory, so whoever needs those of some positions makes hidden states of all first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitfusion.models.architecture import reset_rope
from logitfusion.models.device_maps import input_device
from logitfusion.models.forward import agree, evaluating, plain_logits


class _ReachedError(Exception):
    """Ends a forward whose hidden states are known, and carries them."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


class SplitModel:
    """Hidden states and logits of a model, by its own forward.

    So whatever it does before its decoder, and with its logits after the output matrix (caps, scales), is done here.

    Attributes:
        body: the module whose output the head reads; None where none is found, then "hidden states" are the logits.
    """

    def __init__(self, model: PreTrainedModel, ids: list[int]) -> None:
        """Find the body, and prove on the text ``ids`` that the two halves make the logits of the plain forward."""
        self.model, self.body, self._output = model, None, None
        text = torch.tensor([ids], device=input_device(model))
        with evaluating(model):
            expected = plain_logits(model, text)
            for body in _find_bodies(model, text):
                self.body = body
                # In another order and number, so that nothing but the rows themselves can decide.
                with suppress(RuntimeError, ValueError, TypeError, AttributeError):  # a head that reads more than that
                    found = self.logits(self.hidden_states(text)[0].flip(0)[::2])
                    if agree(found, expected[0].flip(0)[::2]):
                        return
        self.body = None

    @torch.no_grad()
    def hidden_states(self, ids: Tensor) -> Tensor:
        """``[B, L] -> [B, L, D]``."""
        if self.body is None:
            return plain_logits(self.model, ids)
        reset_rope(self.model)
        handle = self.body.register_forward_hook(_stop)
        try:
            self.model(input_ids=ids, use_cache=False)
        except _ReachedError as reached:
            hidden = _hidden(reached.output)
            self._output = _with_hidden(reached.output, hidden.new_empty(0))  # what is kept needs no memory
            return hidden.to(ids.device)  # the last layers may be on another one
        finally:
            handle.remove()
        raise RuntimeError(f"the forward of {type(self.model).__name__} did not call its body")

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """``[n, D] -> [n, V]``, of hidden states from any positions of the last texts."""
        if self.body is None:
            return hidden
        ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        with _answering(self.body, _with_hidden(self._output, hidden[None])):
            return self.model(input_ids=ids).logits[0]


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _ReachedError(output)


def _find_bodies(model: PreTrainedModel, ids: Tensor) -> list[nn.Module]:
    """The outermost modules that end before the output matrix is used, and give hidden states; the last one first."""
    head = model.get_output_embeddings()
    if head is None:
        return []
    around = {module for module in model.modules() if any(inner is head for inner in module.modules())}
    called: list[nn.Module] = []
    found: list[nn.Module] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        called.append(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        called.pop()
        hidden = _hidden(output)
        outermost = module not in around and all(outer in around for outer in called)
        if outermost and hidden is not None and hidden.shape[:-1] == ids.shape:
            found.insert(0, module)

    handles = [
        handle
        for module in model.modules()
        for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]
    try:
        plain_logits(model, ids)
    finally:
        for handle in handles:
            handle.remove()
    return [module for module in found if found.count(module) == 1]


def _hidden(output: Any) -> Tensor | None:
    """The hidden states of what a module returned."""
    if hasattr(output, "last_hidden_state"):
        output = output.last_hidden_state
    elif isinstance(output, tuple) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.ndim == 3 else None


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    """What a module returned, with other hidden states."""
    if isinstance(output, Tensor):
        return hidden
    return replace(output, last_hidden_state=hidden) if is_dataclass(output) else (hidden, *output[1:])


@contextmanager
def _answering(module: nn.Module, answer: Any) -> Iterator[None]:
    """Let a module give a known answer instead of computing one."""
    before = module.__dict__.get("forward")
    module.forward = lambda *_, **__: answer
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before
