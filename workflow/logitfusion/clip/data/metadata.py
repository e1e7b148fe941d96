"""A photo without what is written beside its pixels, for when that keeps a decoder from reading them."""

from __future__ import annotations

import struct
import zlib

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"


def strip_metadata(content: bytes) -> bytes | None:
    """The file with only what its picture needs, and its EXIF where that is whole; None if it is no PNG or JPEG.

    What is broken in the picture itself stays broken.
    """
    if content.startswith(PNG):
        return _strip_png(content)
    return _strip_jpeg(content) if content.startswith(JPEG) else None


def _strip_png(content: bytes) -> bytes:
    """Critical chunks have a capital first letter; of the others transparency and EXIF stay."""
    kept, place = [PNG], len(PNG)
    while place + 8 <= len(content):
        (size,), kind = struct.unpack_from(">I", content, place), content[place + 4 : place + 8]
        chunk = content[place : place + size + 12]
        whole = len(chunk) == size + 12 and zlib.crc32(chunk[4:-4]) == struct.unpack(">I", chunk[-4:])[0]
        if kind[:1].isupper() or (kind in (b"tRNS", b"eXIf") and whole):
            kept.append(chunk)
        place += size + 12
    return b"".join(kept)


def _strip_jpeg(content: bytes) -> bytes:
    """Applications' segments and comments go, but for EXIF and Adobe's, which says what the colours are."""
    kept, place = [JPEG], len(JPEG)
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker == 0xDA:  # the picture itself
            break
        end = place + 2 + struct.unpack_from(">H", content, place + 2)[0]
        segment = content[place:end]
        metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        exif = marker == 0xE1 and segment[4:10] == b"Exif\0\0"
        adobe = marker == 0xEE and segment[4:9] == b"Adobe" and len(segment) >= 16
        if not metadata or exif or adobe:
            kept.append(segment)
        place = end
    return b"".join([*kept, content[place:]])
