"""The few-shot track: what its encoders need, built on ``meta`` and run there on pictures and texts without bytes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from logitfusion.config.encoders import BuiltClip, OpenClip, RandomClip, TimmAuxiliary
from logitfusion.config.run import RunConfig
from logitfusion.errors import UserError, first_line
from logitfusion.plan.cost import PROCESS, Cost
from logitfusion.plan.edits import halves
from logitfusion.plan.jobs import Edit, Job

# Classes whose texts are encoded together, and sentences of each: open_clip's default, and the most that are usual.
_CLASSES, _SENTENCES = 10, 80


def clip_jobs(run: RunConfig) -> Iterator[Job]:
    """The jobs of the few-shot track that encode; fits read features and are small.

    Raises:
        UserError: an architecture that its library does not have.
    """
    clip = run.clip
    encoder = clip.encoder
    if isinstance(encoder, BuiltClip):
        reason = "The CLIP is built here of packages, which say nothing of it before they are downloaded."
    elif isinstance(encoder, RandomClip):
        reason = ""
    else:
        model = getattr(encoder, "model", None)
        reason = "" if model else "The CLIP in a folder is not looked into."
    sets = [name for name, entry in clip.datasets.items() if entry.shift_of is None]
    edits: list[Edit] = [{"clip.batch_size": size} for size in halves(clip.batch_size)]
    for rule, names in (("clip_support", sets), ("clip_test", list(clip.datasets))):
        for name in names:
            yield Job(rule, name, 1, None if reason else partial(_encode, run), reason, tuple(edits))


def encoder_downloads(run: RunConfig) -> dict[str, int | None]:
    """Weights that open_clip and timm download; how many bytes is theirs to say."""
    clip = run.clip
    found: dict[str, int | None] = {}
    if isinstance(clip.encoder, OpenClip):
        found[f"open_clip {clip.encoder.model} {clip.encoder.pretrained}"] = None
    for entry in clip.auxiliaries.values():
        if isinstance(entry, TimmAuxiliary) and entry.pretrained:
            found[f"timm {entry.model}"] = None
    return found


def _encode(run: RunConfig) -> Cost:
    """CLIP and auxiliaries are in memory together, and read one after the other."""
    clip = run.clip
    parts = [_clip(getattr(clip.encoder, "model", None))]
    for entry in clip.auxiliaries.values():
        parts.append(_auxiliary(entry.source, entry.model))
    gpu = {
        "weights": float(sum(weights for weights, _, _ in parts)),
        "pictures": float(max(clip.batch_size * picture for _, picture, _ in parts)),
        "texts": float(max(texts for _, _, texts in parts)),
    }
    gpu["pictures"], gpu["texts"] = max(gpu["pictures"], gpu["texts"]), 0.0  # one after the other
    # Nothing says before they are there how many pictures have features to be kept.
    return Cost({name: size for name, size in gpu.items() if size}, host={"process": PROCESS}, disk=None)


@functools.lru_cache(maxsize=16)
def _clip(name: str | None) -> tuple[int, int, int]:
    """Bytes of a CLIP's weights, of a picture that goes through it, and of the texts of a few classes."""
    if name is None:  # a tiny one, for tests
        return 0, 0, 0
    import open_clip

    with torch.device("meta"):
        model = _build(partial(open_clip.create_model, name, device="meta"), f"open_clip's model {name!r}")
        size = open_clip.get_model_preprocess_cfg(model)["size"]
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        picture = _peak(model, lambda: model.encode_image(torch.zeros(1, 3, height, width)))
        length = getattr(model, "context_length", 77)
        texts = torch.zeros(1, length, dtype=torch.long)
        text = _peak(model, lambda: model.encode_text(texts))
    return _weights(model), picture, _CLASSES * _SENTENCES * text


@functools.lru_cache(maxsize=16)
def _auxiliary(source: str, name: str) -> tuple[int, int, int]:
    import timm
    import torchvision

    with torch.device("meta"):
        if source == "torchvision":
            model = _build(partial(torchvision.models.get_model, name, weights=None), f"torchvision's model {name!r}")
            channels, height, width = 3, 224, 224
        else:
            model = _build(partial(timm.create_model, name, pretrained=False), f"timm's model {name!r}")
            channels, height, width = timm.data.resolve_model_data_config(model)["input_size"]
        picture = _peak(model, lambda: model(torch.zeros(1, channels, height, width)))
    return _weights(model), picture, 0


def _build(make: Callable[[], Any], title: str) -> nn.Module:
    logging.disable(logging.WARNING)  # open_clip warns of a model without weights, which is all that is wanted here
    try:
        return make().eval()
    except Exception as error:  # each library has its own types
        raise UserError(f"{title} can't be built ({first_line(error)}); correct its name.") from error
    finally:
        logging.disable(logging.NOTSET)


def _weights(model: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in model.parameters())


@torch.no_grad()
def _peak(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes of the largest layer's inputs and outputs, twice: those of its neighbour may still be there."""
    sizes = [0]

    def note(_: nn.Module, inputs: Any, output: Any) -> None:
        tensors = [value for value in (*inputs, output) if isinstance(value, Tensor)]
        sizes.append(sum(value.numel() * value.element_size() for value in tensors))

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(note) for module in leaves]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return 2 * max(sizes)
