"""Features of a user's images, with a bar of those that have to be encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.images import TooManyUnreadableError
from logitfusion.clip.features.encode import Encoded, Split, encode_images
from logitfusion.clip.features.views import Encoder
from logitfusion.errors import UserError


def encode_with_bar(
    rows: Sequence[ImageRow],
    encoders: Mapping[str, Encoder],
    folder: Path | None,
    *,
    split: Split,
    views: int = 1,
    seed: int = 0,
    batch_size: int,
    max_skipped: float,
) -> Encoded:
    """``encode_images``, of which people see how far it is."""
    with tqdm(unit=" images", desc="features", disable=None, delay=0.1) as bar:  # none if all are known

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            return encode_images(
                rows,
                encoders,
                folder,
                split=split,
                views=views,
                seed=seed,
                batch_size=batch_size,
                max_skipped=max_skipped,
                progress=show,
            )
        except TooManyUnreadableError as error:
            raise UserError(f"{error.fault}, or raise --max-skipped.") from error
