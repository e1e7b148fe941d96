"""Whether a server still has the teacher that began a cache: of its weights nothing else is known than its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from logitfusion.distill.cache import differing
from logitfusion.distill.shard import Shard
from logitfusion.distill.teacher_text import TeacherText
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
        distance = _distance(now, shard.read(places[text.digest]))
        if distance > _MOST:
            raise UserError(
                f"The server now has another model than when {shard.path} was made: its log-probabilities of a text"
                f" differ by {distance:.2f} in the mean; serve that model again, or give another folder."
            )
        return


class Watched:
    """What reads texts, and asks for one of the first again where the server was away: it may be another since then.

    Args:
        read: asks for texts.
        faults: how often the server was busy or not reached so far.
    """

    def __init__(self, read: Callable[..., list[TeacherText]], faults: Callable[[], int]) -> None:
        self._read, self._faults = read, faults
        self._known: tuple[EncodedText, TeacherText] | None = None

    def read(self, texts: Sequence[EncodedText], on_text: Callable[[int], None] | None = None) -> list[TeacherText]:
        """As the other does.

        Raises:
            UserError: also where the answers are of several models.
        """
        before = self._faults()
        found = self._read(texts, on_text=on_text)
        if self._known is None:
            self._known = max(islice(zip(texts, found, strict=True), _TRIED), key=lambda pair: len(pair[1]))
        text, then = self._known
        if self._faults() > before and len(then):
            distance = _distance(self._read([text])[0], then)
            if distance > _MOST:
                raise UserError(
                    "The server was away and has another model now: its log-probabilities of a text differ by"
                    f" {distance:.2f} in the mean; serve the first one again, and run the same again: what is whole is"
                    " kept."
                )
        return found


def _distance(now: TeacherText, then: TeacherText) -> float:
    """Nats by which the log-probabilities of a text's tokens differ in the mean."""
    one, other = now.label_log_probs, then.label_log_probs
    return torch.where(one == other, 0.0, one - other).abs().mean().item()


def _find_shards(folder: Path, settings: dict[str, Any]) -> list[Shard]:
    """What there is of the cache: whole shards, and pieces of those that are being made."""
    found = []
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("checkpoints/*/*.safetensors")]):
        with suppress(UserError):  # which whoever goes on from it says
            shard = Shard(path, verify=False)
            if differing(shard.manifest, {**shard.manifest, **settings}) is None:
                found.append(shard)
    return found
