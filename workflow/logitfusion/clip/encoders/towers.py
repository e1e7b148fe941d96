"""Weights for image and text towers, out of files and packages."""

from __future__ import annotations

import tempfile
from pathlib import Path

import timm
import torchvision
from torch import Tensor, nn

from logitfusion.clip.encoders.errors import EncoderError, wrong_key
from logitfusion.clip.encoders.weights import read_weights
from logitfusion.errors import UserError
from logitfusion.fetch.archives import open_zip, unpack_zip
from logitfusion.fetch.pypi import unpack_file
from logitfusion.files import read_json

HEADS = ("fc", "classifier", "head", "heads", "pooler")
# Where self-supervised training leaves the encoder, the most specific first: MoCo v3, MoCo v1/2, DINO, any.
PREFIXES = ("module.base_encoder.", "base_encoder.", "module.encoder_q.", "module.backbone.", "backbone.", "module.")


def strip_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Only the encoder's tensors, under the encoder's own names.

    MoCo and DINO checkpoints hold the encoder beside its momentum copy, a projector or a queue, so whatever lacks the
    encoder's prefix is left out.
    """
    prefix = next((start for start in PREFIXES if any(name.startswith(start) for name in state)), "")
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def make_trunk(model: str) -> nn.Module:
    """A timm model, or else a torchvision one, without its classifier and with random weights.

    Raises:
        UserError: neither library has the model.
    """
    if timm.is_model(model):
        return timm.create_model(model, pretrained=False, num_classes=0)
    if model in torchvision.models.list_models(module=torchvision.models):
        return drop_head(torchvision.models.get_model(model, weights=None))
    raise wrong_key(f"Neither timm nor torchvision has a model {model!r}", "model")


def drop_head(model: nn.Module) -> nn.Module:
    """A torchvision model that returns what its classifier would have read."""
    for name in HEADS:
        if hasattr(model, name):
            setattr(model, name, nn.Identity())
    return model


def fill(trunk: nn.Module, state: dict[str, Tensor], source: str) -> nn.Module:
    """Load an encoder's tensors into a trunk; classifiers and projectors in place of one are left out.

    Args:
        source: what the tensors came from, for the sentence of an error.

    Raises:
        UserError: tensors that the trunk needs are missing or of another shape, or it has no place for some.
    """
    expected = trunk.state_dict()
    given = {name: value for name, value in state.items() if name in expected or name.split(".")[0] not in HEADS}
    # Checkpoints from before torch 0.4.1 have no batch counters, and inference reads none.
    missing = [name for name in expected if name not in given and not name.endswith("num_batches_tracked")]
    shaped = [name for name in expected if name in given and expected[name].shape != given[name].shape]
    # Quantized ones: as numbers they would be loaded, and mean nothing.
    whole = [
        name
        for name in expected
        if name in given and expected[name].is_floating_point() and not given[name].is_floating_point()
    ]
    foreign = [name for name in given if name not in expected]
    for names, fault in (
        (missing, "lacks"),
        (shaped, "has other shapes for"),
        (whole, "is quantized, and has whole numbers for"),
        (foreign, "has unknown"),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise EncoderError(
                f"The checkpoint {source} {fault} {', '.join(names[:3])}{more}",
                config="it belongs to another model, correct the entry's model key",
                option="it belongs to another model, correct the one in {option}",
            )
    trunk.load_state_dict(given, strict=False)
    return trunk


def read_package(model: str, wheel: str | Path, file: str, sha256: str | None = None) -> dict[str, Tensor]:
    """A timm model's state dict (without its classifier) from a file of weights inside a package.

    The packages name their tensors after another implementation, but in the same order, so the order maps them; that
    every shape agrees is checked.

    Args:
        model: timm's name.
        wheel: the downloaded package.
        file: the file of weights inside it.
        sha256: what the package's bytes must hash to.

    Raises:
        UserError: another package than expected, no such file, or other tensors than the model's.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found = read_weights(unpack_file(wheel, file, scratch, sha256))
    whole = timm.create_model(model, pretrained=False)
    expected = whole.state_dict()
    shapes = [tuple(value.shape) for value in expected.values()], [tuple(value.shape) for value in found.values()]
    if shapes[0] != shapes[1]:
        raise EncoderError(
            f"The file {file} in {wheel} does not hold {model}",
            config="correct the entry's model or file key",
            option="correct the model or the file in {option}",
        )
    whole.load_state_dict(dict(zip(expected, found.values(), strict=True)))
    whole.reset_classifier(0)
    return whole.state_dict()


TEXT_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def unpack_text_tower(wheel: str | Path, file: str, folder: str | Path, sha256: str | None = None) -> Path:
    """Unpack a sentence encoder (a zip of a transformers folder inside a package) into ``folder``.

    Only the files that the tower needs are taken, by name, so the archive can't write anywhere else.

    Raises:
        UserError: another package than expected, no such file, or an archive without a model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        inner = unpack_file(wheel, file, scratch, sha256)
        with open_zip(inner) as archive:
            present = set(archive.namelist())
            unpack_zip(archive, [name for name in TEXT_FILES if name in present], folder)
    if lacking := {"config.json", "model.safetensors", "tokenizer.json"} - present:
        raise UserError(f"The archive {file} in {wheel} lacks {', '.join(sorted(lacking))}; correct the file key.")
    return Path(folder)


def read_sentence_weights(folder: str | Path) -> dict[str, Tensor]:
    """The weights of a transformers encoder folder, under the encoder's own names.

    Raises:
        UserError: no safe weights in the folder.
    """
    state = read_weights(Path(folder) / "model.safetensors")
    stem = read_json(Path(folder) / "config.json").get("model_type", "")
    state = {name.removeprefix(f"{stem}."): value for name, value in state.items()}
    # Older checkpoints store the positions 0, 1, 2, ..., which are no weights.
    return {name: value for name, value in state.items() if not name.endswith("position_ids")}
