"""Encoding what is not known yet: views are made ahead in threads, encoded in batches, and kept after every piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.features.cache import Cache, Table
from logitfusion.clip.features.views import Encoder, ViewMaker
from logitfusion.errors import UserError

PIECE = 256  # images between two files of the cache

Made = dict[str, Tensor] | str  # the views for each encoder, or why there are none
Wanted = tuple[ImageRow, str, dict[str, list[int]]]  # an image, its content, and the views each encoder lacks


def compute_missing(
    images: Mapping[str, ImageRow],
    maker: ViewMaker,
    tables: Mapping[str, Table],
    caches: Mapping[str, Cache],
    *,
    batch_size: int,
    pool: ThreadPoolExecutor,
    progress: Callable[[int, int], None],
) -> Iterator[dict[str, str]]:
    """Encode the views that the tables lack into them, and keep them in the caches.

    Batches are cut by the places of images among all, so that a call that goes on after another was stopped makes the
    same ones.

    Args:
        images: content -> an image that has it.
        maker: of the encoders that ``tables`` and ``caches`` go by the names of.
        progress: called with the images done and their number, of those that lack something.

    Yields:
        After every piece, the contents in it that can't be read -> why.

    Raises:
        UserError: a feature that is zero or not finite, or an image that changed meanwhile.
    """
    batches, ends = _batches(images, tables, batch_size)
    done, total, skipped = 0, sum(map(len, batches)), {}
    if total:
        progress(0, total)
    fresh: dict[str, list[tuple[int, int]]] = {name: [] for name in tables}
    for number, (batch, made) in enumerate(_made_ahead(batches, maker, pool)):
        skipped |= {wanted[1]: reason for wanted, reason in zip(batch, made, strict=True) if isinstance(reason, str)}
        read = [(wanted, views) for wanted, views in zip(batch, made, strict=True) if not isinstance(views, str)]
        for name, table in tables.items():
            fresh[name] += _encode(name, read, maker.encoders[name], table, batch_size)
        done += len(batch)
        progress(done, total)
        if number in ends:
            for name, cache in caches.items():
                if fresh[name]:
                    cache.keep(tables[name], *torch.tensor(fresh[name]).T)
            fresh = {name: [] for name in tables}
            yield skipped
            skipped = {}


def _batches(
    images: Mapping[str, ImageRow], tables: Mapping[str, Table], batch_size: int
) -> tuple[list[list[Wanted]], set[int]]:
    """What is to be done, in batches, and the numbers of those that end a piece."""
    contents, batches, ends = list(images), [], set()
    step = max(1, batch_size // max(table.known.shape[1] for table in tables.values()))
    for start in range(0, len(contents), PIECE):
        piece = contents[start : start + PIECE]
        for place in range(0, len(piece), step):
            batch = []
            for content in piece[place : place + step]:
                lacking = {name: views for name, table in tables.items() if (views := table.missing(content))}
                batch += [(images[content], content, lacking)] if lacking else []
            batches += [batch] if batch else []
        ends.add(len(batches) - 1)
    return batches, ends


def _made_ahead(
    batches: Sequence[list[Wanted]], maker: ViewMaker, pool: ThreadPoolExecutor
) -> Iterator[tuple[list[Wanted], list[Made]]]:
    """Each batch with its views; the next batch is made while one is encoded, never more."""

    def submit(number: int) -> list[Future[Made]]:
        return [pool.submit(maker.make, *wanted) for wanted in batches[number]] if number < len(batches) else []

    ahead = submit(0)
    for number, batch in enumerate(batches):
        futures, ahead = ahead, submit(number + 1)
        yield batch, [future.result() for future in futures]


def _encode(
    name: str, read: Sequence[tuple[Wanted, dict[str, Tensor]]], encoder: Encoder, table: Table, batch_size: int
) -> list[tuple[int, int]]:
    """Encode a batch's views for one encoder into its table; their contents' places and their numbers."""
    named = [
        (row.id, table.place[content], view) for (row, content, lacking), _ in read for view in lacking.get(name, ())
    ]
    if not named:
        return []
    pictures = torch.cat([views[name] for _, views in read if name in views])
    with torch.inference_mode():
        values = torch.cat([encoder.encode_images(some).float().cpu() for some in pictures.split(batch_size)])
    ids, places, views = zip(*named, strict=True)
    table.put(torch.tensor(places), torch.tensor(views), _unit(values, ids))
    return list(zip(places, views, strict=True))


def _unit(values: Tensor, ids: Sequence[str]) -> Tensor:
    """Unit vectors."""
    norms = values.norm(dim=-1, keepdim=True)
    wrong = ~(norms.isfinite() & (norms > 0))[:, 0]
    if wrong.any():
        raise UserError(
            f"The encoder gives the image {ids[int(wrong.nonzero()[0, 0])]!r} a feature that is zero or not finite;"
            " use fp32 or another encoder."
        )
    return values / norms
