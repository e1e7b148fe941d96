"""Whether a server still has the teacher that began a cache: of its weights nothing else is known than its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from logitfusion.distill.cache import differing
from logitfusion.distill.shard import Shard, TeacherText
from logitfusion.distill.texts import EncodedText, text_digests
from logitfusion.errors import UserError

# Nats by which log-probabilities of a text's own tokens may differ in the mean: half precision and other batches move
# them by some hundredths.
_MOST = 0.25
# Texts of which the longest is asked for.
_TRIED = 32


def refuse_other_teacher(
    read: Callable[[Sequence[EncodedText]], Sequence[TeacherText]],
    texts: Sequence[EncodedText],
    folder: str | Path,
    settings: dict[str, Any],
) -> None:
    """Ask for a text that is in the cache already, the longest of some, and compare.

    Args:
        read: asks for texts.
        texts: of the cache.
        folder: of the cache.
        settings: that the cache is made with.

    Raises:
        UserError: the answers are of another model.
    """
    for shard in _find_shards(Path(folder), settings):
        places = {digest: number for number, digest in enumerate(shard.digests)}
        known = (texts[number] for number, digest in enumerate(text_digests(texts)) if digest in places)
        text = max(islice(known, _TRIED), key=lambda text: len(text.labels), default=None)
        if text is None or not text.labels:
            continue
        (now,) = read([text])
        then = shard.read(places[text.digest]).label_log_probs
        distance = torch.where(now.label_log_probs == then, 0.0, now.label_log_probs - then).abs().mean().item()
        if distance > _MOST:
            raise UserError(
                f"The server now has another model than when {shard.path} was made: its log-probabilities of a text"
                f" differ by {distance:.2f} in the mean; serve that model again, or give another folder."
            )
        return


def _find_shards(folder: Path, settings: dict[str, Any]) -> list[Shard]:
    """What there is of the cache: whole shards, and pieces of those that are being made."""
    found = []
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("checkpoints/*/*.safetensors")]):
        with suppress(UserError):  # which whoever goes on from it says
            shard = Shard(path, verify=False)
            if differing(shard.manifest, {**shard.manifest, **settings}) is None:
                found.append(shard)
    return found
