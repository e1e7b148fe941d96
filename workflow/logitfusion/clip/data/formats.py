"""Which files are images that can be read here, by the endings of their names, and why the others are not."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import Image

# Pillow recognises these, but has no decoder of its own: it needs a program that runs what is in the file, Windows, or
# a handler that somebody registers.
WITHOUT_DECODER = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
PACKAGES = {"heic": "pillow-heif", "heif": "pillow-heif", "hif": "pillow-heif", "jxl": "pillow-jxl-plugin"}
RAW = frozenset({"arw", "cr2", "cr3", "dng", "nef", "nrw", "orf", "pef", "raf", "raw", "rw2", "srw", "x3f"})


@cache
def image_suffixes() -> frozenset[str]:
    """The endings, small and with their dot, of what Pillow and the plug-ins that are installed decode here."""
    Image.init()
    register_plugins()
    found = {suffix for suffix, form in Image.registered_extensions().items() if form in Image.OPEN}
    lost = {suffix for suffix, form in Image.registered_extensions().items() if form in WITHOUT_DECODER}
    return frozenset(found - lost | {".mpo"})  # a JPEG to Pillow, which has no opener of this name


@cache
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of what it decodes by itself; others it would hand on, whatever a file's name says it is."""
    Image.init()
    register_plugins()
    return tuple(name for name in Image.OPEN if name not in WITHOUT_DECODER)


@cache
def register_plugins() -> None:
    """Apple's HEIC and JPEG XL, where somebody installed a reader."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401


def why_no_image(file: Path) -> str | None:
    """None for an image, by its name; else why it is none."""
    suffix = file.suffix.lower()
    if suffix in image_suffixes():
        return None
    ending = suffix.removeprefix(".")
    if ending in PACKAGES:
        return f"{ending.upper()} is not read here: install the Python package {PACKAGES[ending]}, or save as JPEG"
    if ending in RAW:
        return "a camera's raw data; export it as JPEG or TIFF"
    if ending == "svg":
        return "a drawing (SVG), not pixels; export it as PNG"
    if ending in ("eps", "ps", "pdf", "ai"):
        return "a printed page, not pixels; export it as PNG"
    return f"no image, to go by its ending {suffix}" if suffix else "no image, to go by its name, which has no ending"
