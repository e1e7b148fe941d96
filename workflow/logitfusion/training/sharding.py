"""A model parted among the processes of a training (FSDP2), and whole again in the first of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from logitfusion.errors import UserError


def sharding_arguments() -> dict[str, Any]:
    """transformers' settings: a group of parameters for each decoder layer, gathered while it computes.

    The first process alone holds whole weights, and hands them out tensor by tensor. A checkpoint holds each process's
    part, and can be read by another number of processes. Gradients are added up where they are kept, after every
    micro-batch, because those that wait for the end of a step would be whole ones.
    """
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "reshard_after_forward": True,
            "cpu_ram_efficient_loading": True,
            "state_dict_type": "SHARDED_STATE_DICT",
        },
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def mixed_precision(bf16: bool) -> MixedPrecisionPolicy:
    """Products in bf16 if asked, from fp32 masters; gradients are added up in fp32 always."""
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32)


def part_on_cpus_too() -> None:
    """Let accelerate part a model among processes on CPUs as it does on GPUs: it asks for the name of the latter.

    To call once the processes know each other (transformers' settings see to that) and before there is a Trainer.
    """
    state = PartialState()
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


def outline(model: PreTrainedModel, device: str, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A copy without the parameters' values, which are new tensors on ``device``; buffers and ties are copied.

    On the CPU these tensors take no memory as long as nobody writes them. Another ``dtype`` is that of all floats.
    """
    blank = {
        id(value): nn.Parameter(torch.empty_like(value, device=device, dtype=dtype), requires_grad=value.requires_grad)
        for value in model.parameters()
    }
    copied = copy.deepcopy(model, blank)
    return copied if dtype is None else copied.to(dtype)  # what is left to turn are buffers


def gather(model: nn.Module, plain: PreTrainedModel, main: bool) -> PreTrainedModel:
    """Put the whole weights of a parted model into its outline, one tensor after the other.

    Args:
        model: the parted model; all processes call this at once.
        plain: its outline on ``meta``.
        main: whether this process keeps the weights (on the CPU); in the others the outline stays one.
    """
    found: dict[int, nn.Parameter] = {}
    pairs = zip(plain.named_parameters(), model.named_parameters(), strict=True)
    for (name, blank), (same, parted) in pairs:
        if name != same or not isinstance(parted, DTensor):
            raise ValueError(f"the parted model has {same}, a {type(parted).__name__}, where the whole one has {name}")
        value = whole(parted.detach())
        if main:
            found[id(blank)] = nn.Parameter(value.to("cpu", copy=True), requires_grad=blank.requires_grad)
    for module in plain.modules() if main else ():
        for name, blank in module._parameters.items():
            if blank is not None:
                module._parameters[name] = found[id(blank)]
    return plain


def part_again(model: nn.Module) -> None:
    """Let go of weights that are whole after a forward without a backward, which alone would part them again."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def one_failure() -> Iterator[None]:
    """Raise the first of the failures that processes met in writing or reading a checkpoint.

    What torch raises of all of them is no ``Exception``.
    """
    try:
        yield
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        raise first from None


def whole(value: Tensor) -> Tensor:
    """All of a tensor whose parts are in several processes, which all call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor, or all of one that is not parted."""
    return value.to_local() if isinstance(value, DTensor) else value


def refuse_unparted(model: PreTrainedModel, name: str) -> None:
    """Refuse a model that accelerate can't part.

    Raises:
        UserError: it has buffers in its checkpoint, or names no layers; ``name`` is the training's.
    """
    kept = model.state_dict().keys() & dict(model.named_buffers()).keys()
    if kept or not getattr(model, "_no_split_modules", None):
        why = f"it keeps {min(kept)} beside its weights" if kept else "transformers names no layers of it"
        raise UserError(f"{name}: {type(model).__name__} can't be parted ({why}); set sharded: false.")
