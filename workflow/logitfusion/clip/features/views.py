"""Images to unit features: decoding and transforming ahead in threads, encoding in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.draws import hash_seed
from logitfusion.clip.data.images import UnreadableImageError, read_image
from logitfusion.clip.features.files import Stored
from logitfusion.errors import UserError


class Encoder(Protocol):
    """What features need of an encoder.

    Attributes:
        fingerprint: changes with the weights and the architecture.
        transform: what ``preprocess`` and ``augment`` do, sizes and means included.
    """

    fingerprint: str
    transform: str

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image as ``[3, h, w]``; called from several threads."""

    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        """A random view ``[3, h, w]``; called from several threads, so it draws from ``generator`` and nothing else."""

    def encode_images(self, images: Tensor) -> Tensor:
        """``[n, 3, h, w]`` on the CPU -> ``[n, D]`` on any device, of any norm but 0."""


@dataclass(frozen=True)
class Views:
    """Which views are made of an image.

    Attributes:
        count: 1 for the plain image; each further one is a random augmentation.
        seed: with the image's id and the view's number, it alone decides a random view.
        max_megapixels: larger images are skipped.
    """

    count: int
    seed: int
    max_megapixels: float

    def make(self, row: ImageRow, encoder: Encoder) -> Tensor | str:
        """``[count, 3, h, w]``, or why the image is skipped."""
        try:
            image = read_image(row, self.max_megapixels)
        except UnreadableImageError as error:
            return str(error)
        made = [encoder.preprocess(image)]
        for view in range(1, self.count):
            generator = torch.Generator().manual_seed(hash_seed("view", self.seed, row.id, view))
            made.append(encoder.augment(image, generator))
        return torch.stack(made)


def encode_rows(
    rows: Sequence[ImageRow],
    encoder: Encoder,
    views: Views,
    *,
    batch_size: int,
    pool: ThreadPoolExecutor,
    progress: Callable[[int], None],
) -> Stored:
    """Unit features of the rows in fp16, ``[n, views, D]``; at most ``batch_size`` views are encoded at a time.

    Args:
        progress: called with the number of rows done after every batch.

    Raises:
        UserError: a feature that is zero or not finite; its image is named.
    """
    step = max(1, batch_size // views.count)
    batches = [rows[start : start + step] for start in range(0, len(rows), step)]
    values, labels, ids, done = [torch.zeros(0, views.count, 0)], [], [], 0
    skipped: dict[str, str] = {}
    for batch, made in _made_ahead(batches, encoder, views, pool):
        skipped |= {row.id: reason for row, reason in zip(batch, made, strict=True) if isinstance(reason, str)}
        read = [(row, images) for row, images in zip(batch, made, strict=True) if not isinstance(images, str)]
        if read:
            with torch.inference_mode():
                encoded = encoder.encode_images(torch.cat([images for _, images in read])).float().cpu()
            values.append(_unit(encoded.unflatten(0, (len(read), views.count)), [row.id for row, _ in read]))
            labels += [row.label for row, _ in read]
            ids += [row.id for row, _ in read]
        done += len(batch)
        progress(done)
    return Stored(join(values), torch.tensor(labels, dtype=torch.int64), ids, skipped)


def join(values: Sequence[Tensor]) -> Tensor:
    """One tensor of several, where empty ones don't know D."""
    known = [value for value in values if len(value)]
    return torch.cat(known) if known else values[0].half()


def _made_ahead(
    batches: Sequence[Sequence[ImageRow]], encoder: Encoder, views: Views, pool: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[ImageRow], list[Tensor | str]]]:
    """Each batch with its views; the next batch is made while one is encoded, never more."""

    def submit(batch: Sequence[ImageRow]) -> list[Future[Tensor | str]]:
        return [pool.submit(views.make, row, encoder) for row in batch]

    ahead = submit(batches[0])
    for place, batch in enumerate(batches):
        futures, ahead = ahead, submit(batches[place + 1]) if place + 1 < len(batches) else []
        yield batch, [future.result() for future in futures]


def _unit(values: Tensor, ids: Sequence[str]) -> Tensor:
    """Unit vectors in fp16."""
    norms = values.norm(dim=-1, keepdim=True)
    wrong = ~(norms.isfinite() & (norms > 0)).all(1).squeeze(-1)
    if wrong.any():
        raise UserError(
            f"The encoder gives the image {ids[int(wrong.nonzero()[0, 0])]!r} a feature that is zero or not finite;"
            " use fp32 or another encoder."
        )
    return (values / norms).half()
