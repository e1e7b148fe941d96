"""The feature cache: what a frozen encoder makes of an image's content, computed once, never mistaken for another's.

A folder for each encoder, named by the hash of all that decides its features; in it files of up to a few hundred views,
each with the content (SHA-256) and the number of every view. No file is changed once it is written, so that several
runs may use a cache at once, and a run that was stopped loses no more than the file it was at.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logitfusion.clip.features.files import (
    need_tensors,
    pack_digests,
    read_tensors,
    unpack_digests,
    write_tensors,
)
from logitfusion.clip.features.views import READ_SIDE, Encoder, ViewMaker
from logitfusion.errors import UserError
from logitfusion.provenance import hash_json

logger = logging.getLogger(__name__)

LAYOUT = 3  # of the files; a change of it invalidates all earlier ones
_TENSORS = {"contents": (torch.uint8, 2), "values": (torch.float16, 2), "views": (torch.int64, 1)}


class Table:
    """Features of some contents in memory, as far as they are known.

    Attributes:
        contents: SHA-256 sums, each once.
        known: ``[n, views]`` bool.
        values: ``[n, views, D]`` fp16; None until one is known, which tells D.
    """

    def __init__(self, contents: Sequence[str], views: int) -> None:
        self.contents = list(contents)
        self.place = {content: place for place, content in enumerate(self.contents)}
        self.known = torch.zeros(len(self.contents), views, dtype=torch.bool)
        self.values: Tensor | None = None

    def put(self, places: Tensor, views: Tensor, values: Tensor) -> None:
        """Note the features ``[m, D]`` of the contents at ``places [m]``, one view of each."""
        if self.values is None:
            self.values = torch.zeros(*self.known.shape, values.shape[-1], dtype=torch.float16)
        self.values[places, views] = values.half()
        self.known[places, views] = True

    def fits(self, contents: Tensor, values: Tensor, views: Tensor) -> bool:
        """Whether ``[m, 32]``, ``[m, D]`` and ``[m]`` can be noted here."""
        dimension = values.shape[1] if self.values is None else self.values.shape[2]
        counts = contents.shape == (len(views), 32) and values.shape == (len(views), dimension)
        return counts and bool((views >= 0).all())

    def missing(self, content: str) -> list[int]:
        """The views of a content that are not known."""
        return (~self.known[self.place[content]]).nonzero()[:, 0].tolist()


@dataclass(frozen=True)
class Cache:
    """The features of one encoder, with one seed of random views.

    Attributes:
        folder: of this encoder.
        description: all that decides its features, as plain JSON values.
        seed: of the random views; the plain ones belong to all seeds.
    """

    folder: Path
    description: dict[str, Any]
    seed: int

    @classmethod
    def of(cls, folder: str | Path, encoder: Encoder, maker: ViewMaker) -> Cache:
        """An encoder's part of the cache ``folder``, of the views that ``maker`` makes."""
        description = {
            "layout": LAYOUT,
            "encoder": encoder.fingerprint,
            "transform": encoder.transform,
            "libraries": {name: version(name) for name in ("pillow", "torch", "torchvision")},  # they decode and resize
            "read_side": READ_SIDE,
            "max_megapixels": maker.max_megapixels,
        }
        return cls(Path(folder) / hash_json(description)[:32], description, maker.seed)

    def fill(self, table: Table) -> None:
        """Note in the table what is known of its contents."""
        for random in (False, True) if table.known.shape[1] > 1 else (False,):
            for path in sorted(self.folder.glob(f"{self._kind(random)}-*.safetensors")):
                self._read(path, table, self._facts(random))

    def keep(self, table: Table, places: Tensor, views: Tensor) -> None:
        """Write views of the table that have become known: contents at ``places [m]``, one view of each."""
        for random in (False, True):
            some = (views > 0) == random
            if some.any():
                tensors = {
                    "contents": pack_digests([table.contents[place] for place in places[some].tolist()]),
                    "values": table.values[places[some], views[some]],
                    "views": views[some],
                }
                # A name of its own: two runs that compute the same never write one file.
                path = self.folder / f"{self._kind(random)}-{secrets.token_hex(8)}.safetensors"
                write_tensors(path, tensors, self._facts(random))

    def _kind(self, random: bool) -> str:
        return f"seed-{self.seed}" if random else "plain"

    def _facts(self, random: bool) -> dict[str, Any]:
        return {**self.description, "seed": self.seed if random else None}

    def _read(self, path: Path, table: Table, facts: dict[str, Any]) -> None:
        """Note what one file knows; one that is damaged, or is not what its name says, is removed."""
        try:
            found, read = read_tensors(path)
            if found != facts:
                raise UserError(f"{path} holds other features than its name says.")
            need_tensors(path, read, _TENSORS)
            if not table.fits(**read):
                raise UserError(f"{path} holds views of other sizes.")
        except UserError:
            logger.warning("The features in %s are damaged, and computed again.", path)
            with suppress(OSError):  # of a folder that others may write into; those who may will remove it
                path.unlink(missing_ok=True)
            return
        places = torch.tensor([table.place.get(content, -1) for content in unpack_digests(read["contents"])])
        wanted = (places >= 0) & (read["views"] < table.known.shape[1])
        if wanted.any():
            table.put(places[wanted], read["views"][wanted], read["values"][wanted])
