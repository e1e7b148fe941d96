"""Image encoders: random weights of their real sizes, because their names decide them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import open_clip
import timm
import torch
import torchvision
from hub_standin import Makers, Repository
from open_clip.factory import get_model_config
from safetensors.torch import save

from standin.repository import make_repository

CLIPS = {
    "timm/resnet50_clip.openai": "RN50-quickgelu",
    "timm/vit_base_patch16_clip_224.openai": "ViT-B-16-quickgelu",
}
"""Repository that open_clip takes OpenAI's weights from -> its model."""
TRUNKS = ("test_efficientnet.r160_in1k",)
"""Models of timm."""
_SHOWN = (
    "input_size",
    "mean",
    "std",
    "crop_pct",
    "interpolation",
    "num_classes",
    "first_conv",
    "classifier",
    "pool_size",
)


def _make_clip(id: str) -> Repository:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = open_clip.create_model(CLIPS[id])
    halves = {name: one.half() if one.is_floating_point() else one for name, one in made.state_dict().items()}
    config = {"model_cfg": get_model_config(CLIPS[id]), "preprocess_cfg": {}}
    weights = save({name: one.contiguous() for name, one in halves.items()})
    files = {"open_clip_model.safetensors": weights, "open_clip_config.json": json.dumps(config).encode()}
    return make_repository(id, files)


def _make_trunk(name: str) -> Repository:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = timm.create_model(name)
    shown = {key: made.pretrained_cfg[key] for key in _SHOWN if key in made.pretrained_cfg}
    config = {"architecture": name.split(".")[0], "num_features": made.num_features, "pretrained_cfg": shown}
    weights = save({key: one.contiguous() for key, one in made.state_dict().items()})
    files = {"model.safetensors": weights, "config.json": json.dumps(config).encode()}
    return make_repository(f"timm/{name}", files)


MAKERS: Makers = {
    **{("models", id): partial(_make_clip, id) for id in CLIPS},
    **{("models", f"timm/{name}"): partial(_make_trunk, name) for name in TRUNKS},
}


def write_moco(path: Path) -> None:
    """A ResNet-50 as MoCo v3 saves it: ``module.base_encoder.``, a projector in place of ``fc``, an optimizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        trunk = torchvision.models.resnet50(weights=None)
    state = {
        f"module.base_encoder.{name}": one for name, one in trunk.state_dict().items() if not name.startswith("fc.")
    }
    state |= {
        "module.base_encoder.fc.0.weight": torch.zeros(4096, 2048),
        "module.predictor.0.weight": torch.zeros(4, 4),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1000, "arch": "resnet50", "state_dict": state, "optimizer": {}, "scaler": {}}, path)
