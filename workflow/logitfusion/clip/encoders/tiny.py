"""A tiny CLIP of random initialisation, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from logitfusion.artefact import write_artefact
from logitfusion.clip.encoders.load import open_folder
from logitfusion.files import write_json
from logitfusion.integrity import RECORD, as_rows, record_files

_CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"},
}


def make_random_clip(folder: str | Path, seed: int) -> None:
    """Write a folder that ``load_clip`` reads (``source: built``), of random weights, into a folder that exists."""
    write_json(Path(folder) / "open_clip_config.json", _CONFIG)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, _ = open_folder(folder, load_weights=False)
    save_file(model.state_dict(), Path(folder) / "open_clip_model.safetensors")
    write_artefact(Path(folder) / RECORD, {"files": as_rows(record_files(Path(folder)))})
