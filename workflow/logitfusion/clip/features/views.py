"""Views of an image for several encoders, from one reading of its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.draws import hash_seed
from logitfusion.clip.data.images import UnreadableImageError, hash_image, read_image
from logitfusion.errors import UserError

# A JPEG is decoded at the smallest scale whose shorter side has so many pixels. That is twice what encoders of up to
# 384 read, and no less than they read of the smallest random crop, so that resizing hardly sees it. One number for all
# of them, so that a feature doesn't depend on which other encoders a run has.
READ_SIDE = 768


class Encoder(Protocol):
    """What features need of an encoder.

    Attributes:
        fingerprint: changes with the weights and the architecture.
        transform: what ``preprocess`` and ``augment`` do, sizes and means included.
        size: height and width of the pictures it reads.
    """

    fingerprint: str
    transform: str
    size: tuple[int, int]

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image as ``[3, h, w]``; called from several threads."""

    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        """A random view ``[3, h, w]``; called from several threads, so it draws from ``generator`` and nothing else."""

    def encode_images(self, images: Tensor) -> Tensor:
        """``[n, 3, h, w]`` on the CPU -> ``[n, D]`` on any device, of any norm but 0."""


@dataclass(frozen=True)
class ViewMaker:
    """Makes views: number 0 is the plain image, any other is random by seed, content and number alone.

    Attributes:
        encoders: by name.
        seed: of the random views.
        max_megapixels: larger images are skipped.
    """

    encoders: Mapping[str, Encoder]
    seed: int
    max_megapixels: float

    def make(self, row: ImageRow, content: str, wanted: Mapping[str, Sequence[int]]) -> dict[str, Tensor] | str:
        """The views that are wanted of each encoder, ``[k, 3, h, w]``, or why the image is skipped.

        Args:
            content: the SHA-256 that the features go under.

        Raises:
            UserError: the file's content is not that any more.
        """
        images: dict[int, Image.Image] = {}
        made = {}
        for name, views in wanted.items():
            encoder = self.encoders[name]
            side = max(READ_SIDE, 2 * max(encoder.size))
            if side not in images:
                try:
                    images[side] = read_image(row, self.max_megapixels, side)
                except UnreadableImageError as error:
                    return str(error)
            made[name] = torch.stack([self._view(images[side], encoder, content, view) for view in views])
        if hash_image(row) != content:
            raise UserError(f"The image {row.path} changed while it was read; run again.")
        return made

    def _view(self, image: Image.Image, encoder: Encoder, content: str, view: int) -> Tensor:
        if view == 0:
            return encoder.preprocess(image)
        return encoder.augment(image, torch.Generator().manual_seed(hash_seed("view", self.seed, content, view)))
