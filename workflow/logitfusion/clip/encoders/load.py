"""Frozen encoders: a CLIP, and the auxiliary image encoders that correct it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import torchvision
from open_clip.factory import get_model_config
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.utils import to_2tuple
from open_clip.zero_shot_classifier import build_zero_shot_classifier
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import Compose
from torchvision.transforms.functional import normalize, pil_to_tensor

from logitfusion.clip.data.images import flatten
from logitfusion.clip.encoders.checkpoint import no_warnings, open_checkpoint
from logitfusion.clip.encoders.entries import find_in_folder
from logitfusion.clip.encoders.errors import EncoderError
from logitfusion.clip.encoders.hub import (
    check_torchvision,
    clip_weights,
    fetch_weights,
    timm_weights,
    torchvision_weights,
    wrong_weights,
)
from logitfusion.clip.encoders.towers import drop_head, fill, make_trunk, read_package, strip_prefix
from logitfusion.clip.encoders.transformers_clip import open_transformers
from logitfusion.clip.encoders.weights import read_weights
from logitfusion.errors import UserError
from logitfusion.files import read_json
from logitfusion.integrity import check_files
from logitfusion.models.finite import find_not_finite
from logitfusion.models.load import choose_device, first_line

logger = logging.getLogger(__name__)

AUGMENTATION = "crop of half to all of the area, bicubic, flip"  # part of every transform; change it with the code


@dataclass(frozen=True)
class ImageEncoder:
    """A frozen image encoder and the pictures it wants.

    Attributes:
        name: what tables call it.
        model: in evaluation mode, ``[n, 3, h, w] -> [n, D]``.
        preprocess: a picture -> ``[3, h, w]``, always the same.
        size: height and width of what the model reads.
        mean: what is subtracted from each channel, of values from 0 to 1.
        std: what each channel is then divided by.
        transform: what ``preprocess`` and ``augment`` do, as JSON.
    """

    name: str
    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    transform: str

    @torch.inference_mode()
    def encode_images(self, batch: Tensor) -> Tensor:
        """Unit-norm features ``[n, D]`` (fp32, on the model's device) of preprocessed pictures ``[n, 3, h, w]``."""
        features = self._features(batch.to(next(self.model.parameters()).device))
        return F.normalize(features.flatten(1).float(), dim=-1)

    def _features(self, batch: Tensor) -> Tensor:
        return self.model(batch)

    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        """One of AMU-Tuning's random views, ``[3, h, w]``: half to all of the area, bicubic, flipped half of the time.

        All randomness comes from ``generator``, so that threads don't disturb each other.
        """
        image = flatten(image)
        left, top, width, height = draw_crop(image.width, image.height, generator)
        image = image.resize(self.size[::-1], Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        if torch.rand((), generator=generator) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return normalize(pil_to_tensor(image).float() / 255, list(self.mean), list(self.std))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the architecture, the weights and the preprocessing; where they came from doesn't count."""
        # The architecture counts because activations (QuickGELU or GELU) leave no trace in the weights.
        digest = hashlib.sha256(json.dumps([self.transform, repr(self.model)]).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class ClipEncoder(ImageEncoder):
    """A frozen CLIP: an image encoder with a text tower in the same space.

    Attributes:
        tokenizer: open_clip's, texts -> token ids.
    """

    tokenizer: Callable[[Sequence[str]], Tensor]

    def _features(self, batch: Tensor) -> Tensor:
        return self.model.encode_image(batch)

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Zero-shot weights ``[D, C]`` (fp32, on the model's device), of unit norm.

        A class's weights are the mean of its unit template embeddings, made unit again.

        Args:
            class_names: what the classes are called in a sentence.
            templates: sentences with ``{}`` in place of the class.

        Raises:
            UserError: no class, no template, or a template without ``{}``.
        """
        if not class_names or not templates:
            raise UserError("A zero-shot classifier needs class names and templates; give at least one of each.")
        for template in templates:
            if "{}" not in template:
                raise UserError(f"The template {template!r} has no {{}} for the class; add it.")
        device = next(self.model.parameters()).device
        weights = build_zero_shot_classifier(self.model, self.tokenizer, class_names, templates, device=device).float()
        if not weights.isfinite().all():
            raise UserError(
                f"{self.name} gives texts features that are not finite; its weights are damaged, use others."
            )
        return weights

    @property
    def scale(self) -> float:
        """The temperature of CLIP's softmax: what cosines are multiplied with, 100 for OpenAI's models.

        Raises:
            UserError: it is too large a number, or 0.
        """
        scale = float(self.model.logit_scale.detach().exp())
        if not 0 < scale < math.inf:
            raise UserError(f"{self.name} multiplies cosines with {scale}; its weights are damaged, use others.")
        return scale


MAIN = "main"  # the branch of the hub, of an entry that gives no revision


def load_clip(entry: dict[str, Any], *, device: torch.device | None = None) -> ClipEncoder:
    """A CLIP from one of four sources.

    Args:
        entry: ``{source: open_clip, model, pretrained, revision}`` (a tag of open_clip, at a revision of the hub);
            ``{source: path, model, path, quick_gelu}`` (a checkpoint of one of open_clip's models; ``quick_gelu`` says
            whether it was trained with that activation, where neither file nor model do; or a folder that holds a CLIP,
            without a model); ``{source: built, path}`` (a folder made by ``build_clip``); or ``{source: transformers,
            path}`` (a folder of transformers).

    Raises:
        UserError: no such model, tag or file, no network, or a checkpoint of another model or of no numbers.
    """
    if entry["source"] == "path" and Path(entry["path"]).is_dir():
        entry = find_in_folder(entry["path"])
    named, described = entry.get("model") or Path(entry.get("path", "")).name, None
    match entry["source"]:
        case "open_clip":
            model, tokenizer = _open_tag(named, entry["pretrained"], entry.get("revision", MAIN))
        case "path":
            model, tokenizer = open_checkpoint(entry)
        case "built":
            check_files(entry["path"])
            model, tokenizer = open_folder(entry["path"])
        case "transformers":
            model, tokenizer, described = open_transformers(entry["path"])
        case other:
            raise UserError(f"A CLIP's source can't be {other!r}; it is one of open_clip, path, built, transformers.")
    model = _make_ready(entry.get("name", named), model, device)
    seen = PreprocessCfg(**(described or model.visual.preprocess_cfg))
    size = to_2tuple(seen.size)
    return ClipEncoder(
        name=entry.get("name", named),
        model=model,
        preprocess=Compose([flatten, image_transform_v2(seen, is_train=False)]),
        size=size,
        mean=seen.mean,
        std=seen.std,
        transform=_describe({**asdict(seen), "size": size}),
        tokenizer=tokenizer,
    )


def _make_ready(name: str, model: nn.Module, device: torch.device | None) -> nn.Module:
    """A model on its device, to be read with only.

    Raises:
        UserError: its weights are not finite.
    """
    if found := find_not_finite(model):
        raise UserError(
            f"The weights of {name} hold NaN or infinity (such as {found[0]}), so they are damaged; get them again, or"
            " use others."
        )
    return model.to(device or choose_device()).eval().requires_grad_(False)


def _open_tag(model: str, tag: str, revision: str) -> tuple[nn.Module, Any]:
    weights = clip_weights(model, tag)
    known, trained = get_model_config(model), open_clip.get_pretrained_cfg(model, tag)
    # open_clip only warns when the weights were trained with another activation than the named model has.
    quick = bool(trained.get("quick_gelu")) and not known.get("quick_gelu", False)
    if quick:
        logger.info("%s: the weights %s were trained with QuickGELU, so the model uses it", model, tag)
    (file,) = fetch_weights(weights, revision).files
    # What open_clip does for a tag, but from this file: it knows no revisions.
    seen = {name: value for name, value in trained.items() if name != "size"}
    options = {"force_quick_gelu": quick, "force_preprocess_cfg": seen, "weights_only": True}
    try:
        return open_clip.create_model(model, pretrained=str(file.path), **options), open_clip.get_tokenizer(model)
    except Exception as error:  # of open_clip, torch, and the hub's client, which a tokenizer may be fetched with
        raise EncoderError(
            f"The weights {tag!r} of {model} could not be loaded ({first_line(error)})",
            config="use others, or source: path",
            option="use others, or {option} checkpoint:MODEL:FILE",
        ) from error


def open_folder(folder: str | Path, *, load_weights: bool = True) -> tuple[nn.Module, Any]:
    """The CLIP in a folder of open_clip's ``local-dir:`` kind.

    If its text tower is one of transformers, that tower's config is in the same folder. The folder names no path, so
    it can be moved; open_clip wants one for such a tower, which is given here.

    Raises:
        UserError: the folder holds no readable CLIP.
    """
    folder = Path(folder).absolute()
    config = read_json(folder / "open_clip_config.json")
    try:
        text = dict(config["model_cfg"]["text_cfg"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"The open_clip_config.json in {folder} describes no CLIP; copy the folder again.") from None
    here = {**text, "hf_model_name": str(folder), "hf_model_pretrained": False} if "hf_model_name" in text else text
    loading = {"load_weights": load_weights, "require_pretrained": load_weights, "pretrained_text": False}
    try:
        with no_warnings() if not load_weights else nullcontext():
            model = open_clip.create_model(f"local-dir:{folder}", text_cfg=here, weights_only=True, **loading)
        return model, open_clip.get_tokenizer(f"local-dir:{folder}")
    except Exception as error:
        raise UserError(
            f"The CLIP in {folder} can't be read ({first_line(error)}); delete the folder and build it again."
        ) from error


def load_auxiliary(
    entry: dict[str, Any], *, wheel: str | Path | None = None, device: torch.device | None = None
) -> ImageEncoder:
    """An auxiliary image encoder without its classifier.

    Args:
        entry: ``{source: timm, model, pretrained, revision}``; ``{source: torchvision, model, weights}`` (weights: a
            name such as ``IMAGENET1K_V2``, or null for random ones); ``{source: checkpoint, model, path}`` (a timm or
            torchvision architecture; MoCo v3 and DINO files are understood); or ``{source: package, model, file,
            sha256}``. An optional ``preprocess`` overrides timm's data config: ``input_size`` ([3, h, w]),
            ``crop_pct``, ``mean``, ``std``, ``interpolation``.
        wheel: the downloaded package, for ``source: package``; else the entry's ``path``.

    Raises:
        UserError: no such model or file, no network, or weights of another model or of no numbers.
    """
    model = entry["model"]
    data: dict[str, Any] = {}
    match entry["source"]:
        case "timm":
            trunk = _open_timm(model, entry["pretrained"], entry.get("revision", MAIN))
        case "torchvision":
            trunk, data = _open_torchvision(model, entry["weights"])
        case "checkpoint":
            trunk = fill(make_trunk(model), strip_prefix(read_weights(entry["path"])), str(entry["path"]))
        case "package":
            wheel = wheel or entry.get("path")
            if wheel is None:
                raise ValueError("source: package needs the downloaded package")
            trunk = fill(make_trunk(model), read_package(model, wheel, entry["file"], entry.get("sha256")), str(wheel))
        case other:
            raise UserError(
                f"An auxiliary's source can't be {other!r}; it is one of timm, torchvision, checkpoint, package."
            )
    data = {**resolve_model_data_config(trunk), **data, **entry.get("preprocess", {})}
    return ImageEncoder(
        name=entry.get("name", model),
        model=_make_ready(entry.get("name", model), trunk, device),
        preprocess=Compose([flatten, create_transform(**data, is_training=False)]),
        size=tuple(data["input_size"][1:]),
        mean=data["mean"],
        std=data["std"],
        transform=_describe(data),
    )


def _open_timm(model: str, pretrained: bool, revision: str) -> nn.Module:
    if not pretrained:
        return make_trunk(model)
    weights = timm_weights(model)
    commit = fetch_weights(weights, revision).commit
    try:
        exactly = {"hf_hub_id": f"{weights.id}@{commit}"}
        return timm.create_model(model, pretrained=True, pretrained_cfg_overlay=exactly, num_classes=0)
    except Exception as error:
        raise EncoderError(
            f"The weights of timm's {model} could not be loaded ({first_line(error)})",
            config="use others, or source: checkpoint",
            option="use others, or {option} checkpoint:MODEL:FILE",
        ) from error


def _open_torchvision(model: str, weights: str | None) -> tuple[nn.Module, dict[str, Any]]:
    chosen = None if weights is None else torchvision_weights(model, weights)
    if chosen is not None:
        check_torchvision(chosen.url)
    try:
        trunk = drop_head(torchvision.models.get_model(model, weights=chosen))
    except (KeyError, ValueError):
        raise wrong_weights(model, weights) from None
    except Exception as error:
        raise EncoderError(
            f"The weights {weights} of torchvision's {model} could not be loaded ({first_line(error)})",
            config="check the network, or download the file and use source: checkpoint",
            option="check the network, or download the file and give {option} checkpoint:MODEL:FILE",
        ) from error
    if chosen is None:
        return trunk, {}
    seen = chosen.transforms()
    (crop,), (resize,) = seen.crop_size, seen.resize_size
    return trunk, {
        "input_size": (3, crop, crop),
        "crop_pct": crop / resize,
        "mean": tuple(seen.mean),
        "std": tuple(seen.std),
        "interpolation": seen.interpolation.value,
    }


def draw_crop(width: int, height: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random part of a picture, in pixels.

    Half to all of the area, sides at 3 : 4 to 4 : 3 (uniform in the logarithm): torchvision's RandomResizedCrop with
    ``scale=(0.5, 1)``. A picture so long that no such part fits gives its middle.
    """
    for _ in range(10):
        area = width * height * (0.5 + 0.5 * float(torch.rand((), generator=generator)))
        ratio = (4 / 3) ** (2 * float(torch.rand((), generator=generator)) - 1)
        wide, high = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < wide <= width and 0 < high <= height:
            left = int(torch.randint(width - wide + 1, (), generator=generator))
            top = int(torch.randint(height - high + 1, (), generator=generator))
            return left, top, wide, high
    wide, high = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - wide) // 2, (height - high) // 2, wide, high


def _describe(settings: dict[str, Any]) -> str:
    return json.dumps({**settings, "augmentation": AUGMENTATION}, sort_keys=True)
