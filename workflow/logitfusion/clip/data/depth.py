"""16-bit samples as 8 bits, by their own range: cameras and microscopes leave the upper bits empty."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from logitfusion.clip.data.formats import readable_formats

DEPTHS = (8, 10, 12, 14, 16)  # bits of a sample, as sensors and scanners have them
OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def reduce_depth(deep: np.ndarray) -> np.ndarray:
    """uint16 of any shape to uint8, by the fewest bits of ``DEPTHS`` that hold all samples."""
    bits = next(bits for bits in DEPTHS if int(deep.max()) < 1 << bits)
    return (deep >> (bits - 8)).astype(np.uint8)


def scale_colours(image: Image.Image, file: Path | io.BytesIO, raw_mode: str) -> Image.Image:
    """The picture in colour, bright if its file holds fewer bits than the 16 of a sample.

    Pillow keeps the upper byte of each colour, where 12 bits leave next to nothing. Read in the other order of bytes,
    the same file gives the lower one.

    Args:
        image: as Pillow read it.
        file: of the image, to read it again.
        raw_mode: how its first tile was read (``raw_mode_of``).
    """
    if image.mode != "RGB" or not raw_mode.startswith("RGB;16"):
        return image
    upper = np.asarray(image)
    if int(upper.max()) >= 1 << (DEPTHS[-2] - 8):
        return image
    if isinstance(file, io.BytesIO):
        file.seek(0)
    with Image.open(file, formats=readable_formats()) as again:
        again.tile = [_other_order(tile) for tile in again.tile]
        again.load()
        deep = upper.astype(np.uint16) << 8 | np.asarray(again)
    return Image.fromarray(reduce_depth(deep))


def raw_mode_of(image: Image.Image) -> str:
    """How Pillow is to read the samples of an open image, ``RGB;16B`` say; empty if that is not known."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _other_order(tile: object) -> object:
    """The tile with its samples' bytes swapped."""
    arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    swapped = arguments[0][:-1] + OTHER_ORDER[arguments[0][-1]]
    return tile._replace(args=(swapped, *arguments[1:]) if isinstance(tile.args, tuple) else swapped)
