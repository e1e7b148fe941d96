"""Reading an image as RGB, whatever is in the file; what can't be read is skipped by name and counted."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.depth import raw_mode_of, reduce_depth, scale_colours
from logitfusion.clip.data.formats import readable_formats
from logitfusion.clip.data.metadata import strip_metadata
from logitfusion.errors import UserError
from logitfusion.files import sha256

MISSING = "missing"  # in place of the hash of an image that can't be opened
LARGEST = 2**29  # bytes of a file that is read whole, to read its pixels without its metadata
MAX_MEGAPIXELS = 64.0  # below Pillow's own guard against decompression bombs, which stays on
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(Exception):
    """One image can't be used; the message says why."""


class TooManyUnreadableError(UserError):
    """More images can't be used than are tolerated. The message names the config's key.

    Attributes:
        fault: the sentence without the key.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(f"{fault}, or raise max_skipped.")
        self.fault = fault


def read_image(row: ImageRow, max_megapixels: float = MAX_MEGAPIXELS, side: int | None = None) -> Image.Image:
    """The image of a row in mode RGB, turned as its EXIF orientation says, on white where it is transparent.

    16 bits are reduced to 8 by their own range; of an animation the first picture is taken. Metadata never
    decide whether the pixels are read.

    Args:
        side: pixels of the shorter side that are enough: a JPEG may be decoded at a half, a quarter or an eighth.

    Raises:
        UnreadableImageError: missing, truncated, of an unknown format, of 32-bit pixels, or larger than
            ``max_megapixels``.
    """
    try:
        if row.index is not None:
            return Image.fromarray(_array_row(row)).convert("RGB")
        return _read_file(Path(row.path), max_megapixels, side)
    except (UnreadableImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # names a file, and others may have the same content
        raise UnreadableImageError("no image that can be read: broken, or of another format") from error
    except OSError as error:
        raise UnreadableImageError((error.strerror or str(error)).lower()) from error
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


def _read_file(path: Path, max_megapixels: float, side: int | None) -> Image.Image:
    """The image of a file; a second time without its metadata if they are what can't be read."""
    if not path.is_file() and path.exists():
        raise UnreadableImageError("no file, but a device, a pipe or the like")
    try:
        return _read_pixels(path, max_megapixels, side)
    except (UnreadableImageError, MemoryError, OSError) as error:
        if not isinstance(error, UnidentifiedImageError):
            raise
        first: Exception = error
    except Exception as error:
        first = error
    bare = strip_metadata(path.read_bytes()) if path.stat().st_size <= LARGEST else None
    if bare is None:
        raise first
    try:
        return _read_pixels(io.BytesIO(bare), max_megapixels, side)
    except UnreadableImageError:
        raise
    except Exception:
        raise first from None


def _read_pixels(file: Path | io.BytesIO, max_megapixels: float, side: int | None) -> Image.Image:
    with Image.open(file, formats=readable_formats()) as image:
        megapixels = image.width * image.height / 1e6
        if megapixels > max_megapixels:
            raise UnreadableImageError(f"{megapixels:.0f} megapixels are more than {max_megapixels:g}")
        if side is not None:
            image.draft(None, (side, side))
        raw_mode = raw_mode_of(image)
        image.load()
        return _to_rgb(_turn(image, scale_colours(image, file, raw_mode)))


def _turn(image: Image.Image, picture: Image.Image) -> Image.Image:
    """The picture as the image's EXIF says where that can be read; Pillow's own function writes it anew, or fails."""
    try:
        turn = TURNS.get(int(image.getexif().get(ExifTags.Base.Orientation, 1)))
    except Exception:  # the parser raises whatever the file makes it to
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts at 255 instead of scaling.
        return Image.fromarray(reduce_depth(np.asarray(image))).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnreadableImageError("32-bit pixels, whose range is not known")
    return flatten(image)


def flatten(image: Image.Image) -> Image.Image:
    """A picture in RGB; what is transparent becomes white (a plain conversion would show what was hidden under it)."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _array_row(row: ImageRow) -> np.ndarray:
    """An image of an array file; opened anew each time, since a file may be replaced."""
    image = np.load(row.path, mmap_mode="r", allow_pickle=False)[row.index]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or 0 in image.shape:
        raise UnreadableImageError(f"{image.dtype} {list(image.shape)} in an array file, not uint8 [h, w] or [h, w, 3]")
    return np.ascontiguousarray(image)


def thumbnail(row: ImageRow, size: int, form: str = "PNG") -> bytes | None:
    """An image of at most ``size`` pixels a side, in a form that Pillow writes; None if it can't be read."""
    try:
        image = read_image(row, side=2 * size)
    except UnreadableImageError:
        return None
    image.thumbnail((size, size))
    content = io.BytesIO()
    image.save(content, form, **({"optimize": True} if form == "PNG" else {}))
    return content.getvalue()


def hash_image(row: ImageRow) -> str:
    """The SHA-256 of an image's bytes in hex; ``MISSING`` if there are none to read."""
    try:
        if row.index is not None:
            return hashlib.sha256(_array_row(row)).hexdigest()
        return sha256(row.path)
    except MemoryError:
        raise
    except Exception:  # numpy's reader of headers raises whatever a file makes it to
        return MISSING


def check_skipped(skipped: dict[str, str], total: int, limit: float) -> None:
    """Refuse more skipped images (id -> why) than the share ``limit`` of ``total``.

    Raises:
        TooManyUnreadableError: these are too many; the first few are named.
    """
    if len(skipped) > limit * total:
        first = "; ".join(f"{name} ({reason})" for name, reason in list(skipped.items())[:3])
        raise TooManyUnreadableError(
            f"{len(skipped)} of {total} images can't be read, more than the share {limit:g} that is allowed: {first};"
            " repair or remove them"
        )
