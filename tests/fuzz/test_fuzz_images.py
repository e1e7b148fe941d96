"""Images that are damaged or claim to be huge: read, or refused in the words that a list of skipped images has."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from damage import damage
from outcomes import Case
from PIL import Image
from sizes import inputs

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.images import UnreadableImageError, read_image

Watch = Callable[..., None]
FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"]


def picture(form: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form)
    return content.getvalue()


def read(path: Path, data: bytes) -> Image.Image:
    path.write_bytes(data)
    return read_image(ImageRow("odd", str(path), 0))


def is_picture(found: Image.Image) -> bool:
    return found.mode == "RGB" and found.width > 0 and found.height > 0


@inputs(40, 2000)
@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_image(form: str, inputs: int, tmp_path: Path, watch: Watch) -> None:
    watch(
        Case(name, lambda data=data: read(tmp_path / "odd", data), is_picture, (UnreadableImageError,))
        for name, data in damage(picture(form), form, inputs)
    )


def huge(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG that claims to have this size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def text_bomb(size: int) -> bytes:
    """A PNG of one pixel whose description is so many letters, packed."""
    image = huge(1, 1, bytes(4))
    packed = b"a\0\0" + zlib.compress(b"x" * size)
    chunk = struct.pack(">I", len(packed)) + b"zTXt" + packed + struct.pack(">I", zlib.crc32(b"zTXt" + packed))
    return image[:33] + chunk + image[33:]


def test_an_image_that_claims_too_much(tmp_path: Path, watch: Watch) -> None:
    sizes = [(2**31 - 1, 2**31 - 1), (60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (0, 0), (1, 0), (9000, 9000)]
    odd = {f"{width} x {height}": huge(width, height, bytes(100)) for width, height in sizes}
    odd["a text of 200 MB"] = text_bomb(200 * 2**20)
    watch(
        Case(name, lambda data=data: read(tmp_path / "odd", data), is_picture, (UnreadableImageError,))
        for name, data in odd.items()
    )
