"""A teacher's cache, made once and offline: shard by shard, in pieces from which a killed run resumes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from logitfusion.config.distill import Rounding
from logitfusion.distill.cache import PackedTexts, TeacherCache, differing
from logitfusion.distill.shard import SETTINGS, VERSION, Shard, read_manifest, shard_path, write_packed, write_shard
from logitfusion.distill.teacher import check_k, read_teacher, try_reading
from logitfusion.distill.teacher_text import TeacherText
from logitfusion.distill.texts import EncodedText, text_digests
from logitfusion.errors import UserError
from logitfusion.files import read_json, remove, write_json
from logitfusion.files.locks import only_process
from logitfusion.models.architecture import count_vocabulary
from logitfusion.provenance import hash_json
from logitfusion.shards import shard_range

logger = logging.getLogger(__name__)

# Where the texts come from; the other settings of a manifest follow from the call.
SOURCE = ("model_hash", "tokenizer_hash", "vocabulary_hash", "template", "data_hash", "max_tokens")
# Tokens, of prompts too, that are lost at most when a run is killed: minutes on a CPU, seconds on a GPU.
PIECE_TOKENS = 2**17


def cache_teacher(
    model: PreTrainedModel,
    texts: Sequence[EncodedText],
    folder: str | Path,
    *,
    source: dict[str, Any],
    k: int,
    batch_size: int | Literal["auto"],
    rounding: Rounding = "fine",
    shards: int = 1,
    only: Iterable[int] | None = None,
    piece_tokens: int = PIECE_TOKENS,
    on_batch: Callable[[int], None] | None = None,
    on_found: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write a teacher's predictions of texts into the shards of a cache.

    Shards that are there stay. Work on a shard is kept in ``folder/checkpoints``, a piece at a time, until the shard is
    whole: a killed run resumes after the last piece if all that decides the result is the same, else it restarts.

    Args:
        model: the teacher.
        texts: all of them, whichever shards are made.
        folder: of the cache.
        source: the values of ``SOURCE``.
        k: tokens kept of each position.
        batch_size: texts read together; ``"auto"`` halves it where the memory is used up.
        rounding: of log-probabilities.
        shards: files that the texts are spread over: contiguous, numbers of texts differing by at most one.
        only: numbers of the shards to make, from 1 on; by default all.
        piece_tokens: a piece ends with the text that reaches this many tokens.
        on_batch: called with the number of response tokens of each batch that is done.
        on_found: called with the number of response tokens of shards and pieces that were there already.

    Returns:
        The files of the shards of ``only``.

    Raises:
        UserError: options that can't be used, texts that are longer than the model reads, or the folder holds a cache
            of other settings or texts.
    """
    check_k(count_vocabulary(model), k)
    reading = try_reading(model, texts)
    dtype = str(model.dtype).removeprefix("torch.")
    settings = {**source, "k": k, "vocabulary": count_vocabulary(model), "rounding": rounding, "dtype": dtype}
    read = partial(read_teacher, model, k=k, batch_size=batch_size, on_batch=on_batch, reading=reading)
    teaching = Teaching(settings, read, {"batch_size": batch_size})
    return write_cache(teaching, texts, folder, shards=shards, only=only, piece_tokens=piece_tokens, on_found=on_found)


@dataclass(frozen=True)
class Teaching:
    """A teacher as what fills a cache.

    Attributes:
        settings: those of the manifest without ``shards``: the values of ``SOURCE``, and what the teacher says.
        read: the predictions of some texts, in their order.
        made_with: what decides their last digits beside the settings.
    """

    settings: dict[str, Any]
    read: Callable[[Sequence[EncodedText]], Iterable[TeacherText]]
    made_with: dict[str, Any] = field(default_factory=dict)


