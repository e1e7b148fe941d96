"""Fashion-MNIST (Xiao et al., arXiv 1708.07747) out of Debian's package: 60,000 and 10,000 images of 28 x 28."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from logitfusion.clip.data.dataset import PROMPT, DataSet, ImageRow, make_data
from logitfusion.errors import UserError
from logitfusion.fetch.archives import open_gzip, unpack_deb
from logitfusion.files import whole

CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
FILES = {"train": "train", "test": "t10k"}


def read_fashion_mnist(entry: dict[str, Any], package: str | Path, folder: str | Path) -> DataSet:
    """The official split; the images become two array files in ``folder``.

    Keys: optional ``prompts``.

    Raises:
        UserError: the package is not the data set's.
    """
    prompts, parts = entry.get("prompts") or [PROMPT], {}
    with tempfile.TemporaryDirectory() as scratch:
        found = {
            Path(name).name: Path(scratch) / name
            for name in unpack_deb(package, _is_data, scratch, entry.get("sha256"))
        }
        for part, stem in FILES.items():
            images = _read_idx(found, f"{stem}-images-idx3-ubyte.gz", 3, package)
            labels = _read_idx(found, f"{stem}-labels-idx1-ubyte.gz", 1, package)
            if len(images) != len(labels) or labels.max(initial=0) >= len(CLASSES):
                raise UserError(f"The labels in {package} don't fit its {part} images; it is not Fashion-MNIST.")
            array = Path(folder) / f"{part}.npy"
            with whole(array) as temporary, temporary.open("wb") as file:
                np.save(file, images)
            parts[part] = [ImageRow(f"{part}/{i}", str(array), int(label), i) for i, label in enumerate(labels)]
    return make_data("Fashion-MNIST", CLASSES, prompts, parts["train"], parts["test"], "official")


def _is_data(name: str) -> bool:
    return name.endswith("-ubyte.gz")


def _read_idx(found: dict[str, Path], name: str, dimensions: int, package: str | Path) -> np.ndarray:
    """A file of the idx format: two zeros, the type (8: uint8), the rank, each size as a big-endian int32, the data."""
    if name not in found:
        raise UserError(f"The package {package} has no {name}; it is not Debian's dataset-fashion-mnist.")
    try:
        with found[name].open("rb") as packed, open_gzip(packed) as file:
            content = file.read()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{name} in {package} is not readable ({error}); fetch the package again.") from None
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], ">i4") if content[:4] == bytes([0, 0, 8, dimensions]) else None
    if shape is None or len(shape) != dimensions or len(content) != start + shape.astype(np.int64).prod():
        raise UserError(f"{name} in {package} is not an idx file of {dimensions} dimensions; fetch the package again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
