"""A checkpoint of one of open_clip's models: its weights, and the activation that it was trained with."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
from open_clip.factory import (
    convert_state_dict,
    convert_to_custom_text_state_dict,
    get_model_config,
    resize_pos_embed,
    resize_text_pos_embed,
)
from torch import Tensor, nn

from logitfusion.clip.encoders.errors import EncoderError, wrong_key
from logitfusion.clip.encoders.weights import read_checkpoint
from logitfusion.errors import UserError, first_line

logger = logging.getLogger(__name__)

# OpenAI's files keep these numbers beside the weights, and all of OpenAI's models have QuickGELU.
OPENAI_NUMBERS = ("input_resolution", "context_length", "vocab_size")


def open_checkpoint(entry: dict[str, Any]) -> tuple[nn.Module, Any]:
    """The model and the tokenizer of ``{source: path, model, path, quick_gelu}``.

    Raises:
        UserError: no such model or file, a file of another model, or nothing that says which activation is meant.
    """
    model, path = entry.get("model"), Path(entry["path"])
    if model is None and not path.exists():
        raise UserError(f"There is no CLIP at {path}; correct the path, or make it first.")
    if model is None:
        raise UserError(f"Which of open_clip's models the checkpoint {path} is of must be said; add the key model.")
    if get_model_config(model) is None:
        raise wrong_key(f"open_clip has no model {model!r}", "model")
    state, told = _read(path)
    quick = choose_activation(model, asked=entry.get("quick_gelu"), told=told, path=path)
    with no_warnings():
        opened = open_clip.create_model(model, force_quick_gelu=quick, weights_only=True)
    try:
        opened.load_state_dict(_convert(opened, state))
    except Exception as error:  # of open_clip's conversions, and of torch
        raise wrong_key(
            f"The checkpoint {path} does not fit open_clip's {model} ({_misfit(error, opened, state)})", "model"
        ) from error
    return opened, open_clip.get_tokenizer(model)


def _read(path: Path) -> tuple[dict[str, Tensor], bool | None]:
    """The weights of a file, and whether it says that they were trained with QuickGELU (None: it doesn't say)."""
    found = read_checkpoint(path)
    told = True if all(name in found.state for name in OPENAI_NUMBERS) else found.quick_gelu
    return {name: value for name, value in found.state.items() if name not in OPENAI_NUMBERS}, told


def choose_activation(model: str, *, asked: bool | None, told: bool | None, path: Path) -> bool:
    """Whether a checkpoint's model has QuickGELU; the weights fit both, and the wrong one only makes worse features.

    Args:
        model: open_clip's name. Its ``-quickgelu`` names have that activation.
        asked: what the entry says, if it does.
        told: what the file says, if it does.

    Raises:
        UserError: they disagree, or none of them says it.
    """
    named = bool(get_model_config(model).get("quick_gelu", False))
    plain = model.removesuffix("-quickgelu")
    wanted = True if named else asked
    if named and asked is False:
        raise EncoderError(
            f"{model} has QuickGELU, and GELU was asked for",
            config=f"name {plain}, or leave the key quick_gelu out",
            option="correct {option}",
        )
    if told is not None and wanted is not None and told != wanted:
        right = f"{plain}-quickgelu" if told else plain
        raise EncoderError(
            f"The checkpoint {path} was made with {_name(told)}, not with {_name(wanted)}",
            config=f"name the model {right}, and leave the key quick_gelu out",
            option=f"name the model {right} in {{option}}",
        )
    if told is not None:
        if told and not named:
            logger.info("%s was trained with QuickGELU, so the model has it", path)
        return told
    if wanted is not None:
        return wanted
    if get_model_config(f"{model}-quickgelu") is None:  # known with one activation only
        return False
    raise EncoderError(
        f"The checkpoint {path} does not say which activation its {model} was trained with: QuickGELU, as OpenAI's,"
        " MetaCLIP's and DFN's, or GELU, as LAION's and DataComp's",
        config="add quick_gelu: true or quick_gelu: false",
        option=f"give {{option}} checkpoint:{model}-quickgelu:FILE or checkpoint:{model}-gelu:FILE",
    )


def _name(quick: bool) -> str:
    return "QuickGELU" if quick else "GELU"


def _convert(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What open_clip's own ``load_checkpoint`` does with a file that it reads, for weights that are read already."""
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    state = dict(convert_state_dict(model, state))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = dict(convert_to_custom_text_state_dict(state))
    for name in ("logit_scale", "logit_bias"):
        if name in state and getattr(model, name, None) is not None:
            state[name] = state[name].reshape(getattr(model, name).shape)
    # What a model makes itself (masks, positions) is in archives and old files, and is no weights.
    made = {name for name, _ in model.named_buffers()} - model.state_dict().keys()
    state = {name: value for name, value in state.items() if name not in made and not name.endswith(".position_ids")}
    expected = model.state_dict()
    for name, value in state.items():
        if name in expected and expected[name].is_floating_point() and not value.is_floating_point():
            raise ValueError(f"{name} is quantized, to whole numbers")
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    return state


def _misfit(error: Exception, model: nn.Module, state: dict[str, Tensor]) -> str:
    """The first tensor that is missing, foreign or of another shape; torch lists them all."""
    expected = model.state_dict()
    for name, value in expected.items():
        if name not in state:
            return f"it lacks {name}"
        if state[name].shape != value.shape:
            return f"{name} has the shape {list(state[name].shape)}, not {list(value.shape)}"
    foreign = next((name for name in state if name not in expected), None)
    return first_line(error) if foreign is None else f"it has an unknown {foreign}"


@contextmanager
def no_warnings() -> Iterator[None]:
    """open_clip warns, through the root logger, of random weights; here they are asked for."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