def write_cache(
    teaching: Teaching,
    texts: Sequence[EncodedText],
    folder: str | Path,
    *,
    shards: int = 1,
    only: Iterable[int] | None = None,
    piece_tokens: int = PIECE_TOKENS,
    on_found: Callable[[int], None] | None = None,
) -> list[Path]:
    """``cache_teacher`` with any teacher."""
    settings = {**teaching.settings, "shards": shards}
    if settings.keys() != set(SETTINGS):
        raise ValueError(f"a source has exactly {', '.join(SOURCE)}, and the settings are {', '.join(settings)}")
    numbers = _number_shards(shards, only, len(texts))
    refuse_other_cache(folder, settings)
    paths = [shard_path(folder, shard, shards) for shard in numbers]
    places = [shard_range(len(texts), shard - 1, shards) for shard in numbers]
    for path, mine in zip(paths, places, strict=True):
        if path.exists():
            _refuse_other_texts(path, texts[mine.start : mine.stop])
    for shard, path, mine in zip(numbers, paths, places, strict=True):
        if path.exists():
            _report(on_found, path)
            continue
        part = texts[mine.start : mine.stop]
        work = path.parent / "checkpoints" / path.stem
        busy = f"{path} is being written by another process; wait until that has ended, and run again."
        with only_process(work.with_suffix(".lock"), busy):
            made_with = {**teaching.made_with, "shard": shard, "piece_tokens": piece_tokens, "version": VERSION}
            _resume(work, {**settings, **made_with, "texts": [text.digest.hex() for text in part]})
            pieces = _make_pieces(teaching.read, _cut(part, piece_tokens), work, settings, on_found)
            place = {"shard": shard, "first_text": mine.start}
            write_packed(path, PackedTexts(TeacherCache(pieces)), {**settings, **place})
            remove(work)
    with suppress(OSError):  # another job's shard may be at work there
        (Path(folder) / "checkpoints").rmdir()
    return paths


def _number_shards(shards: int, only: Iterable[int] | None, texts: int) -> list[int]:
    """The numbers of the shards that are asked for."""
    if not 1 <= shards <= texts:
        raise UserError(f"The number of shards is {shards}, and must be from 1 to the number of texts, {texts}.")
    numbers = sorted(set(range(1, shards + 1) if only is None else only))
    if not set(numbers) <= set(range(1, shards + 1)):
        raise UserError(f"The shards are numbered from 1 to {shards}, and {', '.join(map(str, numbers))} is asked for.")
    return numbers


def refuse_other_cache(folder: str | Path, settings: dict[str, Any]) -> None:
    """Leave a cache alone that was made with other settings.

    Raises:
        UserError: names the file and what differs.
    """
    for path in sorted(Path(folder).glob("*.safetensors")):
        manifest = read_manifest(path)
        field = differing(manifest, {**manifest, **settings})
        if field is not None:
            raise UserError(
                f"{path} is of a cache with other settings ({field} is {manifest[field]!r}, and {settings[field]!r} is"
                " asked for); give another folder, or delete that cache."
            )


def _refuse_other_texts(path: Path, texts: Sequence[EncodedText]) -> None:
    """Leave a shard alone that was made of other texts, whatever its settings say; and one that is damaged."""
    if Shard(path).digests != text_digests(texts):
        raise UserError(f"{path} is of other texts than those that are given; give another folder.")


def _make_pieces(
    read: Callable[[Sequence[EncodedText]], Iterable[TeacherText]],
    parts: list[Sequence[EncodedText]],
    work: Path,
    settings: dict[str, Any],
    on_found: Callable[[int], None] | None,
) -> list[Path]:
    """The files of a shard's pieces, which together are a cache themselves; those that are there stay."""
    paths, first = [], 0
    for number, part in enumerate(parts, start=1):
        path = shard_path(work, number, len(parts))
        if _is_whole(path):
            _report(on_found, path)
        else:
            manifest = {**settings, "shards": len(parts), "shard": number, "first_text": first}
            write_shard(path, read(part), manifest)
        paths.append(path)
        first += len(part)
    return paths


def _is_whole(path: Path) -> bool:
    """Whether a piece is there; one that is damaged is made again."""
    if not path.exists():
        return False
    try:
        Shard(path)
    except UserError as error:
        logger.warning("%s", error)
        remove(path)
        return False
    return True


def _report(on_found: Callable[[int], None] | None, path: Path) -> None:
    if on_found is not None:
        on_found(read_manifest(path)["tokens"])


def _cut(texts: Sequence[EncodedText], tokens: int) -> list[Sequence[EncodedText]]:
    """Texts in runs, each of which ends with the text that reaches this many tokens."""
    runs, start, count = [], 0, 0
    for number, text in enumerate(texts, start=1):
        count += len(text.ids)
        if count >= tokens or number == len(texts):
            runs.append(texts[start:number])
            start, count = number, 0
    return runs


def _resume(work: Path, decisive: dict[str, Any]) -> None:
    """Keep the pieces in a folder if they were made in the same way as the others will be; else empty it."""
    fingerprint = hash_json(decisive)
    record = work / "fingerprint.json"
    try:
        known = read_json(record)["fingerprint"]
    except (UserError, KeyError, TypeError):
        known = None
    if known != fingerprint:
        remove(work)
        write_json(record, {"fingerprint": fingerprint})
