"""What a model says at the places of a batch that count: the vocabulary-sized product is made of these alone."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from transformers import PreTrainedModel

from logitfusion.training.batches import KEPT

Choice = Callable[[Tensor], Tensor]


def kept_logits(model: nn.Module, bare: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """``[*kept, V]``: logits at the places ``inputs[KEPT]`` of the batch, counted row by row.

    Args:
        model: to be called, however several processes wrap it.
        bare: the same without wrapping.
        inputs: of a collator; ``KEPT`` is taken out.
    """
    kept = inputs.pop(KEPT)
    return chosen_logits(model, bare, inputs, lambda hidden: hidden[kept.flatten()]).view(*kept.shape, -1)


def chosen_logits(model: nn.Module, bare: PreTrainedModel, inputs: dict[str, Tensor], choose: Choice) -> Tensor:
    """``[n, V]`` by a model's own forward (scales and caps included), of some of what its output layer reads.

    Args:
        model, bare, inputs: of ``kept_logits``.
        choose: takes the states ``[B * L, H]`` and gives those that are needed, ``[n, H]``; a model without an output
            layer of its own hands it its logits.
    """
    chosen: list[bool] = []

    def enter(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        chosen.append(True)
        return (choose(arguments[0].flatten(0, -2))[None], *arguments[1:])

    head = bare.get_output_embeddings()
    hook = None if head is None else head.register_forward_pre_hook(enter)
    try:
        logits = model(**inputs, use_cache=False).logits.flatten(0, -2)
    finally:
        if hook is not None:
            hook.remove()
    return logits if chosen else choose(logits)
