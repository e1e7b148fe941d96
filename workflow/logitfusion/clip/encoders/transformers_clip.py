"""A CLIP in a folder of transformers, run by transformers itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel

from logitfusion.clip.encoders.weights import why_unsafe
from logitfusion.errors import UserError
from logitfusion.files import read_json

TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_INTERPOLATION = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as transformers writes them


class TransformersClip(nn.Module):
    """transformers' CLIP under the names that open_clip's has."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm of what cosines are multiplied with."""
        return self.clip.logit_scale

    def encode_image(self, batch: Tensor) -> Tensor:
        """``[n, 3, h, w] -> [n, D]``."""
        return self.clip.get_image_features(pixel_values=batch).pooler_output

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """``[n, L] -> [n, D]``; what follows a text's end counts for nothing."""
        features = self.clip.get_text_features(input_ids=tokens).pooler_output
        return F.normalize(features, dim=-1) if normalize else features


def open_transformers(folder: str | Path) -> tuple[TransformersClip, Any, dict[str, Any]]:
    """The model of a folder (``save_pretrained``, or a snapshot of the hub), its tokenizer, and open_clip's
    description of the pictures that it wants.

    Raises:
        UserError: the weights are not all there, or a tokenizer or pictures that can't be made here.
    """  # fmt: skip
    folder = Path(folder)
    try:
        model, facts = CLIPModel.from_pretrained(
            folder,
            local_files_only=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # for a sentence of our own
            output_loading_info=True,
        )
    except Exception as error:  # transformers, safetensors and pickle each have their own types
        raise UserError(
            f"The CLIP in {folder} can't be read ({why_unsafe(error)}); a folder of transformers needs config.json and"
            " model.safetensors."
        ) from error
    # transformers puts random weights in place of missing ones.
    lacking = sorted({*facts["missing_keys"], *(part[0] for part in facts["mismatched_keys"])})
    if lacking:
        raise UserError(f"The weights in {folder} lack {lacking[0]}, or have it in another shape; download them again.")
    return TransformersClip(model), _tokenizer(folder, model.config.text_config), _preprocess(folder, model.config)


def _tokenizer(folder: Path, text: Any) -> Any:
    """The folder's own tokenizer; without one OpenAI's, if the model has its vocabulary."""
    length = text.max_position_embeddings
    if any(all((folder / name).is_file() for name in names) for names in TOKENIZERS):
        return HFTokenizer(str(folder), context_length=length, local_files_only=True)
    openai = SimpleTokenizer(context_length=length)
    if openai.vocab_size != text.vocab_size:
        raise UserError(
            f"The folder {folder} has no tokenizer, and its vocabulary of {text.vocab_size:,} is not OpenAI's; put its"
            " tokenizer.json there."
        )
    return openai


def _preprocess(folder: Path, config: Any) -> dict[str, Any]:
    """What the folder's image processor does, in open_clip's words; without one it is OpenAI's.

    Raises:
        UserError: it does what open_clip has no words for.
    """
    asked = _processor(folder)
    side = config.vision_config.image_size
    size, crop = _sides(asked.get("size") or side), _sides(asked.get("crop_size") or side)
    cropped = asked.get("do_center_crop", True)
    mode = "shortest" if "shortest_edge" in size else "squash"
    given = crop if cropped and mode == "shortest" else size
    known = asked.get("do_resize", True) and set(size.values()) == set(given.values()) == {side}
    scaled = asked.get("do_rescale", True) and math.isclose(
        asked.get("rescale_factor") or 1 / 255, 1 / 255, rel_tol=1e-3
    )
    interpolation = _INTERPOLATION.get(asked.get("resample", 3))
    if not known or not scaled or interpolation is None:
        raise UserError(
            f"The pictures that {folder} asks for (size {size}, crop {crop}) are not ones that its model of {side}"
            " pixels can be given here, with values from 0 to 1; correct its preprocessor_config.json."
        )
    normal = asked.get("do_normalize", True)
    seen = {"size": side, "resize_mode": mode, "interpolation": interpolation}
    if "image_mean" in asked or not normal:
        seen["mean"] = tuple(asked["image_mean"]) if normal else (0.0, 0.0, 0.0)
        seen["std"] = tuple(asked["image_std"]) if normal else (1.0, 1.0, 1.0)
    return seen


def _processor(folder: Path) -> dict[str, Any]:
    """What the folder says of pictures; nothing if it says nothing.

    Raises:
        UserError: it says it in another form than transformers.
    """
    file = next((folder / name for name in PROCESSORS if (folder / name).is_file()), None)
    if file is None:
        return {}
    asked = read_json(file)
    asked = asked.get("image_processor", asked) if isinstance(asked, dict) else asked
    forms = {"size": (int, dict), "crop_size": (int, dict), "rescale_factor": (int, float)}
    right = isinstance(asked, dict) and all(
        isinstance(asked.get(name, 1), form) for name, form in forms.items() if asked.get(name) is not None
    )
    if not right or (asked.get("do_normalize", True) and ("image_mean" in asked) != ("image_std" in asked)):
        raise UserError(f"{file} is not what transformers writes of an image processor; download it again.")
    return asked


PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def _sides(size: Any) -> dict[str, int]:
    """A size as transformers writes it: a number means the shorter side, or both sides of a crop."""
    return {"shortest_edge": size} if isinstance(size, int) else {name: value for name, value in size.items() if value}
